from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from passes.graph_maker import GraphMaker, attribute, copied, kinds, node, run
from passes.stage_maker import bundle_of, executed, load
from passes.vocoder_maker import decoder, latent
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import parse
from vivace.core.stage import Stage
from vivace.passes import int8_static, layout_conv2d
from vivace.passes._onnx import COPY
from vivace.passes._region import Finder
from vivace.passes.layout_conv2d import Settings, make_plan, rewrite

CLOSE = 2e-6


def rewritten(model: Any, **settings: Any) -> Any:
    made = copied(model)
    assert rewrite(made, Settings(**settings)) is None
    onnx.checker.check_model(made, full_check=True)
    assert {n.domain for n in made.graph.node} == {""}
    return made


def error(before: Any, after: Any, inputs: dict[str, Any]) -> float:
    a, b = run(before, inputs), run(after, inputs)
    assert [x.shape for x in a] == [x.shape for x in b]
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"polyphase": False},
    {"conv2d": False},
    {"blocked": False},
    {"plain": ("*/resblocks.[01]/*",)},
    {"time_split": 2},
    {"time_split": 3, "blocked": False},
    {"time_split": 4, "polyphase": False},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("rates", [(4, 2), (3, 2)], ids=str)
def test_a_vocoder_sounds_the_same_at_every_length(settings: dict[str, Any], rates: tuple[int, int]) -> None:
    before = decoder(rates=rates)
    after = rewritten(before, **settings)
    for frames, batch in ((1, 1), (2, 1), (3, 2), (10, 1), (37, 1), (150, 1)):
        assert error(before, after, latent(frames, batch)) < CLOSE


def test_every_convolution_is_two_dimensional_and_keeps_its_name() -> None:
    before = decoder()
    after = rewritten(before)
    assert "ConvTranspose" not in kinds(after)
    weights = {i.name: i for i in after.graph.initializer}
    convolutions = [n for n in after.graph.node if n.op_type == "Conv"]
    assert all(len(weights[n.input[1]].dims) == 4 and len(attribute(n, "kernel_shape")) == 2 for n in convolutions)
    names = {n.name for n in before.graph.node if n.op_type in ("Conv", "ConvTranspose")}
    assert names == {n.name for n in convolutions if not n.name.startswith(COPY)}
    assert not {"Div", "Pad"} & set(kinds(after))  # the mean of the blocks is in the next layer's weights
    assert kinds(after).count("Squeeze") == 1


def test_upsampling_does_no_more_work_than_before() -> None:
    before, after = decoder(rates=(4, 2)), rewritten(decoder(rates=(4, 2)))
    sizes = [{i.name: int(np.prod(i.dims)) for i in m.graph.initializer} for m in (before, after)]
    name = "/dec/ups.0/ConvTranspose"
    assert sizes[0][node(before, name).input[1]] == sizes[1][node(after, name).input[1]]


def test_activations_stay_in_the_blocked_layout(tmp_path: Path) -> None:
    """On a machine with blocked kernels, the runtime fuses every addition but the sums over blocks."""
    before = decoder(channels=64, rates=(4, 2))  # 32 and 16 channels: multiples of a block
    with_copies, without = rewritten(before), rewritten(before, blocked=False)
    assert any(n.name.startswith(COPY) for n in with_copies.graph.node)
    assert not any(n.name.startswith(COPY) for n in without.graph.node)
    left = executed(with_copies, tmp_path)
    if "ReorderInput" not in left:
        pytest.skip("this machine has no blocked kernels")
    assert "LeakyRelu" not in left
    assert left.count("Add") == 2  # one for each stage: two blocks
    assert executed(without, tmp_path).count("ReorderInput") > left.count("ReorderInput")


def test_plain_keeps_ordinary_activations_around_what_will_be_quantized() -> None:
    def copies(**settings: Any) -> int:
        return sum(n.name.startswith(COPY) for n in rewritten(decoder(), **settings).graph.node)

    assert copies(plain=("*/resblocks.*", "*/ups.1/*", "*/conv_post/*")) == 0
    assert 0 < copies(plain=("*/resblocks.[01]/*", "*/ups.1/*")) < copies()


def test_the_result_can_be_quantized(tmp_path: Path, context: Context) -> None:
    before = bundle_of({"decoder": _as_stage(decoder())}, tmp_path / "before")
    child = layout_conv2d.apply(before, tmp_path / "child", Settings(), context)
    rows = Context(calibration=lambda _: [{"x": latent(40)["latent"]}])
    settings = parse(int8_static.Settings, {}, "int8_static")
    quantized = int8_static.apply(child, tmp_path / "quantized", settings, rows)
    made = load(quantized, "decoder")
    count = sum(n.op_type in ("Conv", "ConvTranspose") for n in decoder().graph.node)
    left = executed(made, tmp_path)
    assert left.count("QLinearConv") == count
    copying = [n for n in made.graph.node if n.name.startswith(COPY)]
    assert copying
    weights = {i.name for i in made.graph.initializer}
    assert all(n.input[1] in weights for n in copying)  # still float: they only copy


