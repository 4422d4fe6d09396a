"""Counts are compared with sums written out by hand or by a formula of their own, on graphs that really run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from vivace.core.errors import ModelError
from vivace.workflows._macs import CountingSession, Work, of_event, total


class Silent:
    """Stands for the real session behind the counter."""

    def __init__(self):
        self.runs, self.closed = 0, False

    def run(self, inputs):
        self.runs += 1
        return {"y": np.zeros(1)}

    def close(self):
        self.closed = True


def count(tmp_path, nodes, feed, weights, output=TensorProto.FLOAT, runs=1, opsets=()):
    """Work by node of a graph with these nodes, run on `feed`; its output is called y."""
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    kinds |= {np.dtype(np.bool_): TensorProto.BOOL}
    inputs = [helper.make_tensor_value_info(n, kinds[v.dtype], v.shape) for n, v in feed.items()]
    outputs = [helper.make_tensor_value_info("y", output, None)]
    constants = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "counted", inputs, outputs, constants)
    imports = [helper.make_opsetid("", 17), *opsets]
    path = tmp_path / "counted.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    counter = CountingSession(Silent(), path)
    for _ in range(runs):
        counter.run(feed)
    work = counter.work()
    counter.close()
    return work


def floats(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def macs(work):
    return total(work.values()).total_macs


def conv(name="y", **attributes):
    return helper.make_node("Conv", ["x", "w"], [name], name="conv", **attributes)


def test_convolution_with_padding_and_bias_and_its_bytes(tmp_path):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[2, 2])
    work = count(tmp_path, [node], {"x": floats(1, 4, 10)}, {"w": floats(6, 4, 5), "b": floats(6)})
    assert work["conv"].macs == {"fp32": 6 * 4 * 5 * 10}
    assert work["conv"].weight_bytes == 4 * (6 * 4 * 5 + 6)
    assert work["conv"].activation_bytes == 4 * (4 * 10 + 6 * 10)


def test_dilated_strided_grouped_convolution(tmp_path):
    work = count(
        tmp_path,
        [conv(dilations=[3], strides=[2], group=2)],
        {"x": floats(2, 4, 21)},
        {"w": floats(6, 2, 5)},
    )
    frames = (21 - 3 * 4 - 1) // 2 + 1
    assert macs(work) == 2 * 6 * frames * 2 * 5  # batch, outputs, frames, inputs of a group, kernel


def test_depthwise_convolution_in_two_dimensions(tmp_path):
    work = count(tmp_path, [conv(group=3)], {"x": floats(1, 3, 8, 9)}, {"w": floats(3, 1, 3, 3)})
    assert macs(work) == 3 * 6 * 7 * 9


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution(tmp_path, group):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", strides=[4], pads=[2, 2], group=group)
    work = count(tmp_path, [node], {"x": floats(1, 8, 10)}, {"w": floats(8, 6, 8)})
    assert macs(work) == 8 * 10 * 6 * 8  # every input element meets every kernel of its group once


@settings(max_examples=25, deadline=None)
@given(
    group=st.integers(1, 3),
    ins=st.integers(1, 3),
    outs=st.integers(1, 3),
    kernel=st.integers(1, 4),
    dilation=st.integers(1, 3),
    stride=st.integers(1, 3),
    frames=st.integers(12, 20),
)
def test_any_convolution_counts_what_a_loop_would(tmp_path_factory, group, ins, outs, kernel, dilation, stride, frames):
    work = count(
        tmp_path_factory.mktemp("conv"),
        [conv(group=group, dilations=[dilation], strides=[stride])],
        {"x": floats(1, group * ins, frames)},
        {"w": floats(group * outs, ins, kernel)},
    )
    places = len(range(0, frames - dilation * (kernel - 1), stride))
    assert macs(work) == sum(ins * kernel for _ in range(places) for _ in range(group * outs))


def test_matrix_products(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="matmul"),
        helper.make_node("Reshape", ["a", "shape"], ["b"], name="reshape"),
        helper.make_node("Gemm", ["b", "v"], ["y"], name="gemm", transB=1),
    ]
    weights = {"w": floats(5, 7), "v": floats(9, 7), "shape": np.array([6, 7], np.int64)}
    work = count(tmp_path, nodes, {"x": floats(2, 3, 5)}, weights)
    assert macs({"matmul": work["matmul"]}) == 2 * 3 * 5 * 7
    assert macs({"gemm": work["gemm"]}) == 6 * 7 * 9
    assert work["reshape"] == Work()  # a view moves nothing


def test_a_product_with_a_vector(tmp_path):
    work = count(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": floats(2, 3, 5)}, {"w": floats(5)})
    assert macs(work) == 2 * 3 * 5


def test_integer_operators_are_int8(tmp_path):
    scales = {"one": np.float32(0.1), "zero": np.uint8(0), "nought": np.int8(0)}
    q = {"x": np.ones((1, 4, 10), np.uint8)}
    w = {"w": np.ones((6, 4, 3), np.int8), **scales}
    node = helper.make_node("QLinearConv", ["x", "one", "zero", "w", "one", "nought", "one", "zero"], ["y"])
    assert total(count(tmp_path, [node], q, w, TensorProto.UINT8).values()).macs == {"int8": 6 * 4 * 3 * 8}
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    weights = {"w": np.ones((6, 4, 3), np.uint8)}
    assert total(count(tmp_path, [node], q, weights, TensorProto.INT32).values()).macs == {"int8": 6 * 4 * 3 * 8}
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    weights = {"w": np.ones((10, 2), np.int8)}
    assert total(count(tmp_path, [node], q, weights, TensorProto.INT32).values()).macs == {"int8": 4 * 10 * 2}
    node = helper.make_node("QLinearMatMul", ["x", "one", "zero", "w", "one", "nought", "one", "zero"], ["y"])
    weights = {"w": np.ones((10, 2), np.int8), **scales}
    assert total(count(tmp_path, [node], q, weights, TensorProto.UINT8).values()).macs == {"int8": 4 * 10 * 2}


def quantized(*, whole):
    """A convolution between dequantized tensors; only if `whole` is its result quantized again."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "one", "nought"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"], name="conv"),
        helper.make_node("QuantizeLinear", ["c", "one", "zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "one", "zero"], ["y"]),
    ]
    if not whole:
        nodes[4:] = [helper.make_node("Tanh", ["c"], ["y"])]
    return nodes


@pytest.mark.parametrize(("whole", "precision"), [(True, "int8"), (False, "fp32")])
def test_a_qdq_convolution_counts_in_the_precision_it_runs_in(tmp_path, whole, precision):
    weights = {"w": np.ones((6, 4, 3), np.int8), "one": np.float32(0.1), "zero": np.uint8(3), "nought": np.int8(0)}
    work = count(tmp_path, quantized(whole=whole), {"x": floats(1, 4, 10)}, weights)
    assert total(work.values()).macs == {precision: 6 * 4 * 3 * 8}


def test_dynamic_quantization_is_int8(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "nought"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["scale"]),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    weights = {"w": np.ones((5, 7), np.int8), "nought": np.int8(0), "ws": np.float32(0.1)}
    work = count(tmp_path, nodes, {"x": floats(3, 5)}, weights)
    assert total(work.values()).macs == {"int8": 3 * 5 * 7}


def test_recurrent_layers(tmp_path):
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4, direction="bidirectional")
    weights = {"w": floats(2, 16, 3), "r": floats(2, 16, 4)}
    work = count(tmp_path, [node], {"x": floats(10, 2, 3)}, weights)
    assert macs(work) == 10 * 2 * 2 * 16 * (3 + 4)


