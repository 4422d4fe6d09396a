from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from passes.stage_maker import bundle_of, executed, load, model, op_types, rows, run, snr, weights
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError
from vivace.core.settings import describe, parse
from vivace.passes import int8_static
from vivace.passes.int8_static import Settings, affine


def quantized(bundle: Bundle, out: Path, context: Context, **settings: Any) -> Bundle:
    return int8_static.apply(bundle, out, parse(Settings, settings, "int8_static"), context)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_stays_close_to_float_and_shrinks(small, tmp_path, context, method, activations):
    # 8 bits over a range of about 6 standard deviations: some 40 dB for each layer, four layers deep.
    child = quantized(small, tmp_path / "child", context, method=method, activations=activations)
    for name in ("text", "decoder"):
        before, after = load(small, name), load(child, name)
        onnx.checker.check_model(after)
        assert snr(run(before, rows(name)[0]), run(after, rows(name)[0])) > 25
    # w0 and w1, 6656 floats, become bytes; the transposed convolution stays
    assert small.size - child.size > 2.5 * 6656


def test_the_runtime_executes_integer_kernels(small, tmp_path, context):
    child = quantized(small, tmp_path / "child", context)
    decoder = executed(load(child, "decoder"), tmp_path)
    assert decoder.count("QLinearConv") == 2
    assert "ConvTranspose" in decoder  # which has no integer kernel
    text = executed(load(child, "text"), tmp_path)
    assert {"QLinearMatMul", "MatMulIntegerToFloat"} & set(text)
    assert "QGemm" in text
    assert sum("MatMul" in kind for kind in text) == 2  # one more: the product of two activations


def test_zero_points_are_written_where_a_kernel_needs_them(small, tmp_path, context):
    """Of symmetric weights they are all 0: none for convolutions and biases, one a channel for matrix products."""
    child = quantized(small, tmp_path / "child", context)
    for name, expected in (("decoder", 0), ("text", 2)):
        graph = load(child, name).graph
        sizes = {i.name: int(np.prod(i.dims)) for i in graph.initializer}
        of_constants = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in sizes]
        zeros = [n.input[2] for n in of_constants if len(n.input) > 2]
        assert len(of_constants) >= 3
        assert len(zeros) == expected
        assert all(zero.endswith("/weight/zero") for zero in zeros)


def test_labels_history_and_the_untouched_rest(small, tmp_path, context):
    child = quantized(small, tmp_path / "child", context, stages="decoder", percentile=99.9, method="percentile")
    assert child.stage("decoder").precision == "mixed int8"
    assert child.stage("text").precision == "fp32"
    assert child.files["stages/text.onnx"] == small.files["stages/text.onnx"]
    assert child.files["stages/postnet.bin"] == small.files["stages/postnet.bin"]
    step = child.history[-1]
    assert (step.name, step.parent, step.settings["percentile"]) == ("int8_static", small.digest, 99.9)
    assert list(step.settings["stages"]) == ["decoder"]
    assert open_bundle(tmp_path / "child").digest == child.digest


def test_all_products_quantized_is_int8(small, tmp_path, context):
    child = quantized(small, tmp_path / "child", context, stages="text", include="/project/*")
    assert child.stage("text").precision == "mixed int8"
    grandchild = quantized(child, tmp_path / "grandchild", context, stages="text")
    assert grandchild.stage("text").precision == "int8"


def test_patterns_and_operators_choose(small, tmp_path, context):
    def convolutions(**settings: Any) -> list[str]:
        child = quantized(small, tmp_path / str(len(list(tmp_path.iterdir()))), context, **settings)
        return [n.name for n in load(child, "decoder").graph.node if n.op_type == "Conv" and "weight" in n.input[1]]

    assert convolutions(include="/block/*") == ["/block/Conv"]
    assert convolutions(exclude=["/pre/*"]) == ["/block/Conv"]
    assert convolutions(include="/*", exclude="/text/*") == ["/pre/Conv", "/block/Conv"]
    assert convolutions(op_types="MatMul") == []


def test_an_excluded_layer_computes_the_same(small, tmp_path, context):
    child = quantized(small, tmp_path / "child", context, include="/block/*")
    row = rows("decoder")[0]
    assert np.array_equal(
        run(_probed(load(small, "decoder"), "c0"), row, "c0"), run(_probed(load(child, "decoder"), "c0"), row, "c0")
    )


def _probed(made: Any, tensor: str) -> Any:
    made.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return made


