"""Rewrites layout-safe regions node by node: two-dimensional convolutions, polyphase upsampling, folded scales,
activations that stay in the runtime's blocked layout, and time laid out in rows. Exact up to float rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vivace.core.stage import Array
from vivace.passes._onnx import COPY, node_name
from vivace.passes._region import BINARY, CONVOLUTIONS, Cut, Finder, Geometry, attributes, geometry, reads

BLOCK = 16  # channels that ONNX Runtime's blocked kernels keep together (with AVX-512; 8 with AVX2)
SCALABLE = ("LeakyRelu", "Relu", "Identity")  # f(s * x) = s * f(x) for every s > 0


@dataclass(frozen=True)
class Length:
    """`times * root + plus` samples, where `root` names a length that is not known."""

    root: str
    times: int = 1
    plus: int = 0


ONE = Length("", 0, 1)


@dataclass(frozen=True)
class Signal:
    """A rewritten tensor (batch, phases * channels, rows, width / phases), to be interleaved, cropped, then scaled.

    `rows` are pieces of time under one another; the dimension is absent if the plan keeps convolutions 1-D.
    """

    name: str
    channels: int | None
    length: Length
    rows: int = 1
    phases: int = 1
    crop: tuple[int, int] = (0, 0)
    scale: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What to do. `blocked` holds the ids of the LeakyRelu and ConvTranspose nodes whose output is to be kept in the
    blocked layout; `cuts` says, by tensor, where time is laid out in `rows`."""

    regions: Sequence[Sequence[Any]]
    conv2d: bool = True
    polyphase: bool = True
    blocked: frozenset[int] = frozenset()
    cuts: tuple[Cut, ...] = ()
    rows: int = 1


