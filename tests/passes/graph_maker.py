"""A few lines of Python -> an ONNX graph of opset 15, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from vivace.core.stage import Array

TYPES = {"float": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


class GraphMaker:
    """`g.op("Add", x, np.ones(3))` adds a node and returns its output's name; arrays become initializers."""

    def __init__(self, **inputs: Sequence[int | str] | tuple[str, Sequence[int | str]]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs = []
        for name, given in inputs.items():
            kind, shape = given if len(given) == 2 and given[0] in TYPES else ("float", given)
            self.inputs.append(helper.make_tensor_value_info(name, TYPES[str(kind)], list(shape)))

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: Any, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        given = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        name = name or f"/{kind}_{len(self.nodes)}"
        made = [f"{name}_output_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, given, made, name=name, **attributes))
        return made[0] if outputs == 1 else made

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def model(self, *outputs: str, opset: int = 15) -> Any:
        """The outputs' types and shapes are inferred. Raises onnx's own errors for a malformed graph."""
        unknown = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
        made = self._model(unknown, opset)
        known = {v.name: v for v in onnx.shape_inference.infer_shapes(made, strict_mode=True).graph.output}
        made = self._model([known[name] for name in outputs], opset)
        onnx.checker.check_model(made)
        return made

    def _model(self, outputs: list[Any], opset: int) -> Any:
        graph = helper.make_graph(self.nodes, "made", self.inputs, outputs, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        made.ir_version = 8
        return made


def copied(model: Any) -> Any:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def run(model: Any, inputs: Mapping[str, Array], *outputs: str) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, dict(inputs))


def every_tensor(model: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The value of each tensor that any node makes."""
    shown = copied(model)
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    listed = {output.name for output in model.graph.output}
    shown.graph.output.extend(v for name, v in inferred.items() if name not in listed)
    names = [output.name for output in shown.graph.output]
    return dict(zip(names, run(shown, inputs), strict=True))


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def node(model: Any, name: str) -> Any:
    return next(n for n in model.graph.node if n.name == name)


def attribute(made: Any, name: str) -> Any:
    return next(helper.get_attribute_value(a) for a in made.attribute if a.name == name)
