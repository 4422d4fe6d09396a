from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.stage_maker import bundle_of, load, model, op_types, rows, run, weights
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.passes import _onnx, int8_static, short_names
from vivace.passes.short_names import Settings, shorten


def test_a_smaller_file_of_the_same_bits(small: Bundle, tmp_path: Path, context: Context) -> None:
    whole = int8_static.apply(small, tmp_path / "int8", int8_static.Settings(), context)
    child = short_names.apply(whole, tmp_path / "short", Settings(), context)
    for name in ("text", "decoder"):
        before, after = load(whole, name), load(child, name)
        onnx.checker.check_model(after, full_check=True)
        for a, b in zip(run(before, rows(name)[0]), run(after, rows(name)[0]), strict=True):
            np.testing.assert_array_equal(a, b)
        assert op_types(after) == op_types(before)
        assert [v.name for v in after.graph.input] == [v.name for v in before.graph.input]
        # What is left beside the numbers is a small part of what was.
        numbers = sum(len(i.raw_data) for i in after.graph.initializer)
        assert after.ByteSize() - numbers < 0.45 * (before.ByteSize() - numbers)
    assert child.stage("text").precision == whole.stage("text").precision
    with pytest.raises(UsageError, match="no longer names than it needs"):
        short_names.apply(child, tmp_path / "again", Settings(), context)


def test_a_later_pass_still_finds_layers_without_patterns(small: Bundle, tmp_path: Path, context: Context) -> None:
    child = short_names.apply(small, tmp_path / "short", Settings(), context)
    after = int8_static.apply(child, tmp_path / "int8", int8_static.Settings(), context)
    assert after.stage("decoder").precision == "mixed int8"


def test_only_defaults_are_left_out() -> None:
    rng = np.random.default_rng(0)
    made = model(
        [
            helper.make_node("Conv", ["x", "w"], ["y0"], name="/a", group=1, strides=[2], auto_pad="NOTSET"),
            helper.make_node("LeakyRelu", ["y0"], ["y1"], name="/b", alpha=0.01),
            helper.make_node("LeakyRelu", ["y1"], ["y"], name="/c", alpha=0.2, doc_string="a"),
        ],
        {"w": weights(rng, 8, 16, 3)},
        {"x": [1, 16, "n"]},
        {"y": [1, 8, "m"]},
    )
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = {"x": rng.standard_normal((1, 16, 9)).astype(np.float32)}
    before = run(made, x)
    shorten(made)
    np.testing.assert_array_equal(run(made, x)[0], before[0])
    assert [[a.name for a in node.attribute] for node in made.graph.node] == [["strides"], [], ["alpha"]]
    assert [(node.name, node.doc_string) for node in made.graph.node] == [("", "")] * 3
    assert [o.domain for o in made.opset_import] == [""]


def test_names_that_a_subgraph_reads_stay() -> None:
    """The branches of an If see the tensors around it by name."""
    inner = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(kind, ["doubled a lot", "b"], ["inner"])], kind, [], [inner])
        for kind in ("Add", "Mul")
    ]
    made = model(
        [
            helper.make_node("Add", ["x", "x"], ["doubled a lot"], name="/double"),
            helper.make_node("Mul", ["x", "doubled a lot"], ["b"], name="/square"),
            helper.make_node("Neg", ["b"], ["another long name"], name="/neg"),
            helper.make_node("ReduceMax", ["another long name"], ["most"], name="/most", keepdims=0),
            helper.make_node("Cast", ["most"], ["yes or no"], name="/yes", to=TensorProto.BOOL),
            helper.make_node("If", ["yes or no"], ["y"], name="/if", then_branch=branches[0], else_branch=branches[1]),
        ],
        {},
        {"x": [3]},
        {"y": [3]},
    )
    given = [{"x": np.array(x, np.float32)} for x in ([1, 2, 3], [0, 0, 0])]
    before = [run(made, x)[0] for x in given]
    shorten(made)
    onnx.checker.check_model(made, full_check=True)
    for x, wanted in zip(given, before, strict=True):
        np.testing.assert_array_equal(run(made, x)[0], wanted)
    names = {name for node in made.graph.node for name in node.output}
    assert {"doubled a lot", "b", "y"} < names
    assert not {"another long name", "most", "yes or no"} & names


def test_what_only_copies_stays_known(tmp_path: Path, context: Context) -> None:
    """Such a convolution is told by its name, and must not be quantized."""
    made = model(
        [helper.make_node("Conv", ["x", "w"], ["y"], name=f"{_onnx.COPY}_1", kernel_shape=[1])],
        {"w": np.eye(16, dtype=np.float32)[..., None]},
        {"x": [1, 16, "n"]},
        {"y": [1, 16, "n"]},
    )
    made.graph.doc_string = "long"
    child = short_names.apply(bundle_of({"decoder": made}, tmp_path / "p"), tmp_path / "c", Settings(), context)
    with pytest.raises(UsageError, match="would change nothing"):
        int8_static.apply(child, tmp_path / "d", int8_static.Settings(), context)