def _as_stage(model: Any) -> Any:
    """With the input called `x`, as bundle_of declares it."""
    for n in model.graph.node:
        for k, name in enumerate(n.input):
            n.input[k] = "x" if name == "latent" else name
    model.graph.input[0].name = "x"
    return model


@examples(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    pads=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    extra=st.integers(0, 4),
    frames=st.integers(1, 6),
    groups=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 1, 2]),
    conv2d=st.booleans(),
)
@example(kernel=2, stride=1, pads=(0, 1), extra=0, frames=1, groups=1, dilation=1, conv2d=True)
@example(kernel=3, stride=4, pads=(1, 0), extra=2, frames=3, groups=1, dilation=1, conv2d=True)
def test_any_upsampling_layer(
    kernel: int, stride: int, pads: tuple[int, int], extra: int, frames: int, groups: int, dilation: int, conv2d: bool
) -> None:
    length = (frames - 1) * stride + (kernel - 1) * dilation + 1 + extra - sum(pads)
    if length < 1 or extra >= stride:
        return
    rng = np.random.default_rng(kernel)
    g = GraphMaker(x=["batch", 4, "frames"])
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3, kernel), 3 * groups))
    shape = {"kernel_shape": [kernel], "strides": [stride], "pads": list(pads), "dilations": [dilation]}
    y = g.op("ConvTranspose", "x", weight, bias, group=groups, output_padding=[extra], **shape)
    before = g.model(g.op("Neg", y))
    after = rewritten(before, conv2d=conv2d)
    x = {"x": rng.standard_normal((2, 4, frames)).astype(np.float32)}
    assert error(before, after, x) < 2e-5