def test_applications_follow_one_another(small, tmp_path, context):
    """Layer by layer equals all at once in structure, and nothing is wrapped twice."""
    first = quantized(small, tmp_path / "1", context, stages="decoder", include="/block/*", method="percentile")
    second = quantized(first, tmp_path / "2", context, stages="decoder")
    at_once = quantized(small, tmp_path / "3", context, stages="decoder")
    assert sorted(op_types(load(second, "decoder"))) == sorted(op_types(load(at_once, "decoder")))
    before = {n.name: n for n in load(first, "decoder").graph.node}
    after = {n.name: n for n in load(second, "decoder").graph.node}
    assert after["/block/Conv"] == before["/block/Conv"]
    assert _scales(load(first, "decoder")).items() <= _scales(load(second, "decoder")).items()
    with pytest.raises(UsageError, match="would change nothing: stage decoder has no Conv, MatMul, Gemm"):
        quantized(second, tmp_path / "4", context, stages="decoder")
    assert not (tmp_path / "4").exists()


def _scales(made: Any) -> dict[str, float]:
    return {i.name: float(onnx.numpy_helper.to_array(i)) for i in made.graph.initializer if i.name.endswith("d/scale")}


def test_layers_that_share_an_input_share_its_quantization(tmp_path, context):
    rng = np.random.default_rng(1)
    conv = {"kernel_shape": [1]}
    shared = model(
        [
            helper.make_node("Conv", ["x", "a"], ["p"], name="/one/Conv", **conv),
            helper.make_node("Conv", ["x", "b"], ["q"], name="/two/Conv", **conv),
            helper.make_node("Conv", ["p", "c"], ["r"], name="/three/Conv", **conv),
            helper.make_node("Add", ["q", "r"], ["y"], name="/Add"),
        ],
        {"a": weights(rng, 24, 16, 1), "b": weights(rng, 24, 16, 1), "c": weights(rng, 24, 24, 1)},
        {"x": [1, 16, "n"]},
        {"y": [1, 24, "n"]},
    )
    parent = bundle_of({"decoder": shared}, tmp_path / "parent")
    whole = load(quantized(parent, tmp_path / "whole", context), "decoder")
    step = quantized(parent, tmp_path / "step", context, include="/one/*")
    # The type follows the input's: a kernel that mixes uint8 and int8 activations does not exist.
    steps = load(quantized(step, tmp_path / "steps", context, activations="int8"), "decoder")
    for made in (whole, steps):
        # x once; p, q and r each once as an output, and p not again as the input of /three
        assert op_types(made).count("QuantizeLinear") == 4
        assert snr(run(shared, rows("decoder")[0]), run(made, rows("decoder")[0])) > 25
        assert executed(made, tmp_path).count("QLinearConv") == 3


def test_elementwise_operators(small, tmp_path, context):
    settings = {"stages": "decoder", "op_types": "Conv,LeakyRelu,Add"}
    child = quantized(small, tmp_path / "child", context, **settings)
    done = executed(load(child, "decoder"), tmp_path)
    assert {"QLinearLeakyRelu", "QLinearAdd"} <= set(done)
    row = rows("decoder")[0]
    assert snr(run(load(small, "decoder"), row), run(load(child, "decoder"), row)) > 25
    with pytest.raises(UsageError, match="would change nothing"):
        quantized(child, tmp_path / "again", context, **settings)


def test_elementwise_with_a_constant_and_without_floats(tmp_path, context):
    made = model(
        [
            helper.make_node("Mul", ["x", "half"], ["m"], name="/Mul"),
            helper.make_node("Sigmoid", ["m"], ["y"], name="/Sigmoid"),
            helper.make_node("Shape", ["x"], ["s"], name="/Shape"),
            helper.make_node("Add", ["s", "s"], ["twice"], name="/twice/Add"),
            helper.make_node("Cast", ["twice"], ["z"], name="/Cast", to=1),
        ],
        {"half": np.full((1, 16, 1), -0.5, np.float32)},
        {"x": [1, 16, "n"]},
        {"y": [1, 16, "n"], "z": [3]},
    )
    child = quantized(
        bundle_of({"decoder": made}, tmp_path / "p"), tmp_path / "c", context, op_types=["Mul", "Sigmoid", "Add"]
    )
    after, row = load(child, "decoder"), rows("decoder")[0]
    assert np.abs(run(made, row) - run(after, row)).max() < 0.02
    assert np.array_equal(run(made, row, "z"), run(after, row, "z"))  # whole numbers are no activations


