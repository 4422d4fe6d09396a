"""Follows shapes, and the integers computed from them, through an ONNX graph whose dimensions are not fixed.

What is said here holds for every run without error in which no named input dimension is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vivace.core.stage import Array
from vivace.passes._integers import FAR, VALUE_RULES, objects
from vivace.passes._onnx import Graph
from vivace.passes._region import attributes, geometry
from vivace.passes._size import UNKNOWN, Size, broadcast, total

Shape = tuple[Size, ...]
LARGEST = 64  # elements of an integer tensor that is followed

# fmt: off
SAME = frozenset({
    "Abs", "Cast", "Ceil", "Clip", "Cos", "CumSum", "Elu", "Erf", "Exp", "Floor", "Gelu", "Identity",
    "LayerNormalization", "LeakyRelu", "Log", "Neg", "Not", "RandomNormalLike", "RandomUniformLike", "Reciprocal",
    "Relu", "Round", "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt",
    "Tanh",
})
BROADCAST = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul",
    "Or", "Pow", "Sub", "Where", "Xor",
})
# fmt: on


class Symbols:
    """`shapes` of tensors, `values` of integer tensors (object arrays of Size, or of bool), `grids` of index tensors
    (shape, then one value for each component of the last axis: the axis that it counts, or a Size), and `uniform`
    float tensors that hold one number throughout."""

    def __init__(self, model: Any) -> None:
        import onnx

        self.graph = Graph(model)
        self.shapes: dict[str, Shape] = {}
        self.values: dict[str, Array] = {}
        self.grids: dict[str, tuple[Shape, tuple[int | Size, ...]]] = {}
        self.uniform: dict[str, float] = {}
        self.types: dict[str, int] = {i.name: i.data_type for i in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._inferred = {v.name: v.type.tensor_type for v in (*inferred.value_info, *inferred.output)}
        self.types |= {name: kind.elem_type for name, kind in self._inferred.items()}
        for value in model.graph.input:
            self.types[value.name] = value.type.tensor_type.elem_type
            if value.name not in self.graph.initializers:
                self.shapes[value.name] = self._declared(value.name, value.type.tensor_type)
        for name in self.graph.initializers:
            self._constant(name)
        for node in self.graph.nodes:
            self._follow(node)

    def _declared(self, tensor: str, kind: Any) -> Shape:
        """Dimensions by their declared names: the same name is the same size."""
        sizes = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.HasField("dim_value"):
                sizes.append(Size.of(dim.dim_value))
            else:
                sizes.append(Size.named(dim.dim_param or f"{tensor}.{axis}"))
        return tuple(sizes)

    def _constant(self, name: str) -> None:
        value = self.graph.constant(name)
        if value is None:
            return
        self.shapes[name] = tuple(Size.of(n) for n in value.shape)
        if value.dtype in (np.int64, np.int32) and value.size <= LARGEST:
            self.values[name] = objects([Size.of(int(v)) for v in value.ravel()], value.shape)
        elif value.dtype == np.float32 and value.size and (value == value.flat[0]).all():
            self.uniform[name] = float(value.flat[0])

    def _follow(self, node: Any) -> None:
        if node.op_type == "Constant" and self.graph.constant(node.output[0]) is not None:
            self._constant(node.output[0])
            return
        shapes = self._shapes(node)
        for index, name in enumerate(node.output):
            known = shapes[index] if shapes is not None and index < len(shapes) else None
            guess = self._inferred_shape(name)
            if known is None:
                if guess is not None:
                    self.shapes[name] = guess
            else:
                fixed = guess if guess is not None and len(guess) == len(known) else known
                self.shapes[name] = tuple(f if f.constant is not None else k for k, f in zip(known, fixed, strict=True))
        value = self._value(node)
        if value is not None and value.size <= LARGEST:
            self.values[node.output[0]] = value
        self._follow_grid(node)
        self._follow_uniform(node)

    def _inferred_shape(self, name: str) -> Shape | None:
        kind = self._inferred.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        return tuple(
            Size.of(d.dim_value) if d.HasField("dim_value") else Size.named(f"{UNKNOWN}{name}.{axis})")
            for axis, d in enumerate(kind.shape.dim)
        )

    # Shapes

    def _shapes(self, node: Any) -> list[Shape | None] | None:
        """The outputs' shapes as far as they follow from the inputs'; None: nothing is known."""
        known = [self.shapes.get(name) for name in node.input if name]
        kind = node.op_type
        if kind in SAME and known:
            return [known[0]]
        if kind in BROADCAST:
            return None if any(s is None for s in known) else [_broadcast([s for s in known if s is not None])]
        rule: Callable[[Any, dict[str, Any]], list[Shape | None] | None] | None
        rule = getattr(self, f"_shape_{kind.lower()}", None)
        return None if rule is None or not known or known[0] is None else rule(node, attributes(node))

    def _integers(self, node: Any, index: int) -> list[Size] | None:
        """The elements of an integer input."""
        if index >= len(node.input) or node.input[index] not in self.values:
            return None
        return list(self.values[node.input[index]].ravel())

    def _fixed(self, node: Any, index: int) -> list[int] | None:
        """The elements of an integer input, if all are plain numbers."""
        values = self._integers(node, index)
        numbers = [] if values is None else [v.constant for v in values]
        return None if values is None or None in numbers else [n for n in numbers if n is not None]

    def _shape_shape(self, node: Any, given: dict[str, Any]) -> list[Shape | None]:
        return [(Size.of(len(self.shapes[node.input[0]][given.get("start", 0) : given.get("end")])),)]

    def _shape_transpose(self, node: Any, given: dict[str, Any]) -> list[Shape | None]:
        shape = self.shapes[node.input[0]]
        return [tuple(shape[axis] for axis in given.get("perm", range(len(shape))[::-1]))]

    def _shape_unsqueeze(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        axes = given.get("axes") or self._fixed(node, 1)
        if axes is None:
            return None
        shape = list(self.shapes[node.input[0]])
        for axis in sorted(a % (len(self.shapes[node.input[0]]) + len(axes)) for a in axes):
            shape.insert(axis, Size.of(1))
        return [tuple(shape)]

    def _shape_squeeze(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        axes = given.get("axes") or self._fixed(node, 1)
        if axes is None:
            return None
        shape = self.shapes[node.input[0]]
        gone = {a % len(shape) for a in axes}
        return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]

    def _shape_concat(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        shapes = [self.shapes.get(name) for name in node.input]
        if any(shape is None for shape in shapes):
            return None
        known = [shape for shape in shapes if shape is not None]
        axis = given["axis"] % len(known[0])
        first = list(known[0])
        first[axis] = sum((shape[axis] for shape in known[1:]), known[0][axis])
        return [tuple(first)]

    def _shape_split(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        sizes = self._integers(node, 1)
        if sizes is None:
            return None
        shape = self.shapes[node.input[0]]
        axis = given.get("axis", 0) % len(shape)
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]

    def slice_bounds(self, node: Any) -> list[tuple[int, Size, Size, int]] | None:
        """(axis, first, last, step) of a Slice, where they are proven to lie in order inside the axis."""
        shape = self.shapes.get(node.input[0])
        starts, ends, axes = self._integers(node, 1), self._integers(node, 2), self._fixed(node, 3)
        steps = self._fixed(node, 4) if len(node.input) > 4 and node.input[4] else [1] * len(starts or ())
        if shape is None or starts is None or ends is None or steps is None:
            return None
        if axes is None:
            if len(node.input) > 3 and node.input[3]:
                return None
            axes = list(range(len(starts)))
        found = []
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = shape[axis % len(shape)]
            bounds = self._bound(start, size), self._bound(end, size)
            if step != 1 or bounds[0] is None or bounds[1] is None or not (bounds[1] - bounds[0]).never_negative():
                return None
            found.append((axis % len(shape), bounds[0], bounds[1], step))
        return found

    @staticmethod
    def _bound(position: Size, size: Size) -> Size | None:
        """A position in an axis of `size`, clamped as Slice does, if the outcome is proven."""
        number = position.constant
        if number is not None and number < 0:
            position = position + size
        if (position - size).never_negative() or (number is not None and number > FAR):
            return size
        return position if position.never_negative() and (size - position).never_negative() else None

    def _shape_slice(self, node: Any, _: dict[str, Any]) -> list[Shape | None] | None:
        bounds = self.slice_bounds(node)
        if bounds is None:
            return self._reversed(node)
        shape = list(self.shapes[node.input[0]])
        for axis, first, last, _step in bounds:
            shape[axis] = last - first
        return [tuple(shape)]

    def _reversed(self, node: Any) -> list[Shape | None] | None:
        """A Slice that turns whole axes round keeps the shape."""
        if len(node.input) < 5:
            return None
        given = [self._fixed(node, k) for k in (1, 2, 4)]
        if any(g is None for g in given):
            return None
        starts, ends, steps = given
        whole = set(starts or ()) == {-1} and set(steps or ()) == {-1} and all(e < -FAR for e in ends or ())
        return [self.shapes[node.input[0]]] if whole else None

    def _shape_pad(self, node: Any, _: dict[str, Any]) -> list[Shape | None] | None:
        pads, shape = self._integers(node, 1), self.shapes[node.input[0]]
        if pads is None or len(pads) != 2 * len(shape):
            return None
        return [tuple(size + pads[k] + pads[k + len(shape)] for k, size in enumerate(shape))]

    def _shape_gather(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        shape, indices = self.shapes[node.input[0]], self.shapes.get(node.input[1])
        if indices is None:
            return None
        axis = given.get("axis", 0) % len(shape)
        return [(*shape[:axis], *indices, *shape[axis + 1 :])]

    def _shape_gatherelements(self, node: Any, _: dict[str, Any]) -> list[Shape | None]:
        return [self.shapes.get(node.input[1])]

    def _shape_gathernd(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        shape, indices = self.shapes[node.input[0]], self.shapes.get(node.input[1])
        depth = None if indices is None else indices[-1].constant
        if indices is None or depth is None or given.get("batch_dims", 0):
            return None
        return [(*indices[:-1], *shape[depth:])]

    def _shape_reshape(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        target = self._integers(node, 1)
        shape = self.shapes[node.input[0]]
        if target is None or given.get("allowzero", 0):
            return None
        sizes = [shape[k] if size.constant == 0 else size for k, size in enumerate(target)]
        unknown = [k for k, size in enumerate(sizes) if size.constant == -1]
        if unknown:
            rest = total(size for k, size in enumerate(sizes) if k != unknown[0])
            quotient = total(shape) // rest
            if quotient is None:
                return None
            sizes[unknown[0]] = quotient
        return [tuple(sizes)]

    def _shape_expand(self, node: Any, _: dict[str, Any]) -> list[Shape | None] | None:
        target = self._integers(node, 1)
        return None if target is None else [_broadcast([self.shapes[node.input[0]], tuple(target)])]

    def _shape_constantofshape(self, node: Any, _: dict[str, Any]) -> list[Shape | None] | None:
        target = self._integers(node, 0)
        return None if target is None else [tuple(target)]

    def _shape_range(self, node: Any, _: dict[str, Any]) -> list[Shape | None] | None:
        start, limit, step = (self._integers(node, k) for k in range(3))
        if start is None or limit is None or step is None or step[0].constant != 1:
            return None
        length = limit[0] - start[0]
        return [(length,)] if length.never_negative() else None

    def _shape_matmul(self, node: Any, _: dict[str, Any]) -> list[Shape | None] | None:
        left, right = self.shapes[node.input[0]], self.shapes.get(node.input[1])
        if right is None or len(left) < 2 or len(right) < 2:
            return None
        return [(*_broadcast([left[:-2], right[:-2]]), left[-2], right[-1])]

    def _shape_conv(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        shape = self.shapes[node.input[0]]
        weight = self.graph.weight(node)
        if weight is None or weight.ndim != 3 or given.get("auto_pad", "NOTSET") != "NOTSET":
            return None
        g = geometry(node, weight)
        if g.stride != 1:
            return None
        return [(shape[0], Size.of(weight.shape[0]), shape[2] + (g.left + g.right - g.span))]

    def _reduced(self, node: Any, given: dict[str, Any]) -> list[Shape | None] | None:
        axes = given.get("axes")
        if axes is None and len(node.input) > 1:
            axes = self._fixed(node, 1)
        if axes is None:
            return None
        shape = self.shapes[node.input[0]]
        gone = {a % len(shape) for a in axes}
        if given.get("keepdims", 1):
            return [tuple(Size.of(1) if k in gone else size for k, size in enumerate(shape))]
        return [tuple(size for k, size in enumerate(shape) if k not in gone)]

    _shape_reducemean = _shape_reducesum = _shape_reducemax = _shape_reducemin = _reduced

    # Values

    def _value(self, node: Any) -> Array | None:
        """The elements of an integer (or comparison) output, if all inputs that matter are known."""
        kind, given = node.op_type, attributes(node)
        if kind == "Shape":
            shape = self.shapes.get(node.input[0])
            found = None if shape is None else list(shape[given.get("start", 0) : given.get("end")])
            return None if found is None else objects(found, (len(found),))
        if kind == "ConstantOfShape":
            target, fill = self._fixed(node, 0), _fill(node)
            if target is None or fill is None or fill.dtype != np.int64 or np.prod(target) > LARGEST:
                return None
            return objects([Size.of(int(fill.item()))] * int(np.prod(target)), tuple(target))
        inputs = [self.values.get(name) for name in node.input if name]
        if not inputs or inputs[0] is None:
            return None
        rule = VALUE_RULES.get(kind)
        if rule is None or any(v is None for v in inputs):
            return None
        return rule([v for v in inputs if v is not None], given)

    # Index grids, as in x[..., k] = y

    def _follow_grid(self, node: Any) -> None:
        kind, output = node.op_type, node.output[0]
        shape = self.shapes.get(output)
        if shape is None:
            return
        if kind == "Range":
            start = self._fixed(node, 0)
            if start == [0]:
                self.grids[output] = (shape, (0,))
        elif kind in ("Reshape", "Unsqueeze", "Expand", "Identity"):
            grid = self._grid(node.input[0])
            if grid is not None and (moved := _moved(grid, shape, kind)) is not None:
                self.grids[output] = moved
        elif kind == "Concat":
            parts = [self._grid(name) for name in node.input]
            axis = attributes(node)["axis"] % len(shape)
            if axis == len(shape) - 1 and all(p is not None and p[0][-1].constant == 1 for p in parts):
                self.grids[output] = (shape, tuple(c for p in parts if p is not None for c in p[1]))

    def _grid(self, tensor: str) -> tuple[Shape, tuple[int | Size, ...]] | None:
        if tensor in self.grids:
            return self.grids[tensor]
        value = self.values.get(tensor)
        if value is None or value.size != 1 or tensor not in self.shapes or not isinstance(value.item(), Size):
            return None
        return self.shapes[tensor], (value.item(),)

    # Tensors of one number

    def _follow_uniform(self, node: Any) -> None:
        kind, output = node.op_type, node.output[0]
        if kind == "ConstantOfShape":
            fill = _fill(node)
            if fill is None or fill.dtype == np.float32:
                self.uniform[output] = 0.0 if fill is None else float(fill.item())
        elif kind in _UNIFORM and node.input[0] in self.uniform:
            self.uniform[output] = float(_UNIFORM[kind](np.float32(self.uniform[node.input[0]])))


_UNIFORM: dict[str, Callable[[Any], Any]] = {
    "Neg": np.negative,
    "Exp": np.exp,
    "Identity": lambda v: v,
    "Expand": lambda v: v,
    "Reshape": lambda v: v,
}


def _fill(node: Any) -> Array | None:
    from onnx import numpy_helper

    value = attributes(node).get("value")
    return None if value is None else numpy_helper.to_array(value)


def _moved(
    grid: tuple[Shape, tuple[int | Size, ...]], shape: Shape, kind: str
) -> tuple[Shape, tuple[int | Size, ...]] | None:
    """The grid after axes of size 1 came or went, or were repeated."""
    old, components = grid
    if len(components) != 1:
        return None
    counted = components[0]
    if isinstance(counted, Size):
        return shape, components
    if kind == "Expand":
        return (shape, (counted + len(shape) - len(old),)) if old[counted].constant != 1 else None
    places = [k for k, size in enumerate(shape) if size == old[counted]]
    others = [size for k, size in enumerate(shape) if k not in places[:1]]
    if len(places) != 1 or any(size.constant != 1 for size in others):
        return None
    return shape, (places[0],)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    padded = [(*[Size.of(1)] * (rank - len(shape)), *shape) for shape in shapes]
    return tuple(broadcast(sizes) for sizes in zip(*padded, strict=True))
