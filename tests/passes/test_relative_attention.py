"""The rewrite gives the same numbers for every length, finds what it should, and leaves the rest alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError
from vivace.passes import relative_attention as pass_

HEADS, SIZE, WIDTH = 2, 4, 5


class Exporter:
    """Writes attention as it is usually exported: all 2T-1 distances, sheared by padding and reshaping."""

    def __init__(self, opset: int = 17, width: int = WIDTH) -> None:
        rng = np.random.default_rng(1)
        self.nodes: list[Any] = []
        self.constants = [
            numpy_helper.from_array(rng.standard_normal((1, width, SIZE)).astype(np.float32), name)
            for name in ("keys", "values")
        ]
        self._width, self._opset = width, opset

    def _(self, kind: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"n/{out}", **attributes))
        return out

    def ints(self, *values: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def model(self) -> Any:
        _, ints, half = self._, self.ints, self._width // 2
        length = _("Shape", ["q"], "length", start=2, end=3)
        more, less = _("Add", [length, ints(1)], "more"), _("Sub", [length, ints(1)], "less")
        twice = _("Sub", [_("Mul", [length, ints(2)], "double"), ints(1)], "twice")
        side = _("Sub", [length, ints(half + 1)], "side")
        pads = _("Concat", [ints(0), side, ints(0), ints(0), side, ints(0)], "pads", axis=0)
        key = _("Unsqueeze", [_("Pad", ["keys", pads], "all_keys"), ints(0)], "keys4")
        _("Transpose", [key], "keysT", perm=[0, 1, 3, 2])
        _("Transpose", ["k"], "kT", perm=[0, 1, 3, 2])
        _("MatMul", ["q", "kT"], "content")
        _("MatMul", ["q", "keysT"], "relative")
        _("Pad", ["relative", ints(0, 0, 0, 0, 0, 0, 0, 1)], "r1")
        _("Reshape", ["r1", ints(0, 0, -1)], "r2")
        _("Pad", ["r2", _("Concat", [ints(0, 0, 0, 0, 0), less], "p3", axis=0)], "r3")
        _("Reshape", ["r3", _("Concat", [ints(0, HEADS), more, twice], "s4", axis=0)], "r4")
        last = ints(np.iinfo(np.int64).max)
        begin = _("Concat", [ints(0), less], "begin", axis=0)
        _("Slice", ["r4", begin, _("Concat", [length, last], "end", axis=0), ints(2, 3)], "r5")
        _("Add", ["content", "r5"], "scores")
        _("Softmax", ["scores"], "weights", axis=-1)
        _("Pad", ["weights", _("Concat", [ints(0, 0, 0, 0, 0, 0, 0), less], "p1", axis=0)], "w1")
        _("Reshape", ["w1", ints(0, 0, -1)], "w2")
        _("Pad", ["w2", _("Concat", [ints(0, 0), length, ints(0, 0, 0)], "p2", axis=0)], "w3")
        _("Reshape", ["w3", _("Concat", [ints(0, HEADS), length, "double"], "s5", axis=0)], "w4")
        _("Slice", ["w4", ints(1), last, ints(3)], "w5")
        _("MatMul", ["w5", _("Unsqueeze", [_("Pad", ["values", pads], "all_values"), ints(0)], "values4")], "near")
        _("Add", [_("MatMul", ["weights", "v"], "far"), "near"], "out")
        tensor = helper.make_tensor_value_info
        shape = ["batch", HEADS, "time", SIZE]
        graph = helper.make_graph(
            self.nodes,
            "attention",
            [tensor(name, TensorProto.FLOAT, shape) for name in "qkv"],
            [tensor("out", TensorProto.FLOAT, shape)],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=8)
        onnx.checker.check_model(made)
        return made


def rows(*lengths: int, batch: int = 2) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{n: rng.standard_normal((batch, HEADS, t, SIZE)).astype(np.float32) for n in "qkv"} for t in lengths]


def test_the_same_numbers_at_every_length() -> None:
    model = Exporter().model()
    before = model.SerializeToString()
    assert pass_.rewrite(model) is None
    onnx.checker.check_model(model)
    pass_.prove(before, model.SerializeToString(), rows(1, 2, 3, 4, 5, 6, 17, 40))
    kinds = [node.op_type for node in model.graph.node]
    assert "Pad" not in kinds
    assert kinds.count("ScatterElements") == kinds.count("GatherElements") == 1
    assert kinds.count("Range") == 1  # scores and weights have one shape, and so one set of positions


def test_what_differs_is_not_written() -> None:
    model = Exporter().model()
    before = model.SerializeToString()
    pass_.rewrite(model)
    window = next(i for i in model.graph.initializer if list(i.dims) == [1, 1, WIDTH, SIZE])
    window.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(window) + 1, window.name))
    with pytest.raises(ModelError, match="other numbers"):
        pass_.prove(before, model.SerializeToString(), rows(9))


def test_reasons_for_leaving_a_graph_alone() -> None:
    assert "graph_cleanup first" in str(pass_.rewrite(Exporter(opset=15).model()))
    assert "no attention" in str(pass_.rewrite(Exporter(width=4).model()))
    read_twice = Exporter().model()
    read_twice.graph.output.append(helper.make_tensor_value_info("r3", TensorProto.FLOAT, None))
    read_twice.graph.node.append(helper.make_node("Identity", ["r3"], ["again"]))
    read_twice.graph.node.append(helper.make_node("Identity", ["w3"], ["again too"]))
    assert "no attention" in str(pass_.rewrite(read_twice))


def test_a_voice_without_it_is_refused(toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no attention|graph_cleanup first"):
        pass_.apply(toy, tmp_path / "out", pass_.Settings(), Context(lambda stage: []))


@pytest.mark.voice
def test_the_real_voice_says_the_same(real_voice: Bundle, tmp_path: Path) -> None:
    import vivace
    from vivace.workflows.calibration import record

    cleanup = registry.load("passes", "graph_cleanup")
    clean = cleanup.apply(real_voice, tmp_path / "clean", cleanup.Settings(), Context(lambda stage: []))
    inputs = record(clean, ["Bring three lemons and a knife."])
    child = pass_.apply(clean, tmp_path / "child", pass_.Settings(), Context(lambda stage: inputs[stage]))
    for text in ("a", "The tide turned before noon, and nobody on the pier had seen it."):
        one, other = (vivace.synthesize(bundle, text, seed=2).samples for bundle in (clean, child))
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-4