def test_a_channel_scale_beats_one_for_all(tmp_path, context):
    rng = np.random.default_rng(2)
    weight = weights(rng, 32, 16, 3) * np.logspace(-2, 0, 32, dtype=np.float32).reshape(-1, 1, 1)
    made = model(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="/Conv", kernel_shape=[3], pads=[1, 1])],
        {"w": weight},
        {"x": [1, 16, "n"]},
        {"y": [1, 32, "n"]},
    )
    parent = bundle_of({"decoder": made}, tmp_path / "parent")
    error = {}
    for each in (True, False):
        child = load(quantized(parent, tmp_path / str(each), context, per_channel=each), "decoder")
        stored = next(n for n in child.graph.node if n.name == "/Conv/weight/DequantizeLinear")
        constants = {i.name: onnx.numpy_helper.to_array(i) for i in child.graph.initializer}
        back = constants[stored.input[0]] * constants[stored.input[1]].reshape(-1, 1, 1)
        error[each] = float(np.abs(back - weight)[0].max() / np.abs(weight[0]).max())
    assert error[True] <= 0.5 / 127 + 1e-6 < 0.1 < error[False]


def test_a_reduced_range_keeps_weights_within_seven_bits(small, tmp_path, context):
    def peak(reduced: bool) -> int:
        child = quantized(small, tmp_path / str(reduced), context, stages="decoder", reduce_range=reduced)
        stored = [i for i in load(child, "decoder").graph.initializer if i.name.endswith("/weight/quantized")]
        assert len(stored) == 2
        return max(int(np.abs(onnx.numpy_helper.to_array(i).astype(int)).max()) for i in stored)

    assert (peak(False), peak(True)) == (127, 63)


def test_height_one_convolutions_as_the_layout_pass_makes_them(tmp_path, context):
    rng = np.random.default_rng(3)
    made = model(
        [
            helper.make_node("Unsqueeze", ["x", "axis"], ["x4"], name="/in/Unsqueeze"),
            helper.make_node(
                "Conv", ["x4", "w", "b"], ["c"], name="/Conv", kernel_shape=[1, 3], pads=[0, 1, 0, 1], dilations=[1, 1]
            ),
            helper.make_node("LeakyRelu", ["c"], ["l"], name="/LeakyRelu", alpha=0.1),
            helper.make_node("Squeeze", ["l", "axis"], ["y"], name="/Squeeze"),
        ],
        {"w": weights(rng, 24, 16, 1, 3), "b": weights(rng, 24), "axis": np.array([2])},
        {"x": [1, 16, "n"]},
        {"y": [1, 24, "n"]},
    )
    after = load(quantized(bundle_of({"decoder": made}, tmp_path / "p"), tmp_path / "c", context), "decoder")
    assert "QLinearConv" in executed(after, tmp_path)
    assert snr(run(made, rows("decoder")[0]), run(after, rows("decoder")[0])) > 30


def test_a_dead_channel_keeps_its_bias(tmp_path, context):
    weight = weights(np.random.default_rng(4), 8, 16, 1)
    weight[3] = 0
    bias = np.linspace(-3, 3, 8).astype(np.float32)
    made = model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="/Conv", kernel_shape=[1])],
        {"w": weight, "b": bias},
        {"x": [1, 16, "n"]},
        {"y": [1, 8, "n"]},
    )
    after = load(quantized(bundle_of({"decoder": made}, tmp_path / "p"), tmp_path / "c", context), "decoder")
    value = run(after, rows("decoder")[0])[0, 3]
    assert np.abs(value - bias[3]).max() < 0.05


def test_what_cannot_be_quantized_is_left_alone(tmp_path, context):
    rng = np.random.default_rng(5)
    made = model(
        [
            helper.make_node("Gemm", ["x", "w"], ["scaled"], name="/scaled/Gemm", alpha=0.5),
            helper.make_node("Gemm", ["x", "w", "m"], ["matrix"], name="/matrix/Gemm"),
            helper.make_node("Add", ["scaled", "matrix"], ["y"], name="/Add"),
        ],
        {"w": weights(rng, 48, 8), "m": weights(rng, 1, 8)},
        {"x": ["n", 48]},
        {"y": ["n", 8]},
    )
    with pytest.raises(UsageError, match="stage text has no Conv, MatMul, Gemm with constant float weights"):
        quantized(bundle_of({"text": made}, tmp_path / "p"), tmp_path / "c", context)