def flow() -> Any:
    """A coupling layer with masks, a gate, a flip and a condition of one time step."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(shape[1] * shape[2])).astype(np.float32)

    g = GraphMaker(x=["batch", 8, "frames"], mask=["batch", 1, "frames"], speaker=["batch", 8, 1])
    flipped = g.op("Slice", "x", g.ints(-1), g.ints(-(2**62)), g.ints(1), g.ints(-1))
    low, high = g.op("Split", flipped, g.ints(4, 4), axis=1, outputs=2)
    y = g.op("Mul", g.op("Conv", low, weight(8, 4, 1)), "mask")
    y = g.op("Add", y, g.op("Conv", "speaker", weight(8, 8, 1)))
    y = g.op("Add", y, rng.standard_normal((1, 8, 1)).astype(np.float32))
    y = g.op("Mul", rng.standard_normal((8, 1)).astype(np.float32), y)
    y = g.op("Conv", y, weight(8, 8, 5), np.zeros(8, np.float32), pads=[2, 2])
    parts = [g.op("Slice", y, g.ints(a), g.ints(b), g.ints(-2), g.ints(1)) for a, b in ((0, 4), (4, 8))]
    gate = g.op("Mul", g.op("Tanh", parts[0]), g.op("Sigmoid", parts[1]))
    y = g.op("Sub", high, g.op("Conv", gate, weight(4, 4, 1)))
    y = g.op("Concat", low, g.op("Mul", y, "mask"), axis=1)
    shifted = g.op("Slice", y, g.ints(1), g.ints(2**62), g.ints(2))
    y = g.op("Concat", y, shifted, rng.standard_normal((1, 8, 2)).astype(np.float32), axis=-1)
    return g.model(y)


@pytest.mark.parametrize("settings", [{}, {"time_split": 2}], ids=str)
def test_a_flow_with_masks_and_channel_pieces(settings: dict[str, Any]) -> None:
    before = flow()
    after = rewritten(before, **settings)
    rng = np.random.default_rng(4)
    for frames in (2, 9):
        x = {"x": (1, 8, frames), "mask": (1, 1, frames), "speaker": (1, 8, 1)}
        assert error(before, after, {k: rng.standard_normal(v).astype(np.float32) for k, v in x.items()}) < CLOSE
    assert kinds(after).count("Unsqueeze") == 3  # one for each input,
    assert kinds(after).count("Squeeze") == 1  # one for the output, none between


def test_strides_and_uneven_padding() -> None:
    g = GraphMaker(x=["batch", 16, "frames"])
    ones = np.random.default_rng(0).standard_normal((16, 16, 3)).astype(np.float32) / 7
    x = g.op("Conv", "x", ones, strides=[2], pads=[1, 0])
    x = g.op("LeakyRelu", g.op("Add", x, g.op("Conv", x, ones, pads=[2, 0])), alpha=0.3)
    before = g.model(g.op("Conv", x, ones[:2], pads=[1, 1]))
    for settings in VARIANTS[:1] + VARIANTS[3:]:
        if settings.get("polyphase", True):
            after = rewritten(before, **settings)
            for frames in (4, 5, 33):
                x_ = {"x": np.random.default_rng(1).standard_normal((2, 16, frames)).astype(np.float32)}
                assert error(before, after, x_) < CLOSE


def test_shapes_and_other_readers_see_the_old_tensors() -> None:
    before = decoder(tail="/dec/resblocks.3/convs.0/Conv_output_0")
    after = rewritten(before, time_split=2)
    x = latent(9)
    assert error(before, after, x) < CLOSE
    assert [v.shape for v in run(after, x)] == [(1, 1, 1, 72), (3,)]
    assert not make_plan(Finder(before), Settings(time_split=2)).cuts  # two tensors leave what would be split


def test_tensors_that_only_a_subgraph_reads() -> None:
    from onnx import TensorProto, helper

    g = GraphMaker(x=["batch", 4, "frames"], which=("bool", []))
    rng = np.random.default_rng(0)
    x = g.op("Conv", "x", rng.standard_normal((4, 4, 1)).astype(np.float32))
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = [helper.make_graph([helper.make_node(kind, [x], ["inner"])], kind, [], [out]) for kind in ("Abs", "Neg")]
    before = g.model(g.op("If", "which", then_branch=branch[0], else_branch=branch[1]))
    after = rewritten(before)
    for which in (True, False):
        given = {"x": rng.standard_normal((1, 4, 5)).astype(np.float32), "which": np.array(which)}
        assert error(before, after, given) < CLOSE


def test_a_scale_that_not_every_reader_absorbs_stays() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 4, 1)).astype(np.float32)

    def model(readers: int, factor: float, order: int) -> Any:
        g = GraphMaker(x=["batch", 4, "frames"])
        pair = (g.op("Conv", "x", weight), np.full((1, 1, 1), factor, np.float32))
        x = g.op("Mul", *pair[::order])
        y = g.op("Conv", g.op("Relu", x), weight)
        return g.model(y if readers == 1 else g.op("Add", x, y))

    x = {"x": rng.standard_normal((1, 4, 5)).astype(np.float32)}
    for readers, factor, order, left in ((1, 0.3, 1, 0), (1, 0.3, -1, 0), (2, 0.3, 1, 1), (1, -0.3, 1, 1)):
        before = model(readers, factor, order)
        after = rewritten(before)
        assert kinds(after).count("Mul") == left
        assert error(before, after, x) < CLOSE


@examples(max_examples=25, deadline=None)
@given(rows=st.integers(2, 6), frames=st.integers(1, 60), batch=st.integers(1, 2))
def test_time_in_rows_is_exact(rows: int, frames: int, batch: int) -> None:
    assert error(SPLITTABLE, rewritten(SPLITTABLE, time_split=rows), latent(frames, batch)) < CLOSE


SPLITTABLE = decoder(channels=32)


def test_time_is_split_where_convolutions_become_narrow() -> None:
    def cut(model: Any, rows: int) -> list[tuple[str, int, int]]:
        return [(c.tensor, c.reach, c.ratio) for c in make_plan(Finder(model), Settings(time_split=rows)).cuts]

    wide = decoder(channels=256, rates=(8, 8, 4), kernels=(3, 5, 7))
    (found,) = cut(wide, 2)
    assert found[0] == node(wide, "/dec/ups.1/ConvTranspose").input[0]  # 128 channels occupy two threads before it
    assert found[2] == 32
    # upsampling (15 - 4) / 8 and 5 / 32, blocks 3 + 12 at 8 and at 32 samples for one, the last layer 3 / 32
    assert found[1] == int(np.ceil(11 / 8 + 15 / 8 + 5 / 32 + 15 / 32 + 3 / 32))
    assert cut(wide, 1) == []
    assert cut(decoder(channels=1024, rates=(2,)), 2) == []  # only the last layer is narrow: not worth the copies


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"time_split": 0}, "between 1 and 64"),
        ({"conv2d": False, "polyphase": False}, "nothing would change"),
        ({"conv2d": False, "time_split": 2}, "needs conv2d"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Settings(**settings)


def test_what_cannot_be_proven_stays_and_the_reason_is_told() -> None:
    weight = np.ones((4, 4, 3), np.float32)

    def reason(*given: Any, maker: GraphMaker | None = None, **attributes: Any) -> str:
        g = maker or GraphMaker(x=["batch", 4, "frames"], w=[4, 4, 3], b=[4])
        model = g.model(g.op("Conv", *given, **attributes))
        before = model.SerializeToString()
        told = rewrite(model, Settings())
        assert told is not None
        assert model.SerializeToString() == before
        return told

    assert "not constant" in reason("x", "w")
    assert "bias is computed" in reason("x", weight, "b")
    assert "implicit padding" in reason("x", weight, auto_pad="SAME_UPPER")
    assert "not one-dimensional" in reason("x", weight[..., None], maker=GraphMaker(x=["batch", 4, "frames", 3]))
    g = GraphMaker(x=["batch", 4, "frames"])
    model = g.model(g.op("Relu", "x"))
    assert rewrite(model, Settings()) == "has no Conv or ConvTranspose"
    assert "no ConvTranspose" in str(rewrite(flow(), Settings(conv2d=False)))


def test_neighbours_that_depend_on_the_layout_stay() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 4, 1)).astype(np.float32)
    g = GraphMaker(x=["batch", 4, "frames"], start=("int64", [1]))
    x = g.op("Softmax", g.op("Conv", "x", weight), axis=-1)
    x = g.op("Slice", g.op("Conv", x, weight), "start", g.ints(2**62), g.ints(2))
    x = g.op("Slice", g.op("Conv", x, weight), g.ints(0, 0, 1), g.ints(9, 9, 9))
    x = g.op("Add", g.op("Conv", x, weight), np.ones((1, 1, 1, 1), np.float32))
    before = g.model(x)
    after = rewritten(before)
    given = {"x": rng.standard_normal((1, 4, 7)).astype(np.float32), "start": np.array([2])}
    assert error(before, after, given) < CLOSE
    assert kinds(after).count("Squeeze") == 4


def test_the_pass_writes_a_child(tmp_path: Path, context: Context, small: Bundle) -> None:
    child = layout_conv2d.apply(small, tmp_path / "child", parse(Settings, {"stages": "decoder"}, "x"), context)
    assert open_bundle(tmp_path / "child").digest == child.digest != small.digest
    assert child.history[-1].name == "layout_conv2d"
    assert child.history[-1].settings["time_split"] == 1
    assert child.stage("decoder").precision == "fp32"
    assert child.files["stages/text.onnx"] == small.files["stages/text.onnx"]
    with pytest.raises(UsageError, match="stage decoder has no Conv or ConvTranspose that is proven safe"):
        layout_conv2d.apply(child, tmp_path / "again", Settings(stages=("decoder",)), context)
    with pytest.raises(UsageError, match="stage text has no Conv"):
        layout_conv2d.apply(small, tmp_path / "text", Settings(stages=("text",)), context)


def test_accepts() -> None:
    onnx_stage, other = Stage("decoder", "d.onnx"), Stage("vocoder", "v.xml")
    assert layout_conv2d.accepts(onnx_stage, Settings()) is None
    assert "no ONNX file" in str(layout_conv2d.accepts(other, Settings()))
    assert "not among" in str(layout_conv2d.accepts(onnx_stage, Settings(stages=("text",))))


@pytest.mark.voice
@pytest.mark.parametrize("settings", [{}, {"time_split": 2}, {"polyphase": False}, {"blocked": False}], ids=str)
def test_the_real_decoder(real_voice: Bundle, settings: dict[str, Any]) -> None:
    before = load(real_voice, "decoder")
    after = rewritten(before, **settings)
    rng = np.random.default_rng(0)
    for frames in (1, 2, 33, 90):
        assert error(before, after, {"latent": rng.standard_normal((1, 192, frames)).astype(np.float32)}) < 1e-5


@pytest.mark.voice
def test_the_real_flow(real_voice: Bundle) -> None:
    before = load(real_voice, "flow")
    after = rewritten(before)
    rng = np.random.default_rng(0)
    inputs = {"scales": np.array([0.667, 1.0, 0.8], np.float32), "mask": np.ones((2, 1, 21), np.float32)}
    inputs["mask"][1, :, 13:] = 0
    for name in ("mean", "log_scale", "prior_noise"):
        inputs[name] = 0.5 * rng.standard_normal((2, 192, 21)).astype(np.float32)
    assert error(before, after, inputs) < 1e-5


@pytest.mark.voice
def test_the_real_voice_exported(real_voice: Bundle, tmp_path: Path, context: Context) -> None:
    """One file with the standard signature, which plain ONNX Runtime loads, gives the same speech."""
    from vivace.families import piper

    child = layout_conv2d.apply(real_voice, tmp_path / "child", Settings(stages=("flow", "decoder")), context)
    files = [piper.export(bundle, tmp_path / name)[0] for bundle, name in ((real_voice, "a"), (child, "b"))]
    before, after = (onnx.load(str(file)) for file in files)
    ids = np.random.default_rng(2).integers(3, 100, (1, 25))
    inputs = {"input": ids, "input_lengths": np.array([25]), "scales": np.array([0, 1, 0], np.float32)}
    assert error(before, after, inputs) < 1e-5
    left = executed(after, tmp_path)
    assert "ReorderInput" not in left or left.count("LeakyRelu") == 0
