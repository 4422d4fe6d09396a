"""Builds ONNX graphs of transformers from weights: the parts that every such family shares.

Activations are [batch, time, width]. Plain operators of one opset: every runtime runs them. Keys are kept as
[batch, heads, head, time] and values as [batch, heads, time, head], so that a cache is written in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vivace.core.stage import Array, Stage, TensorSpec

OPSET, IR = 17, 9
FORBIDDEN = -1e9  # added to the score of what must not be attended to


class Builder:
    """Collects nodes and weights, `given` by name. `width` and `heads` are those of its attention. `single` says that
    time is always 1, where nothing needs to be transposed."""

    def __init__(self, given: Mapping[str, Array], width: int, heads: int, *, single: bool = False) -> None:
        self.given, self._width, self._heads, self._single = given, width, heads, single
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.weights.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints." + ".".join(map(str, values)), np.array(values, np.int64))

    def add(self, kind: str, name: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"/{name}/{kind}_out"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"/{name}/{kind}", **attributes))
        return output

    def split(self, name: str, source: str, outputs: list[str], sizes: list[int], axis: int) -> list[str]:
        """Named pieces of `source`, of these sizes along `axis`."""
        from onnx import helper

        inputs = [source, self.ints(*sizes)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, name=f"/{name}/Split", axis=axis))
        return outputs

    def linear(self, name: str, source: str, rows: slice = slice(None), own: str = "", output: str = "") -> str:
        """x W^T + b; `rows` of the weight, whose names end in `own`."""
        weight, bias = (f"{name}.{own}{part}" for part in ("weight", "bias"))
        tag = "" if rows == slice(None) else f".{rows.start}"
        made = self.add(
            "MatMul", name + tag, [source, self.constant(f"{weight}{tag}", self.given[weight][rows].T.copy())]
        )
        return self.add("Add", name + tag, [made, self.constant(f"{bias}{tag}", self.given[bias][rows])], output)

    def norm(self, name: str, source: str) -> str:
        scale, shift = (self.constant(f"{name}.{part}", self.given[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.add("LayerNormalization", name, [source, scale, shift], axis=-1, epsilon=1e-5)

    def heads(self, name: str, source: str, *, turned: bool = False) -> str:
        """[batch, time, width] to [batch, heads, time, head], `turned` to [batch, heads, head, time]."""
        head = self._width // self._heads
        if self._single:
            return self.add("Reshape", name, [source, self.ints(0, self._heads, *((head, 1) if turned else (1, head)))])
        split = self.add("Reshape", name, [source, self.ints(0, 0, self._heads, head)])
        return self.add("Transpose", name, [split], perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3])

    def joined(self, name: str, source: str) -> str:
        if self._single:
            return self.add("Reshape", f"{name}.join", [source, self.ints(0, 1, self._width)])
        turned = self.add("Transpose", f"{name}.join", [source], perm=[0, 2, 1, 3])
        return self.add("Reshape", f"{name}.join", [turned, self.ints(0, 0, self._width)])

    def attention(self, name: str, query: str, key: str, value: str, bias: str) -> str:
        scores = self.add("MatMul", f"{name}.scores", [query, key])
        if bias:
            scores = self.add("Add", f"{name}.masked", [scores, bias])
        share = self.add("Softmax", name, [scores], axis=-1)
        return self.linear(f"{name}.out_proj", self.joined(name, self.add("MatMul", f"{name}.mix", [share, value])))

    def cached(self, name: str, query: str, own: tuple[str, str], past: tuple[str, str], bias: str) -> str:
        """Attention of one new position to itself (its `own` key and value) and to what is kept: two products, one
        softmax over both."""
        masked = self.add("Add", f"{name}.masked", [self.add("MatMul", f"{name}.past", [query, past[0]]), bias])
        scores = self.add("Concat", name, [self.add("MatMul", f"{name}.own", [query, own[0]]), masked], axis=-1)
        share = self.add("Softmax", name, [scores], axis=-1)
        one, end = self.ints(1), self.ints(np.iinfo(np.int64).max)
        now = self.add("Slice", f"{name}.now", [share, self.ints(0), one, self.ints(3)])
        then = self.add("Slice", f"{name}.then", [share, one, end, self.ints(3)])
        mixed = self.add("MatMul", f"{name}.mix", [then, past[1]])
        mixed = self.add("Add", f"{name}.mix", [mixed, self.add("Mul", f"{name}.now", [now, own[1]])])
        return self.linear(f"{name}.out_proj", self.joined(name, mixed))

    def gelu(self, name: str, x: str) -> str:
        numbers = {"root": 1 / math.sqrt(2), "one": 1, "half": 0.5}
        root, one, half = (self.constant(f"gelu.{k}", np.float32(v)) for k, v in numbers.items())
        erf = self.add("Erf", f"{name}.gelu", [self.add("Mul", f"{name}.gelu.in", [x, root])])
        twice = self.add("Mul", f"{name}.gelu.out", [x, self.add("Add", f"{name}.gelu", [erf, one])])
        return self.add("Mul", f"{name}.gelu.half", [twice, half])

    def range(self, name: str, of: str, axis: int) -> str:
        """0, 1, ... up to the size of `of` along `axis`, as [1, size]."""
        size = self.add("Shape", name, [of], start=axis, end=axis + 1)
        count = self.add("Squeeze", name, [size])
        zero, one = (self.constant(f"int.{k}", np.int64(k)) for k in (0, 1))
        return self.add("Unsqueeze", name, [self.add("Range", name, [zero, count, one]), self.ints(0)])

    def near(self, name: str, places: str, bias: str, window: int, *, both: bool) -> str:
        """`bias` [batch, 1, 1, time] and FORBIDDEN for what is `window` or more away (0: nothing is) and, unless `both`
        sides are seen, for what lies ahead: [batch, 1, time, time]."""
        column = self.add("Transpose", name, [places], perm=[1, 0])
        behind = self.add("Sub", f"{name}.behind", [column, places])  # [time, time], above 0 for earlier positions
        low = 0 if not both else 1 - window if window else -(2**62)
        far = self.add("Less", f"{name}.ahead", [behind, self.ints(low)])
        if window:
            far = self.add("Or", name, [far, self.add("Less", f"{name}.far", [self.ints(window - 1), behind])])
        forbidden = self.constant("forbidden", np.float32(FORBIDDEN))
        shut = self.add("Mul", name, [self.add("Cast", name, [far], to=1), forbidden])
        return self.add("Add", name, [bias, shut])

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> Any:
        from onnx import checker, helper

        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="vivace")
        model.ir_version = IR
        checker.check_model(model)
        return model


class Plain:
    """A graph opened without any ado, for a proof at import."""

    def __init__(self, model: Any) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        self._session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        outputs = [o.name for o in self._session.get_outputs()]
        made = self._session.run(outputs, {i.name: feed[i.name] for i in self._session.get_inputs()})
        return dict(zip(outputs, made, strict=True))


def sinusoids(length: int, width: int) -> Array:
    """[length, width]: sine and cosine of each position in turn (Vaswani et al. 2017, section 3.5)."""
    rate = np.exp(np.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = np.arange(length)[:, None] * rate
    table = np.zeros((length, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)
    return table


def floats(name: str, *shape: int | str) -> Any:
    """An input or output of 32-bit floats; a named dimension is dynamic."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def whole_numbers(name: str, *shape: int | str) -> Any:
    """An input or output of 64-bit whole numbers."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.INT64, list(shape))


def stage_of(name: str, model: Any, frame_rate: float, *, loop: str = "once") -> Stage:
    """The stage that this model is, in the file stages/NAME.onnx."""
    from onnx import helper

    def specs(values: Any) -> dict[str, TensorSpec]:
        found = {}
        for value in values:
            kind = value.type.tensor_type
            shape = tuple(d.dim_value or d.dim_param for d in kind.shape.dim)
            found[value.name] = TensorSpec(str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape)
        return found

    inputs, outputs = specs(model.graph.input), specs(model.graph.output)
    return Stage(name, f"stages/{name}.onnx", loop=loop, inputs=inputs, outputs=outputs, frame_rate=frame_rate)