def test_only_the_branch_that_runs_counts(tmp_path):
    def branch(name, width):
        weights = numpy_helper.from_array(floats(5, width), f"{name}_w")
        node = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"], name=name)
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out], [weights])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("wide", 100), else_branch=branch("slim", 2))
    work = count(tmp_path, [node], {"c": np.array([False]), "x": floats(3, 5)}, {})
    assert macs(work) == 3 * 5 * 2


def test_runs_add_up_and_reach_the_real_session(tmp_path):
    work = count(tmp_path, [conv()], {"x": floats(1, 2, 5)}, {"w": floats(2, 2, 2)}, runs=3)
    assert macs(work) == 3 * 2 * 2 * 2 * 4


def test_a_sample_of_runs_stands_for_all(tmp_path):
    """Each longer than the one before, as the steps of a decoder without a cache: the middle ones are the mean."""
    weights, x = {"w": floats(4, 3)}, ["time", 4]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    path = tmp_path / "steps.onnx"
    inputs, outputs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", None)))
    constants = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph([node], "steps", [inputs], [outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    work = {}
    for every in (1, 5):
        counter = CountingSession(Silent(), path, every)
        for k in range(1, 101):
            counter.run({"x": floats(k, 4)})
        work[every] = counter.work()["product"]
        counter.close()
    assert work[1].macs == work[5].macs == {"fp32": 5050 * 4 * 3}
    assert work[1] == work[5]


def test_what_cannot_be_counted_is_named(tmp_path):
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    work = total(count(tmp_path, [node], {"x": floats(3, 5)}, {"w": floats(5, 2)}).values())
    assert work.total_macs == 0
    assert work.uncounted == {"Einsum"}


@pytest.mark.parametrize(
    ("op", "inputs", "output", "expected"),
    [
        ("FusedMatMul", [[2, 5, 3], [2, 5, 7]], [2, 3, 7], 2 * 3 * 5 * 7),  # left side transposed
        ("FusedMatMul", [[4, 4], [9, 4]], [4, 9], 4 * 4 * 9),
        ("MatMul", [[5], [5, 7]], [7], 5 * 7),
        ("MatMul", [[0, 5], [5, 7]], [0, 7], 0),
        ("DynamicQuantizeMatMul", [[3, 5], [5, 7]], [3, 7], 3 * 5 * 7),
        ("Relu", [[3, 5]], [3, 5], 0),
    ],
)
def test_shapes_of_fused_products(op, inputs, output, expected):
    args = {"op_name": op, "parameter_size": "0", "activation_size": "8", "output_size": "4"}
    args["input_type_shape"] = [{"float": shape} for shape in inputs]
    args["output_type_shape"] = [{"float": output}]
    work = of_event(args)
    assert work.total_macs == expected
    assert work.total_bytes == 12
    assert "int8" not in work.macs or op.startswith("Dynamic")


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"cannot count the operations of broken\.onnx"):
        CountingSession(Silent(), path)


def test_the_real_session_answers_and_is_closed(tmp_path):
    path = tmp_path / "one.onnx"
    graph = helper.make_graph(
        [conv()],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(floats(2, 2, 2), "w")],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    real = Silent()
    counter = CountingSession(real, path)
    assert counter.run({"x": floats(1, 2, 5), "more": floats(1)})["y"].shape == (1,)
    counter.close()
    assert (real.runs, real.closed) == (1, True)
