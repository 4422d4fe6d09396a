from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.stage_maker import encoder, model, op_types, vocoder, weights
from vivace.core.errors import ModelError
from vivace.passes import _onnx


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), True),
        (("/dec/resblocks.[0-5]/*",), (), True),
        (("/dec/resblocks.[6-8]/*",), (), False),
        (("*/convs.0/Conv",), (), True),
        (("*CONVS.0*",), (), False),
        (("/flow/*", "/dec/*"), (), True),
        ((), ("/dec/*",), False),
        (("/dec/*",), ("*resblocks.3*",), False),
    ],
)
def test_selected(include, exclude, taken):
    assert _onnx.selected("/dec/resblocks.3/convs.0/Conv", include, exclude) is taken


def test_a_node_without_a_name_goes_by_its_output():
    node = helper.make_node("Relu", ["x"], ["y"])
    assert _onnx.node_name(node) == "y"
    node.name = "/Relu"
    assert _onnx.node_name(node) == "/Relu"


def test_read_and_write(tmp_path: Path):
    file = tmp_path / "stage.onnx"
    _onnx.write(vocoder(), file)
    assert op_types(_onnx.read(file)) == op_types(vocoder())
    file.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"stage\.onnx is no readable ONNX file"):
        _onnx.read(file)
    old = vocoder()
    old.opset_import[0].version = 11
    onnx.save(old, str(file))
    with pytest.raises(ModelError, match="opset 11; export the model with opset 13"):
        _onnx.read(file)
    with pytest.raises(ModelError, match="cannot be written"):
        _onnx.write(vocoder(), tmp_path / "nowhere" / "stage.onnx")


def test_constants_and_weights():
    made = encoder()
    made.graph.node.insert(0, helper.make_node("Constant", [], ["k"], name="/k", value_float=1.0))
    graph = _onnx.Graph(made)
    nodes = {n.name: n for n in graph.nodes}
    assert graph.weight(nodes["/project/MatMul"]).shape == (48, 64)
    assert graph.weight(nodes["/scores/MatMul"]) is None  # two activations
    assert graph.weight(nodes["/Relu"]) is None
    assert graph.constant("x") is None
    assert graph.constant("m") is None
    assert graph.constant("k") is None  # only tensors count
    assert graph.constant("b1").shape == (40,)


def test_float_tensors():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="/Shape"),
        helper.make_node("Relu", ["x"], ["y"], name="/Relu"),
    ]
    made = model(nodes, {}, {"x": ["n", 4]}, {"y": ["n", 4]})
    assert _onnx.float_tensors(made) == {"x", "y"}
    made.graph.node[1].domain = "unknown"  # what it makes is not known, which is no error
    made.opset_import.append(helper.make_opsetid("unknown", 1))
    assert "x" in _onnx.float_tensors(made)


def test_float_tensors_of_a_malformed_graph():
    made = vocoder()
    made.graph.node[0].domain = "undeclared"
    with pytest.raises(ModelError, match="malformed"):
        _onnx.float_tensors(made)


def test_rewrite_drops_what_nothing_uses_but_not_what_a_branch_uses():
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["t"])],
        "branch",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n"])],
    )
    made = model(
        [
            helper.make_node("Relu", ["x"], ["r"], name="/Relu"),
            helper.make_node("If", ["yes"], ["y"], name="/If", then_branch=branch, else_branch=branch),
        ],
        {"inner": np.ones(1, np.float32), "yes": np.array(True), "idle": np.ones(9, np.float32)},
        {"x": ["n"]},
        {"y": ["n"]},
    )
    _onnx.rewrite(made, made.graph.node[1:], [])
    assert op_types(made) == ["If"]
    assert sorted(i.name for i in made.graph.initializer) == ["inner", "yes"]
    onnx.checker.check_model(made)


def test_precision_labels():
    assert _onnx.precision(vocoder()) == "fp32"
    made = vocoder()
    cast = helper.make_node("Cast", ["w1/fp16"], ["w1"], to=TensorProto.FLOAT)
    narrow = next(i for i in made.graph.initializer if i.name == "w1")
    narrow.CopyFrom(
        onnx.numpy_helper.from_array(weights(np.random.default_rng(0), 32, 32, 5).astype(np.float16), "w1/fp16")
    )
    made.graph.node.insert(0, cast)
    assert _onnx.precision(made) == "fp32, fp16 weights"
    only = model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("Cast", ["x"], ["y"], to=1),
        ],
        {},
        {"x": ["n"]},
        {"y": ["n"]},
    )
    assert _onnx.precision(only) == "fp32"  # nothing is multiplied
