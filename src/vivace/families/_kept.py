"""How a decoder keeps keys and values between its steps: as float32, float16, or int8 with a scale of every head and
position (symmetric).

The step takes what is kept as it is and widens it inside; its own new key and value are rounded on their way out only.
The scale of a key multiplies its score and that of a value its share of attention, which is one number where the key
or value has many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

KEPT = ("fp32", "fp16", "int8")
LARGEST = 127
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
        self._node(self._first, "Cast", wide, [name], wide, to=TensorProto.FLOAT)
        fresh = f"new.{wide}"
        if self._int8:
            self._scaled(wide, f"{name}.scale", is_key)
            self._add_scale(name, shape[:2], new)
            peak = self._node(self._last, "Abs", fresh, [fresh], f"{fresh}.size")
            axis = 2 if is_key else 3
            peak = self._node(self._last, "ReduceMax", fresh, [peak], f"{fresh}.peak", axes=[axis], keepdims=1)
            peak = self._node(self._last, "Max", fresh, [peak, "kept.smallest"], f"{fresh}.above")
            scale = self._node(self._last, "Div", f"{fresh}.scale", [peak, "kept.largest"], f"{new.name}.scale")
            fresh = self._node(self._last, "Div", fresh, [fresh, scale], f"{fresh}.steps")
            fresh = self._node(self._last, "Round", fresh, [fresh], f"{fresh}.whole")
        self._node(self._last, "Cast", new.name, [fresh], new.name, to=self._type)

    def _scaled(self, wide: str, scale: str, is_key: bool) -> None:
        """The product with a key is scaled, or the share of attention that a value is multiplied with."""
        from onnx import helper

        nodes = self._model.graph.node
        at, product = next((k, node) for k, node in enumerate(nodes) if node.input[1:2] == [wide])
        source = f"{product.output[0]}.unscaled" if is_key else product.input[0]
        target = product.output[0] if is_key else f"{wide}.share"
        mul = helper.make_node("Mul", [source, scale], [target], name=f"/{scale}/Mul")
        if is_key:
            product.output[0] = source
        else:
            product.input[0] = target
        nodes.insert(at + is_key, mul)

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
            for name, value in (("kept.largest", LARGEST), ("kept.smallest", SMALLEST)):
                graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        checker.check_model(self._model)
        return self._model