def test_a_product_with_a_stack_of_matrices_stays_float(tmp_path, context):
    """ONNX Runtime's integer product rejects a zero point for each column of each."""
    nodes = [helper.make_node("MatMul", ["x", "stack"], ["y"], name="/stack")]
    stack = {"stack": weights(np.random.default_rng(6), 1, 4, 48, 6)}
    made = model(nodes, stack, {"x": [1, 4, "n", 48]}, {"y": [1, 4, "n", 6]})
    with pytest.raises(UsageError, match="stage text has no Conv, MatMul, Gemm with constant float weights"):
        quantized(bundle_of({"text": made}, tmp_path / "p"), tmp_path / "c", context)


def test_refusals(small, tmp_path, context):
    with pytest.raises(UsageError, match="unknown setting 'percentil'; did you mean 'percentile'"):
        parse(Settings, {"percentil": 99}, "int8_static")
    with pytest.raises(UsageError, match="percentile is 50"):
        parse(Settings, {"percentile": 50}, "int8_static")
    with pytest.raises(UsageError, match="choose from Conv, MatMul"):
        parse(Settings, {"op_types": "ConvTranspose"}, "int8_static")
    with pytest.raises(UsageError, match="choose from minmax"):
        parse(Settings, {"method": "median"}, "int8_static")
    with pytest.raises(UsageError, match="no stage 'vocoder'; it has text, decoder, postnet"):
        quantized(small, tmp_path / "c", context, stages="vocoder")
    with pytest.raises(UsageError, match="stage postnet is no ONNX file"):
        quantized(small, tmp_path / "c", context, stages="postnet")
    with pytest.raises(UsageError, match="at least one text"):
        quantized(small, tmp_path / "c", Context(calibration=lambda stage: []))
    with pytest.raises(ModelError, match="fails on a calibration row"):
        quantized(small, tmp_path / "c", Context(calibration=lambda stage: [{"wrong": np.zeros(3)}]))
    nan = [{"x": np.full((1, 16, 9), np.nan, np.float32)}]
    with pytest.raises(ModelError, match="not finite"):
        quantized(small, tmp_path / "c", Context(calibration=lambda stage: nan), stages="decoder")
    assert not (tmp_path / "c").exists()


def test_accepts(small):
    settings = Settings(stages=("decoder", "postnet"))
    assert int8_static.accepts(small.stage("decoder"), settings) is None
    assert "not among" in int8_static.accepts(small.stage("text"), settings)
    assert "no ONNX file" in int8_static.accepts(small.stage("postnet"), settings)


def test_progress_moves_forward_to_the_end(small, tmp_path):
    seen: list[tuple[str, float]] = []
    context = Context(calibration=rows, progress=lambda message, share: seen.append((message, share)))
    quantized(small, tmp_path / "c", context, stages="decoder", method="entropy")
    shares = [share for message, share in seen if message == "calibrating decoder"]
    assert shares == sorted(shares)
    assert (len(shares), shares[-1]) == (12, 1.0)


def test_every_setting_explains_itself():
    assert all(option.help for option in describe(Settings))


@given(st.floats(-1e4, 0), st.floats(0, 1e4), st.booleans())
def test_the_grid_holds_zero_and_the_range(low, high, unsigned):
    scale, zero = affine(low, high, unsigned)
    assert zero.dtype == (np.uint8 if unsigned else np.int8)
    first = 0 if unsigned else -128
    step = float(scale)
    # Rounding the zero point moves the grid by at most half a step.
    assert (first - int(zero)) * step <= low + 0.51 * step
    assert (first + 255 - int(zero)) * step >= high - 0.51 * step


@pytest.mark.voice
def test_the_first_stages_of_a_real_decoder(real_voice, tmp_path):
    rng = np.random.default_rng(0)
    latents = [{"latent": rng.standard_normal((1, 192, n)).astype(np.float32)} for n in (40, 60)]
    child = quantized(
        real_voice,
        tmp_path / "child",
        Context(calibration=lambda stage: latents),
        stages="decoder",
        include=["/dec/conv_pre/*", "/dec/resblocks.[0-2]/*"],
    )
    assert child.stage("decoder").precision == "mixed int8"
    # conv_pre and six convolutions of 128 channels: 0.83 M weights, each three bytes less
    assert 2.2e6 < real_voice.size - child.size < 2.6e6
    row = {"latent": rng.standard_normal((1, 192, 50)).astype(np.float32)}
    before, after = (run(load(b, "decoder"), row, "output") for b in (real_voice, child))
    assert snr(before, after) > 12
    assert executed(load(child, "decoder"), tmp_path).count("QLinearConv") == 7
