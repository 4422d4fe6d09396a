"""The exact simplifications of `graph_cleanup`: each looks at one node and what is proven about its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vivace.core.stage import Array
from vivace.passes._region import attributes
from vivace.passes._size import Size
from vivace.passes._symbolic import Symbols

END = np.iinfo(np.int64).max
# fmt: off
RANDOM = frozenset({
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})
# fmt: on
# Casts that lose nothing, so that a second cast may start from the first one's input (ONNX element types).
_LOSSLESS = {9: {1, 2, 3, 6, 7, 10, 11}, 2: {6, 7, 1, 11}, 3: {6, 7, 1, 11}, 6: {7, 11}, 10: {1, 11}, 1: {11}}


class Maker:
    """Makes nodes and constants under free names."""

    def __init__(self, symbols: Symbols) -> None:
        graph = symbols.graph
        self.constants: dict[str, Any] = {}
        self._taken = {name for node in graph.nodes for name in (*node.input, *node.output, node.name)}
        self._taken |= set(graph.initializers)

    def constant(self, value: Array) -> str:
        from onnx import numpy_helper

        name = self._free("cleanup/constant")
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(self, kind: str, inputs: Sequence[str], output: str = "", name: str = "", **values: Any) -> Any:
        from onnx import helper

        name = name or self._free(f"cleanup/{kind}")
        return helper.make_node(kind, list(inputs), [output or self._free(f"{name}/output")], name=name, **values)

    def _free(self, hint: str) -> str:
        name, count = hint, 1
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        return name


def same_as(node: Any, symbols: Symbols) -> str | None:
    """The input that the node's output always equals, or None."""
    kind, first = node.op_type, node.input[0] if node.input else ""
    if kind == "Identity" or (kind == "Concat" and len(node.input) == 1):
        return first
    if kind == "Cast":
        return first if symbols.types.get(first) == attributes(node)["to"] else None
    if kind in ("Reshape", "Expand"):
        known = symbols.shapes.get(first)
        return first if known is not None and known == symbols.shapes.get(node.output[0]) else None
    if kind == "Transpose":
        perm = attributes(node).get("perm")
        return first if perm is not None and perm == sorted(perm) else None
    if kind == "Pad":
        pads = symbols.graph.constant(node.input[1])
        return first if pads is not None and not pads.any() and len(node.input) < 4 else None
    if kind == "Slice":
        bounds = symbols.slice_bounds(node)
        shape = symbols.shapes.get(first)
        if bounds is None or shape is None:
            return None
        return first if all(a == Size.of(0) and b == shape[axis] for axis, a, b, _ in bounds) else None
    return _neutral(node, symbols)


def _neutral(node: Any, symbols: Symbols) -> str | None:
    """x of x + 0, x - 0, x * 1, x / 1, x ** 1, if the shape stays that of x."""
    neutral = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}.get(node.op_type)
    if neutral is None:
        return None
    shape = symbols.shapes.get(node.output[0])
    for kept, other in ((0, 1), (1, 0)) if node.op_type in ("Add", "Mul") else ((0, 1),):
        x = node.input[kept]
        if symbols.uniform.get(node.input[other]) == neutral and shape is not None and symbols.shapes.get(x) == shape:
            return str(x)
    return None


