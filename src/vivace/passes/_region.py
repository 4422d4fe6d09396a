"""Finds the parts of an ONNX graph that work on signals (batch, channels, time) in a way that a layout change cannot
alter: one-dimensional convolutions with constant weights and what lies between them. By structure, never by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vivace.core.stage import Array
from vivace.passes._onnx import Graph

# fmt: off
UNARY = frozenset({
    "Abs", "Cos", "Elu", "Erf", "Exp", "Gelu", "Identity", "LeakyRelu", "Log", "Neg", "Relu", "Reciprocal",
    "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh",
})
# fmt: on
BINARY = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum"])
AXIS = frozenset(["Concat", "Split", "Slice"])
CONVOLUTIONS = ("Conv", "ConvTranspose")


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values; strings as text."""
    from onnx import helper

    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def reads(node: Any) -> set[str]:
    """Every tensor that a node needs, also those that only its subgraphs name."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= reads(inner)
        names |= {output.name for output in attribute.g.output}
    return names


def alive(nodes: Sequence[Any], outputs: set[str]) -> list[Any]:
    """The nodes that the outputs need, in order."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed |= reads(node)
    return kept[::-1]


@dataclass(frozen=True)
class Geometry:
    """Kernel size, stride, dilation, padding and groups of a one-dimensional (transposed) convolution."""

    kernel: int
    stride: int
    dilation: int
    left: int
    right: int
    groups: int
    extra: int  # output_padding of a ConvTranspose

    @property
    def span(self) -> int:
        return (self.kernel - 1) * self.dilation


def geometry(node: Any, weight: Array) -> Geometry:
    found = attributes(node)
    left, right = found.get("pads", [0, 0])
    return Geometry(
        weight.shape[2],
        found.get("strides", [1])[0],
        found.get("dilations", [1])[0],
        left,
        right,
        found.get("group", 1),
        found.get("output_padding", [0])[0],
    )


class Shapes:
    """What shape inference knows of a model's tensors."""

    def __init__(self, model: Any) -> None:
        import onnx
        from onnx import TensorProto

        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._known = {
            v.name: [d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim]
            for v in (*inferred.value_info, *inferred.input, *inferred.output)
            if v.type.tensor_type.HasField("shape") and v.type.tensor_type.elem_type == TensorProto.FLOAT
        }

    def signal(self, tensor: str) -> bool:
        """Whether `tensor` is a float tensor of three dimensions."""
        return len(self._known.get(tensor, ())) == 3

    def dim(self, tensor: str, axis: int) -> int | None:
        """A dimension of a signal if it is fixed."""
        return self._known[tensor][axis]


@dataclass(frozen=True)
class Cut:
    """Where time can be split: at `tensor`, on which alone everything in `after` depends, up to `output`.

    `reach` is how many samples of `tensor` on either side an output sample sees; `ratio` is the number of output
    samples for each sample of `tensor`.
    """

    tensor: str
    after: tuple[Any, ...]
    output: str
    reach: int
    ratio: int