class Writer:
    """Writes the nodes of a graph anew: call `run`, then read `nodes`, `constants` and `shapes` (of new tensors)."""

    def __init__(self, finder: Finder, plan: Plan) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.shapes: dict[str, list[int | str | None]] = {}
        self._finder, self._plan, self._graph = finder, plan, finder.graph
        self._safe = {id(node) for region in plan.regions for node in region}
        self._signals: dict[str, Signal] = {}
        self._left: set[str] = set()
        self._taken = {name for node in self._graph.nodes for name in (*node.input, *node.output, node.name)}
        self._cache: dict[tuple[str, bytes], str] = {}
        self._starts: dict[str, tuple[str, str, str]] = {}

    def run(self) -> None:
        for node in self._graph.nodes:
            if id(node) in self._safe:
                self._rewrite(node)
            else:
                for name in sorted(reads(node)):
                    self._leave(name)
                self.nodes.append(node)
        for name in sorted(self._finder.outputs):
            self._leave(name)

    # Writing

    def _name(self, hint: str) -> str:
        found, count = hint, 1
        while found in self._taken:
            count += 1
            found = f"{hint}_{count}"
        self._taken.add(found)
        return found

    def _constant(self, value: Array, hint: str = "layout/constant") -> str:
        from onnx import numpy_helper

        array = np.ascontiguousarray(value).reshape(value.shape)  # ascontiguousarray makes a scalar a vector
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._cache:
            name = self._cache[key] = self._name(hint)
            self.constants[name] = numpy_helper.from_array(array, name)
        return self._cache[key]

    def _integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _emit(self, kind: str, inputs: Sequence[str], name: str, output: str = "", **values: Any) -> str:
        """Adds a node called `name` and returns its output."""
        from onnx import helper

        output = output or self._name(f"{name}/output")
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **values))
        return output

    def _calculate(self, kind: str, *inputs: str, **values: Any) -> str:
        return self._emit(kind, inputs, self._name(f"layout/{kind}"), **values)

    def _axis(self, axis: int) -> int:
        """Where an axis of a (batch, channels, time) tensor is now."""
        axis %= 3
        return 3 if axis == 2 and self._plan.conv2d else axis

    # Signals

    def _read(self, tensor: str) -> Signal:
        if tensor not in self._signals:
            shapes = self._finder.shapes
            length = ONE if shapes.dim(tensor, 2) == 1 else Length(tensor)
            name = tensor
            if self._plan.conv2d:
                name = self._emit("Unsqueeze", [tensor, self._integers(2)], self._name(f"{tensor}/Unsqueeze"))
            self._keep(tensor, Signal(name, shapes.dim(tensor, 1), length))
        return self._signals[tensor]

    def _keep(self, tensor: str, signal: Signal) -> None:
        self._signals[tensor] = signal
        self._describe(signal)
        for cut in self._plan.cuts:
            if cut.tensor == tensor:
                self._signals[tensor] = self._split(self._plain(tensor), cut)

    def _describe(self, signal: Signal) -> None:
        """Tells the runtime which widths are equal: it fuses additions into convolutions only where it knows."""
        if self._plan.conv2d and signal.phases == 1 and signal.channels is not None:
            width = signal.length
            label = f"{width.root}*{width.times}{width.plus:+d}" if width.times else width.plus
            self.shapes[signal.name] = [None, signal.channels, signal.rows, label]

    def _plain(self, tensor: str) -> Signal:
        """The signal in its natural form; computed once."""
        signal = self._read(tensor)
        if signal.phases > 1:
            signal = self._interleave(signal, id(self._graph.producer[tensor]) in self._plan.blocked)
        if signal.scale != 1:
            name = self._calculate("Mul", signal.name, self._constant(np.array(signal.scale, np.float32)))
            signal = replace(signal, name=name, scale=1.0)
        self._describe(signal)
        self._signals[tensor] = signal
        return signal

    def _interleave(self, signal: Signal, blocked: bool) -> Signal:
        """Phases side by side in the channels become neighbours in time. The two transpositions around a reshape are
        what the runtime turns into plain copies of whole channel blocks."""
        assert signal.channels is not None
        flat = [0] if self._plan.conv2d else []
        rank = 3 + len(flat)
        last = self._calculate("Transpose", signal.name, perm=[0, *range(2, rank), 1])
        name = self._calculate("Reshape", last, self._integers(0, *flat, -1, signal.channels))
        left, right = signal.crop
        if (left or right) and not blocked:
            bounds = [self._integers(left), self._integers(-right if right else np.iinfo(np.int64).max)]
            name = self._calculate("Slice", name, *bounds, self._integers(rank - 2))
        name = self._calculate("Transpose", name, perm=[0, rank - 1, *range(1, rank - 1)])
        signal = replace(signal, name=name, phases=1, crop=(0, 0))
        return replace(signal, name=self._stay_blocked(signal, left, right)) if blocked else signal

    def _stay_blocked(self, signal: Signal, left: int = 0, right: int = 0) -> str:
        """Copies by a depth-wise convolution, which unlike other copies the runtime does in its blocked layout, and
        leaves out `left` and `right` samples at the ends of each row."""
        assert signal.channels is not None
        step = math.gcd(left, right) or 1
        weight = np.zeros((signal.channels, 1, 1, (left + right) // step + 1), np.float32)
        weight[..., left // step] = 1
        inputs = [signal.name, self._constant(weight, "layout/keep_blocked")]
        values: dict[str, Any] = {
            "kernel_shape": list(weight.shape[2:]),
            "dilations": [1, step],
            "group": signal.channels,
        }
        return self._emit("Conv", inputs, self._name(COPY), **values)

    def _leave(self, tensor: str) -> None:
        """Gives a rewritten tensor its old name and shape back, for whoever outside the regions reads it."""
        node = self._graph.producer.get(tensor)
        if tensor in self._left or node is None or id(node) not in self._safe:
            return
        self._left.add(tensor)
        signal = self._plain(tensor)
        name = signal.name
        for cut in self._plan.cuts:
            if cut.output == tensor:
                name = self._join(signal, cut)
        if self._plan.conv2d:
            self._emit("Squeeze", [name, self._integers(2)], self._name(f"{tensor}/Squeeze"), tensor)
        else:
            self._emit("Identity", [name], self._name(f"{tensor}/Identity"), tensor)

    # Nodes

    def _rewrite(self, node: Any) -> None:
        tensor = node.output[0]
        if node.op_type in CONVOLUTIONS:
            self._keep(tensor, self._convolution(node))
        elif factor := self._folded(node):
            old = self._read(self._finder.signals(node)[0])
            self._keep(tensor, replace(old, scale=old.scale * factor))
        elif node.op_type in BINARY:
            self._keep(tensor, self._elementwise(node))
        elif node.op_type in ("Concat", "Split", "Slice"):
            self._by_axis(node)
        else:
            self._keep(tensor, self._unary(node))

    def _folded(self, node: Any) -> float | None:
        """The positive constant that the node multiplies by, if all uses of the result end in weights."""
        if node.op_type not in ("Mul", "Div") or not self._absorbed(node.output[0]):
            return None
        value = self._graph.constant(node.input[1])
        if value is None and node.op_type == "Mul":
            value = self._graph.constant(node.input[0])
        if value is None or value.size != 1 or not value.item() > 0:
            return None
        return 1 / float(value.item()) if node.op_type == "Div" else float(value.item())

    def _absorbed(self, tensor: str) -> bool:
        if tensor in self._finder.outputs or any(cut.tensor == tensor for cut in self._plan.cuts):
            return False
        users = self._finder.readers.get(tensor, [])
        return all(
            id(node) in self._safe
            and (node.op_type in CONVOLUTIONS or (node.op_type in SCALABLE and self._absorbed(node.output[0])))
            for node in users
        )

    def _convolution(self, node: Any) -> Signal:
        source = self._read(node.input[0])
        if source.phases > 1:
            source = self._plain(node.input[0])
        weight = self._graph.weight(node)
        assert weight is not None
        g = geometry(node, weight)
        bias = self._graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        weight = (weight * np.float64(source.scale)).astype(np.float32)
        made = replace(source, scale=1.0)
        before = source.length
        if node.op_type == "ConvTranspose":
            times = before.times * g.stride
            plus = (before.plus - 1) * g.stride + g.span + 1 + g.extra - g.left - g.right
            made = replace(made, channels=weight.shape[1] * g.groups, length=Length(before.root, times, plus))
            crop = (g.left, -g.kernel % g.stride + g.right - g.extra)
            if not (self._plan.polyphase and g.stride > 1 and g.groups == g.dilation == 1 and crop[1] >= 0):
                return replace(made, name=self._convolve("ConvTranspose", node, source, weight, bias, g))
            weight, bias = phase_weights(weight, bias, g.stride)
            edge = weight.shape[2] - 1
            plain = replace(g, stride=1, left=edge, right=edge, extra=0)
            name = self._convolve("Conv", node, source, weight, bias, plain)
            return replace(made, name=name, phases=g.stride, crop=crop)
        length = replace(before, plus=before.plus + g.left + g.right - g.span)
        made = replace(made, channels=weight.shape[0], length=length if g.stride == 1 else Length(node.output[0]))
        phases = self._packing(weight, g, length)
        if phases > 1:
            weight, bias = packed_weights(weight, bias, phases)
            g = replace(g, stride=phases)
        return replace(made, phases=phases, name=self._convolve("Conv", node, source, weight, bias, g))

    def _packing(self, weight: Array, g: Geometry, length: Length) -> int:
        """How many neighbouring samples a convolution with few outputs should compute as channels to fill a block."""
        plain = g.stride == g.dilation == g.groups == 1 and weight.shape[1] % BLOCK == 0
        if not (self._plan.conv2d and plain and BLOCK % weight.shape[0] == 0):
            return 1
        phases = BLOCK // weight.shape[0]
        return phases if length.times % phases == length.plus % phases == 0 else 1

    def _convolve(self, kind: str, node: Any, source: Signal, weight: Array, bias: Array | None, g: Geometry) -> str:
        one, zero = ([1], [0]) if self._plan.conv2d else ([], [])
        shaped = np.expand_dims(weight, 2) if self._plan.conv2d else weight
        inputs = [source.name, self._constant(shaped, f"{node.input[1]}/layout")]
        if bias is not None:
            inputs.append(self._constant(bias, f"{node.input[2]}/layout"))
        values: dict[str, Any] = {
            "kernel_shape": [*one, weight.shape[2]],
            "strides": [*one, g.stride],
            "dilations": [*one, g.dilation],
            "pads": [*zero, g.left, *zero, g.right],
            "group": g.groups,
        }
        if g.extra:
            values["output_padding"] = [*zero, g.extra]
        return self._emit(kind, inputs, node_name(node), **values)

    def _unary(self, node: Any) -> Signal:
        tensor = node.input[0]
        source = self._read(tensor)
        shared = len(self._finder.readers[tensor]) > 1 or tensor in self._finder.outputs
        keep = id(node) in self._plan.blocked
        if (source.phases > 1 and (shared or keep)) or (source.scale != 1 and node.op_type not in SCALABLE):
            source = self._plain(tensor)
        data = self._stay_blocked(source) if keep else source.name
        return replace(source, name=self._emit(node.op_type, [data], node_name(node), **attributes(node)))

    def _operand(self, name: str) -> str:
        """An input of an elementwise node or of Concat; a constant gets the new dimension too."""
        value = self._graph.constant(name)
        if value is None:
            return self._plain(name).name
        if value.ndim < 2 or not self._plan.conv2d:
            return self._constant(value, f"{name}/layout")
        return self._constant(np.expand_dims(value, -2), f"{name}/layout")

    def _elementwise(self, node: Any) -> Signal:
        inputs = [self._operand(name) for name in node.input]
        signals = [self._plain(name) for name in self._finder.signals(node)]
        lengths = {signal.length for signal in signals} - {ONE}
        constants = [value for name in node.input if (value := self._graph.constant(name)) is not None]
        wide = any(value.ndim and value.shape[-1] > 1 for value in constants)
        length = lengths.pop() if len(lengths) == 1 and not wide else Length(node.output[0])
        name = self._emit(node.op_type, inputs, node_name(node), **attributes(node))
        channels = self._finder.shapes.dim(node.output[0], 1)
        return replace(signals[0], name=name, channels=channels, length=length)

    def _by_axis(self, node: Any) -> None:
        """Concat, Split and Slice, whose axes move."""
        from onnx import helper

        values = attributes(node)
        inputs = [self._plain(node.input[0]).name, *node.input[1:]]
        axis = values.get("axis", 0)
        if node.op_type == "Concat":
            inputs = [self._operand(name) for name in node.input]
        elif node.op_type == "Slice":
            axes = self._graph.constant(node.input[3])
            assert axes is not None
            axis = 2 if any(a % 3 == 2 for a in axes.ravel()) else 1
            inputs[3] = self._integers(*(self._axis(int(a)) for a in axes.ravel()))
        if node.op_type != "Slice":
            values["axis"] = self._axis(axis)
        outputs = [self._name(f"{name}/layout") for name in node.output]
        self.nodes.append(helper.make_node(node.op_type, inputs, outputs, name=node_name(node), **values))
        first = self._read(self._finder.signals(node)[0])
        for old, new in zip(node.output, outputs, strict=True):
            length = Length(old) if axis % 3 == 2 or node.op_type == "Concat" else first.length
            self._keep(old, replace(first, name=new, channels=self._finder.shapes.dim(old, 1), length=length))

    # Time in rows

    def _split(self, signal: Signal, cut: Cut) -> Signal:
        """Lays `rows` overlapping pieces of time under one another, each a share of the length plus what its outputs
        see on either side. Pieces of a short signal overlap more; none is longer than the signal."""
        rows = self._plan.rows
        length = self._calculate("Gather", self._calculate("Shape", signal.name), self._integers(3))
        rounded = self._calculate("Add", length, self._integers(rows - 1))
        share = self._calculate("Div", rounded, self._integers(rows))
        overlap = cut.reach if rows == 2 else 2 * cut.reach
        piece = self._calculate("Min", length, self._calculate("Add", share, self._integers(overlap)))
        offsets = self._calculate("Mul", share, self._integers(*range(rows)))
        early = self._calculate("Max", self._calculate("Sub", offsets, self._integers(cut.reach)), self._integers(0))
        starts = self._calculate("Min", early, self._calculate("Sub", length, piece))
        ends = self._calculate("Add", starts, piece)
        pieces = self._slices([signal.name] * rows, starts, ends)
        name = self._calculate("Concat", *pieces, axis=2)
        first = self._calculate("Sub", offsets, starts)
        stop = self._calculate("Min", self._calculate("Add", offsets, share), length)
        self._starts[cut.tensor] = (first, self._calculate("Sub", stop, starts), name)
        made = replace(signal, name=name, rows=rows, length=Length(f"{cut.tensor}/piece"))
        self._describe(made)
        return made

    def _join(self, signal: Signal, cut: Cut) -> str:
        first, last, _ = self._starts[cut.tensor]
        ratio = self._integers(cut.ratio)
        sources = self._parts(signal.name, axis=2)
        pieces = self._slices(sources, self._calculate("Mul", first, ratio), self._calculate("Mul", last, ratio))
        return self._calculate("Concat", *pieces, axis=3)

    def _slices(self, sources: Sequence[str], starts: str, ends: str) -> list[str]:
        bounds = zip(sources, self._parts(starts, axis=0), self._parts(ends, axis=0), strict=True)
        return [self._calculate("Slice", source, a, b, self._integers(3)) for source, a, b in bounds]

    def _parts(self, tensor: str, axis: int) -> list[str]:
        from onnx import helper

        rows = self._plan.rows
        name = self._name("layout/Split")
        outputs = [self._name(f"{name}/output_{k}") for k in range(rows)]
        sizes = self._integers(*[1] * rows)
        self.nodes.append(helper.make_node("Split", [tensor, sizes], outputs, name=name, axis=axis))
        return outputs


def phase_weights(weight: Array, bias: Array | None, stride: int) -> tuple[Array, Array | None]:
    """The ordinary convolution whose output channels (stride, outputs) are the phases of a transposed convolution
    with weights (inputs, outputs, kernel), before its padding is cut off. Output s * q + p sees the inputs q - j
    through the taps p + s * j."""
    inputs, outputs, kernel = weight.shape
    taps = -(-kernel // stride)
    padded = np.zeros((inputs, outputs, taps * stride), np.float32)
    padded[..., :kernel] = weight
    split = padded.reshape(inputs, outputs, taps, stride)[:, :, ::-1]
    ordered = split.transpose(3, 1, 0, 2).reshape(stride * outputs, inputs, taps)
    return ordered, None if bias is None else np.tile(bias, stride)


def packed_weights(weight: Array, bias: Array | None, phases: int) -> tuple[Array, Array | None]:
    """The convolution of stride `phases` that computes `phases` neighbouring samples as channels (phases, outputs)."""
    outputs, inputs, kernel = weight.shape
    packed = np.zeros((phases, outputs, inputs, kernel + phases - 1), np.float32)
    for phase in range(phases):
        packed[phase, :, :, phase : phase + kernel] = weight
    return packed.reshape(phases * outputs, inputs, -1), None if bias is None else np.tile(bias, phases)