def constant_target(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    """Reshape to computed sizes -> Reshape to constants: what is fixed, 0 for what stays, -1 for at most one."""
    if node.op_type != "Reshape" or symbols.graph.constant(node.input[1]) is not None:
        return None
    before, after = symbols.shapes.get(node.input[0]), symbols.shapes.get(node.output[0])
    if before is None or after is None:
        return None
    target = [
        0 if k < len(before) and size == before[k] else size.constant if size.constant is not None else -1
        for k, size in enumerate(after)
    ]
    if any(n == 0 and after[k].constant == 0 for k, n in enumerate(target)):
        return None
    rest = [size for size, n in zip(after, target, strict=True) if n != -1]
    if target.count(-1) > 1 or (-1 in target and not all((size - 1).never_negative() for size in rest)):
        return None
    return [make.node("Reshape", [node.input[0], make.integers(*target)], node.output[0], node.name)]


def constant_bounds(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    """Slice at computed positions -> Slice at constants, counted from the nearer end."""
    if node.op_type != "Slice" or all(symbols.graph.constant(name) is not None for name in node.input[1:3]):
        return None
    bounds, shape = symbols.slice_bounds(node), symbols.shapes.get(node.input[0])
    if bounds is None or shape is None:
        return None
    positions: list[list[int]] = [[], []]
    for axis, first, last, _ in bounds:
        for found, position in zip(positions, (first, last), strict=True):
            number, back = position.constant, (position - shape[axis]).constant
            if number is None and back is None:
                return None
            found.append(number if number is not None else back or END)
    axes = [axis for axis, *_ in bounds]
    inputs = [node.input[0], *(make.integers(*values) for values in (*positions, axes))]
    return [make.node("Slice", inputs, node.output[0], node.name)]


def merged_transpose(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    source = symbols.graph.producer.get(node.input[0]) if node.op_type == "Transpose" else None
    if source is None or source.op_type != "Transpose":
        return None
    inner, outer = attributes(source).get("perm"), attributes(node).get("perm")
    if inner is None or outer is None:
        return None
    perm = [inner[axis] for axis in outer]
    return [make.node("Transpose", source.input[:1], node.output[0], node.name, perm=perm)]


def merged_cast(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    source = symbols.graph.producer.get(node.input[0]) if node.op_type == "Cast" else None
    if source is None or source.op_type != "Cast":
        return None
    between = attributes(source)["to"]
    if between not in _LOSSLESS.get(symbols.types.get(source.input[0], 0), ()):
        return None
    return [make.node("Cast", source.input[:1], node.output[0], node.name, to=attributes(node)["to"])]


def padded_convolution(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    """Pad with zeros -> Conv becomes the convolution's own padding."""
    source = symbols.graph.producer.get(node.input[0]) if node.op_type == "Conv" else None
    if source is None or source.op_type != "Pad" or attributes(source).get("mode", "constant") != "constant":
        return None
    pads = symbols.graph.constant(source.input[1])
    fill = symbols.graph.constant(source.input[2]) if len(source.input) > 2 and source.input[2] else np.zeros(1)
    given = attributes(node)
    if pads is None or fill is None or fill.any() or len(source.input) > 3 or (pads < 0).any():
        return None
    rank = len(pads) // 2
    if pads[:2].any() or pads[rank : rank + 2].any() or given.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    extra = [int(p) for p in (*pads[2:rank], *pads[rank + 2 :])]
    given["pads"] = [a + b for a, b in zip(given.get("pads", [0] * len(extra)), extra, strict=True)]
    return [make.node("Conv", [source.input[0], *node.input[1:]], node.output[0], node.name, **given)]


def scattered_column(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    """x[..., k, ...] = y, written as ScatterND over a grid of all indices -> pieces of x around y, concatenated."""
    if node.op_type != "ScatterND" or attributes(node).get("reduction", "none") != "none":
        return None
    data, indices, updates = node.input
    grid, shape = symbols.grids.get(indices), symbols.shapes.get(data)
    if grid is None or shape is None or len(grid[1]) != len(shape) or len(grid[0]) != len(shape) + 1:
        return None
    fixed = [axis for axis, component in enumerate(grid[1]) if component != axis]
    if len(fixed) != 1:
        return None
    axis = fixed[0]
    position = grid[1][axis]
    wanted = (*shape[:axis], Size.of(1), *shape[axis + 1 :])
    if not isinstance(position, Size) or grid[0][:-1] != wanted or symbols.shapes.get(updates) != wanted:
        return None
    number, back = position.constant, (position - shape[axis]).constant
    if number is None and back is None:
        return None
    made, pieces = [], []
    at = number if number is not None else back
    assert at is not None
    for keep, first, last in ((at != 0, 0, at), (None, 0, 0), (back != -1 and at != -1, at + 1, END)):
        if keep:
            bounds = [make.integers(value) for value in (first, last, axis)]
            made.append(make.node("Slice", [data, *bounds]))
            pieces.append(made[-1].output[0])
        elif keep is None:
            pieces.append(updates)
    return [*made, make.node("Concat", pieces, node.output[0], node.name, axis=axis)]


def normalization(node: Any, symbols: Symbols, make: Maker) -> list[Any] | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + e) * scale + shift over the last axis -> LayerNormalization (opset 17)."""
    graph = symbols.graph

    def made_by(tensor: str, kind: str) -> Any:
        source = graph.producer.get(tensor)
        return source if source is not None and source.op_type == kind else None

    if node.op_type != "Add":
        return None
    for scaled, shift in (node.input, node.input[::-1]):
        product = made_by(scaled, "Mul")
        if product is None:
            continue
        for divided, scale in (product.input, product.input[::-1]):
            quotient = made_by(divided, "Div")
            root = quotient and made_by(quotient.input[1], "Sqrt")
            total = root and made_by(root.input[0], "Add")
            centred = quotient and made_by(quotient.input[0], "Sub")
            if not (total and centred):
                continue
            epsilon, variance = symbols.uniform.get(total.input[1]), made_by(total.input[0], "ReduceMean")
            square = variance and made_by(variance.input[0], "Pow")
            mean = made_by(centred.input[1], "ReduceMean")
            if epsilon is None or not square or not mean or square.input[0] != centred.output[0]:
                continue
            x = centred.input[0]
            shape = symbols.shapes.get(x)
            size = None if shape is None else shape[-1].constant
            sizes = [graph.constant(t) for t in (scale, shift)]
            whole = all(v is not None and v.dtype == np.float32 and v.shape == (size,) for v in sizes)
            last = all(_last_axis(n, len(shape or ())) for n in (mean, variance))
            if not (whole and last and mean.input[0] == x and symbols.uniform.get(square.input[1]) == 2):
                continue
            inputs = [x, scale, shift]
            return [make.node("LayerNormalization", inputs, node.output[0], node.name, axis=-1, epsilon=epsilon)]
    return None


def _last_axis(node: Any, rank: int) -> bool:
    given = attributes(node)
    return bool(given.get("keepdims", 1) == 1 and given.get("axes") in ([-1], [rank - 1]))
