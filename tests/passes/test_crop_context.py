"""What later layers do not see is left out: the same samples, sample for sample, from less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from families import piper_maker
from passes.test_few_shapes import TEXTS, applied, said
from vivace.core.bundle import Bundle
from vivace.core.errors import UsageError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak, stream
from vivace.families import piper
from vivace.passes import crop_context as pass_
from vivace.passes._onnx import Graph
from vivace.workflows.calibration import record


@pytest.fixture
def voice(tmp_path: Path) -> Bundle:
    return piper.import_(piper_maker.make(tmp_path, piper_maker.Shape(), "hum"), tmp_path / "voice")


def built(voice: Bundle, tmp_path: Path, *names: str, window: int = 16) -> Bundle:
    settings: dict[str, dict[str, Any]] = {
        "layout_conv2d": {"blocked": False, "polyphase": False},
        "int8_static": {"stages": ["decoder"]},
        "crop_context": {"window": window},
    }
    for k, name in enumerate(names):
        voice = applied(voice, name, tmp_path / f"{k}{name}", **settings.get(name, {}))
    return voice


@pytest.mark.parametrize("before", [[], ["graph_cleanup", "layout_conv2d"]])
@pytest.mark.parametrize("after", [[], ["few_shapes"]])
def test_cropped_is_plain(voice: Bundle, tmp_path: Path, before: list[str], after: list[str]) -> None:
    child = built(voice, tmp_path, *before, "crop_context", *after)
    assert child.defaults["cropped_overlap"] < voice.defaults["overlap"]
    for plain, cropped in zip(said(voice), said(child), strict=True):
        assert plain.shape == cropped.shape
        assert np.abs(plain - cropped).max() < 1e-6


def test_behind_int8_it_still_is(voice: Bundle, tmp_path: Path) -> None:
    int8 = built(voice, tmp_path, "int8_static")
    child = built(int8, tmp_path / "more", "crop_context", "few_shapes")
    for plain, cropped in zip(said(int8), said(child), strict=True):
        assert np.abs(plain - cropped).max() < 1e-5


@pytest.mark.parametrize("after", [[], ["few_shapes"]])
@pytest.mark.parametrize("chunk", [8, 33, 100])
def test_streamed_is_whole(voice: Bundle, tmp_path: Path, after: list[str], chunk: int) -> None:
    child = built(voice, tmp_path, "crop_context", *after)
    with Engine(voice, RuntimeOptions(threads=1)) as one, Engine(child, RuntimeOptions(threads=1)) as other:
        for text in TEXTS:
            whole = speak(one, Request("a", text, seed=3)).samples
            events = stream(other, Request("a", text, seed=3, chunk_frames=chunk))
            parts = np.concatenate([e.audio.samples for e in events if e.audio is not None])
            assert np.abs(whole - parts).max() < 1e-6


def test_a_frame_less_would_be_heard(voice: Bundle, tmp_path: Path) -> None:
    """The tests above can fail: what is left is all that the later layers need."""
    child = built(voice, tmp_path, "crop_context")
    least = child.defaults["cropped_overlap"]
    assert least > 0
    short = applied(voice, "crop_context", tmp_path / "short", window=16)
    object.__setattr__(short, "defaults", {**short.defaults, "cropped_overlap": least - 1})
    assert max(np.abs(a - b).max() for a, b in zip(said(voice), said(short), strict=True)) > 1e-5


def test_later_layers_get_less_than_is_read(voice: Bundle, tmp_path: Path) -> None:
    child = built(voice, tmp_path, "crop_context")
    rows = record(child, TEXTS)["decoder"]
    read = [row["latent"].shape[-1] for row in rows]
    got = [int(row["crop"][1] - row["crop"][0]) for row in rows]
    assert all(0 < less <= frames for less, frames in zip(got, read, strict=True))
    assert max(got) <= 16 + 2 * child.defaults["cropped_overlap"]
    assert sum(got) < sum(read)


def test_the_export_is_a_standard_voice(voice: Bundle, tmp_path: Path) -> None:
    child = built(voice, tmp_path, "crop_context", "few_shapes")
    files = [piper.export(bundle, tmp_path / name)[0] for bundle, name in ((voice, "plain"), (child, "cropped"))]
    feed = {"input": np.array([[1, 3, 4, 2]], np.int64), "input_lengths": np.array([4], np.int64)}
    feed["scales"] = np.array([0, 1, 0], np.float32)
    sessions = [ort.InferenceSession(str(file)) for file in files]
    assert [i.name for i in sessions[0].get_inputs()] == [i.name for i in sessions[1].get_inputs()]
    one, other = (session.run(None, feed)[0] for session in sessions)
    assert np.abs(one - other).max() < 1e-6


def test_what_cannot_be_cropped_is_refused(voice: Bundle, toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy does not crop"):
        applied(toy, "crop_context", tmp_path / "toy")
    with pytest.raises(UsageError, match="leaves out context already"):
        applied(built(voice, tmp_path, "crop_context"), "crop_context", tmp_path / "again")
    with pytest.raises(UsageError, match="before few_shapes"):
        applied(built(voice, tmp_path, "few_shapes"), "crop_context", tmp_path / "late")
    with pytest.raises(UsageError, match="window is 1"):
        pass_.Settings(1)


def model(nodes: list[Any], weights: dict[str, np.ndarray]) -> Any:
    signal = helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 2, "frames"])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, None, None])
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "decoder", [signal], [made], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ONES = {"w": np.ones((2, 2, 5), np.float32), "up": np.ones((2, 2, 4), np.float32)}
EARLY = helper.make_node("Conv", ["latent", "w"], ["early"], name="early", pads=[2, 2])
UP = helper.make_node("ConvTranspose", ["early", "up"], ["wide"], name="up", strides=[2], pads=[1, 1])
LATE = helper.make_node("Conv", ["wide", "w"], ["output"], name="late", pads=[2, 2])


def test_the_reach_of_the_rest_is_counted() -> None:
    """Of the second convolution two samples of half a frame, of the upsampling one sample on the right."""
    made = model([EARLY, UP, LATE], ONES)
    assert pass_.rewrite(made, "latent", "crop", 4) == 2
    onnx.checker.check_model(made)
    x = np.random.default_rng(0).standard_normal((1, 2, 20)).astype(np.float32)
    run = ort.InferenceSession(made.SerializeToString()).run
    whole = run(None, {"latent": x, "crop": np.array([0, 20], np.int64)})[0]
    part = run(None, {"latent": x[..., 4:16], "crop": np.array([2, 10], np.int64)})[0]  # frames 6 to 14
    assert np.array_equal(part[..., 4:12], whole[..., 16:24])


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([EARLY, helper.make_node("Tanh", ["early"], ["output"])], id="no upsampling"),
        pytest.param(
            [EARLY, helper.make_node("Tanh", ["early"], ["loud"]),
             helper.make_node("ConvTranspose", ["loud", "up"], ["wide"], strides=[2], pads=[1, 1]),
             helper.make_node("Concat", ["wide", "early"], ["output"], axis=2)],
            id="a later layer reads what was before",
        ),
        pytest.param(
            [EARLY, UP, helper.make_node("Reshape", ["wide", "shape"], ["other"]),
             helper.make_node("Conv", ["other", "w"], ["output"], pads=[2, 2])],
            id="time is ordered anew",
        ),
    ],
)  # fmt: skip
def test_what_is_not_known_is_left_alone(nodes: list[Any]) -> None:
    made = model(nodes, {**ONES, "shape": np.array([1, 2, -1], np.int64)})
    before = made.SerializeToString()
    assert pass_.rewrite(made, "latent", "crop", 4) == "has no upsampling behind which less is seen"
    assert made.SerializeToString() == before


def test_a_computed_weight_is_refused() -> None:
    made = model([helper.make_node("Conv", ["latent", "latent"], ["output"], name="odd")], {})
    assert pass_.rewrite(made, "latent", "crop", 4) == "has a convolution whose weight is computed (odd)"
    assert Graph(made).nodes[0].name == "odd"