class Finder:
    """The layout-safe nodes of one model."""

    def __init__(self, model: Any) -> None:
        self.graph = Graph(model)
        self.shapes = Shapes(model)
        self.outputs = {output.name for output in model.graph.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.graph.nodes:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)

    def regions(self) -> list[list[Any]]:
        """Connected groups of layout-safe nodes that hold at least one convolution, in graph order."""
        safe = [node for node in self.graph.nodes if self.refusal(node) is None]
        group = {id(node): {id(node)} for node in safe}
        made = {name: node for node in safe for name in node.output}
        for node in safe:
            for name in self.signals(node):
                other = made.get(name)
                if other is not None and group[id(other)] is not group[id(node)]:
                    joined = group[id(other)] | group[id(node)]
                    for member in joined:
                        group[member] = joined
        found = {id(members): members for members in group.values()}
        regions = [[node for node in safe if id(node) in members] for members in found.values()]
        return [region for region in regions if any(node.op_type in CONVOLUTIONS for node in region)]

    def signals(self, node: Any) -> list[str]:
        """The inputs of a layout-safe node that are computed."""
        if node.op_type in (*CONVOLUTIONS, "Split", "Slice"):
            return [node.input[0]]
        return [name for name in node.input if self.graph.constant(name) is None]

    def refusal(self, node: Any) -> str | None:
        """Why a change of layout is not proven safe for this node, or None."""
        kind = node.op_type
        if kind not in (*UNARY, *BINARY, *AXIS, *CONVOLUTIONS) or node.domain not in ("", "ai.onnx"):
            return f"{kind} is not known to be independent of the layout"
        if kind in CONVOLUTIONS and (reason := self._convolution(node)):
            return reason
        if kind in ("Split", "Slice") and any(self.graph.constant(name) is None for name in node.input[1:] if name):
            return f"{kind} at computed positions"
        if kind == "Slice" and len(node.input) < 4:
            return "Slice without axes"
        signals = self.signals(node)
        if not signals or not all(self.shapes.signal(name) for name in (*signals, *node.output)):
            return f"{kind} works on tensors that are not known to be (batch, channels, time)"
        if kind in BINARY and any(_rank(self.graph.constant(name)) > 3 for name in node.input):
            return f"{kind} with a constant of more than three dimensions"
        return None

    def _convolution(self, node: Any) -> str | None:
        weight = self.graph.weight(node)
        if weight is None or weight.ndim != 3:
            return "a convolution that is not one-dimensional, or whose weights are not constant float32"
        if len(node.input) > 2 and node.input[2] and self.graph.constant(node.input[2]) is None:
            return "a convolution whose bias is computed"
        found = attributes(node)
        if found.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in found:
            return "a convolution with implicit padding"
        return None

    def cuts(self, region: Sequence[Any]) -> list[Cut]:
        """Where time can be split: one tensor leads into one convolution, and one tensor comes out at the end."""
        needed: set[str] = set()
        inside: set[int] = set()
        leaves: set[str] = set()
        found = []
        for position in range(len(region) - 1, -1, -1):
            node = region[position]
            inside.add(id(node))
            needed = (needed - set(node.output)) | set(self.signals(node))
            for name in node.output:
                readers = self.readers.get(name, ())
                if name in self.outputs or any(id(reader) not in inside for reader in readers):
                    leaves.add(name)
            if len(leaves) == len(needed) == 1 and node.op_type in CONVOLUTIONS:
                cut = self._measured(next(iter(needed)), tuple(region[position:]), next(iter(leaves)))
                found += [cut] if cut is not None else []
        return found

    def _measured(self, tensor: str, after: tuple[Any, ...], output: str) -> Cut | None:
        """Adds up the reach of every layer at that layer's rate; None for a layer that changes length otherwise."""
        zero = Fraction(0)
        seen: dict[str, tuple[Fraction, Fraction, int]] = {tensor: (zero, zero, 1)}
        for node in after:
            known = [seen[name] for name in self.signals(node)]
            left, right, rate = max(k[0] for k in known), max(k[1] for k in known), known[0][2]
            if any(k[2] != rate for k in known) or node.op_type in AXIS:
                return None
            if node.op_type in CONVOLUTIONS:
                weight = self.graph.weight(node)
                assert weight is not None
                g = geometry(node, weight)
                if node.op_type == "Conv":
                    if g.stride != 1 or g.left + g.right != g.span:
                        return None
                    left, right = left + Fraction(g.left, rate), right + Fraction(g.right, rate)
                else:
                    if g.left + g.right - g.extra != g.span + 1 - g.stride:
                        return None
                    step = g.stride * rate
                    left, right = left + Fraction(g.span - g.left, step), right + Fraction(g.left, step)
                    rate = step
            elif any(_length(self.graph.constant(name)) > 1 for name in node.input):
                return None
            for name in node.output:
                seen[name] = (left, right, rate)
        left, right, rate = seen[output]
        return Cut(tensor, after, output, math.ceil(max(left, right, zero)), rate)


def consumers_until(finder: Finder, tensor: str, stop: Iterable[str]) -> list[Any]:
    """The nodes of the kinds in `stop` that `tensor` reaches through other layout-safe nodes."""
    found: list[Any] = []
    todo, seen = [tensor], set()
    while todo:
        for node in finder.readers.get(todo.pop(), ()):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type in stop:
                found.append(node)
            elif finder.refusal(node) is None:
                todo.extend(node.output)
    return found


def _rank(value: Array | None) -> int:
    return 0 if value is None else value.ndim


def _length(value: Array | None) -> int:
    """How many time steps a constant has when it is broadcast against a signal."""
    return 1 if value is None or value.ndim == 0 else int(value.shape[-1])
