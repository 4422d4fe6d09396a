"""How a decoder keeps keys and values between its steps: as float32, float16, or int8 with a scale of every head and
position (symmetric).

The step's own new key and value are rounded on their way out only. float16 is widened inside the step. int8 is
multiplied as it is, so that a quarter of the bytes is read: a query, and the shares of attention, are rounded to 7 bits
with a scale of their own row and head (8 bits would overflow x86 without VNNI, which adds two products in 16 bits). The
scale of a key multiplies its score and that of a value its share of attention, which is one number where the key or
value has many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

KEPT = ("fp32", "fp16", "int8")
LARGEST = 127
MIDDLE = 64  # of 7 bits: what stands for 0 in a query
SMALLEST = 1e-12  # of a peak: a key of zeros has a scale too


def narrowed(model: Any, kept: str) -> Any:
    """A step's ModelProto with a narrower cache. What is kept are its inputs X for which it gives "new." + X: keys
    [batch, heads, head, room] and values [batch, heads, room, head]; int8 adds X.scale [batch, heads, 1, room]."""
    if kept == "fp32":
        return model
    narrow = _Narrow(model, kept)
    outputs = {value.name: value for value in model.graph.output}
    for value in list(model.graph.input):
        if new := outputs.get(f"new.{value.name}"):
            narrow.one(value, new)
    return narrow.done()


class _Narrow:
    def __init__(self, model: Any, kept: str) -> None:
        from onnx import TensorProto

        self._model, self._int8 = model, kept == "int8"
        self._type = TensorProto.INT8 if self._int8 else TensorProto.FLOAT16
        self._first: list[Any] = []  # nodes before all others, and behind them
        self._last: list[Any] = []

    def _node(self, place: list[Any], kind: str, name: str, inputs: list[str], output: str, **given: Any) -> str:
        from onnx import helper

        place.append(helper.make_node(kind, inputs, [output], name=f"/{name}/{kind}", **given))
        return output

    def one(self, value: Any, new: Any) -> None:
        """Narrows one input and what the step adds to it."""
        from onnx import TensorProto

        name, wide = value.name, f"{value.name}.wide"
        shape = [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        is_key = shape[3] == "room"
        for node in self._model.graph.node:
            for names in (node.input, node.output):
                for k, found in enumerate(names):
                    names[k] = {name: wide, new.name: f"new.{wide}"}.get(found, found)
        value.type.tensor_type.elem_type = new.type.tensor_type.elem_type = self._type
        fresh = f"new.{wide}"
        if self._int8:
            self._multiplied(name, wide, is_key)
            self._add_scale(name, shape[:2], new)
            scale = self._scale(self._last, fresh, 2 if is_key else 3, "kept.largest", f"{new.name}.scale")
            fresh = self._node(self._last, "Div", fresh, [fresh, scale], f"{fresh}.steps")
            fresh = self._node(self._last, "Round", fresh, [fresh], f"{fresh}.whole")
        else:
            self._node(self._first, "Cast", wide, [name], wide, to=TensorProto.FLOAT)
        self._node(self._last, "Cast", new.name, [fresh], new.name, to=self._type)

    def _scale(self, place: list[Any], name: str, axis: int, largest: str, output: str) -> str:
        """What makes the peak along an axis of `name` the largest whole number."""
        peak = self._node(place, "Abs", name, [name], f"{name}.size")
        peak = self._node(place, "ReduceMax", name, [peak], f"{name}.peak", axes=[axis], keepdims=1)
        peak = self._node(place, "Max", name, [peak, "kept.smallest"], f"{name}.above")
        return self._node(place, "Div", f"{name}.scale", [peak, largest], output)

    def _multiplied(self, name: str, wide: str, is_key: bool) -> None:
        """Whole numbers are multiplied with what is kept, and the product is scaled."""
        from onnx import TensorProto

        nodes = self._model.graph.node
        at, product = next((k, node) for k, node in enumerate(nodes) if node.input[1:2] == [wide])
        left, out, made = product.input[0], product.output[0], list[Any]()
        if not is_key:
            left = self._node(made, "Mul", f"{name}.share", [left, f"{name}.scale"], f"{out}.share")
        scale = self._scale(made, left, 3, "kept.middle" if is_key else "kept.largest", f"{left}.scale")
        x = self._node(made, "Div", left, [left, scale], f"{left}.steps")
        x = self._node(made, "Round", left, [x], f"{left}.whole")
        if is_key:
            x = self._node(made, "Add", left, [x, "kept.zero"], f"{left}.shifted")
        x = self._node(made, "Cast", left, [x], f"{left}.bytes", to=TensorProto.UINT8)
        zero = ["kept.zero.bytes"] if is_key else []
        x = self._node(made, "MatMulInteger", out, [x, name, *zero], f"{out}.whole")
        x = self._node(made, "Cast", out, [x], f"{out}.wide", to=TensorProto.FLOAT)
        if is_key:
            x = self._node(made, "Mul", f"{out}.query", [x, scale], f"{out}.unscaled")
        self._node(made, "Mul", out, [x, f"{name}.scale" if is_key else scale], out)
        del nodes[at]
        for node in reversed(made):
            nodes.insert(at, node)

    def _add_scale(self, name: str, rows: list[Any], new: Any) -> None:
        from onnx import TensorProto, helper

        for values, label, room in (
            (self._model.graph.input, name, "room"),
            (self._model.graph.output, new.name, 1),
        ):
            values.append(helper.make_tensor_value_info(f"{label}.scale", TensorProto.FLOAT, [*rows, 1, room]))

    def done(self) -> Any:
        from onnx import checker, numpy_helper

        graph = self._model.graph
        nodes = [*self._first, *graph.node, *self._last]
        del graph.node[:]
        graph.node.extend(nodes)
        if self._int8:
            constants = {"largest": LARGEST, "middle": MIDDLE - 1, "zero": MIDDLE, "smallest": SMALLEST}
            for name, value in constants.items():
                graph.initializer.append(numpy_helper.from_array(np.float32(value), f"kept.{name}"))
            graph.initializer.append(numpy_helper.from_array(np.uint8(MIDDLE), "kept.zero.bytes"))
        checker.check_model(self._model)
        return self._model
