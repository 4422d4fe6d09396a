"""Padded and masked is the same as not padded, sample for sample; and few lengths are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from families import piper_maker
from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors
from vivace.engine.engine import Engine, speak, stream
from vivace.families import piper
from vivace.passes import few_shapes as pass_
from vivace.workflows.calibration import record

TEXTS = ("hi.", "a longer text of several words, with a comma", "two sentences. here is the second one.")


@pytest.fixture
def voice(tmp_path: Path) -> Bundle:
    return piper.import_(piper_maker.make(tmp_path, piper_maker.Shape(), "hum"), tmp_path / "voice")


def applied(bundle: Bundle, name: str, out: Path, **given: Any) -> Bundle:
    module = registry.load("passes", name)
    context = Context(lambda stage: record(bundle, TEXTS)[stage])
    return module.apply(bundle, out, parse(module.Settings, given, name), context)


@pytest.fixture
def per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ONNX Runtime compiled for every length."""
    monkeypatch.setattr(registry.load("runtimes", "onnxruntime"), "PER_SIZE", True, raising=False)


def said(bundle: Bundle) -> list[np.ndarray]:
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        return [speak(engine, Request("a", text, seed=3)).samples for text in TEXTS]


@pytest.mark.usefixtures("per_size")
@pytest.mark.parametrize("before", [[], ["graph_cleanup", "layout_conv2d"]])
def test_padded_is_plain(voice: Bundle, tmp_path: Path, before: list[str]) -> None:
    for k, name in enumerate(before):
        given = {"blocked": False, "polyphase": False} if name == "layout_conv2d" else {}
        voice = applied(voice, name, tmp_path / str(k), **given)
    child = applied(voice, "few_shapes", tmp_path / "child", multiple=16)
    for plain, padded in zip(said(voice), said(child), strict=True):
        assert plain.shape == padded.shape
        assert np.abs(plain - padded).max() < 1e-6


def test_behind_int8_it_still_is(voice: Bundle, tmp_path: Path) -> None:
    int8 = applied(voice, "int8_static", tmp_path / "int8", stages=["decoder"])
    child = applied(int8, "few_shapes", tmp_path / "child")
    for plain, padded in zip(said(int8), said(child), strict=True):
        assert np.abs(plain - padded).max() < 1e-5


@pytest.mark.usefixtures("per_size")
def test_the_stages_see_few_lengths(voice: Bundle, tmp_path: Path) -> None:
    child = applied(voice, "few_shapes", tmp_path / "child", multiple=16)
    rows = record(child, TEXTS)
    lengths = {row["latent"].shape[-1] for row in rows["decoder"]} | {row["mean"].shape[-1] for row in rows["flow"]}
    assert all(length % 16 == 0 for length in lengths)
    assert any(length % 16 for row in record(voice, TEXTS)["decoder"] for length in [row["latent"].shape[-1]])


def test_a_flow_is_padded_only_where_its_runtime_wants_that(voice: Bundle, tmp_path: Path) -> None:
    child = applied(voice, "few_shapes", tmp_path / "child", multiple=16)
    rows = record(child, TEXTS)
    assert all(row["latent"].shape[-1] % 16 == 0 for row in rows["decoder"])
    assert any(row["mean"].shape[-1] % 16 for row in rows["flow"])


@pytest.mark.usefixtures("per_size")
@pytest.mark.parametrize("before", [[], ["crop_context"]])
def test_streams_meet_no_size_that_was_not_warm(voice: Bundle, tmp_path: Path, before: list[str]) -> None:
    seen: dict[str, set[int]] = {"flow": set(), "decoder": set()}

    class Noting:
        def __init__(self, stage: Stage, session: Session) -> None:
            self._name, self._session = stage.name, session

        def run(self, inputs: Tensors) -> dict[str, Array]:
            if self._name in seen:
                seen[self._name].add(inputs["mask"].shape[-1])
            return self._session.run(inputs)

        def close(self) -> None:
            self._session.close()

    child = voice
    for name in [*before, "few_shapes"]:
        child = applied(child, name, tmp_path / name)
    with Engine(child, wrap=Noting) as engine:
        engine.warm()
        warm = {name: set(found) for name, found in seen.items()}
        for chunk in (8, 32, 64, 128):
            for text in TEXTS:
                list(stream(engine, Request("a", text, chunk_frames=chunk)))
    assert seen == warm
    with Engine(voice, wrap=Noting) as engine:
        engine.warm()  # no runtime of it compiles for a size
    assert seen == warm


def test_the_chunks_of_a_stream_fill_what_is_computed(voice: Bundle, tmp_path: Path) -> None:
    child = applied(applied(voice, "crop_context", tmp_path / "cropped"), "few_shapes", tmp_path / "child")
    near, hop = child.defaults["cropped_overlap"], child.defaults["hop"]
    for bundle, frames in ((voice, 32), (child, 48 - near)):
        with Engine(bundle, RuntimeOptions(threads=1)) as engine:
            first = next(stream(engine, Request("a", max(TEXTS, key=len), seed=3, chunk_frames=32)))
        assert first.audio
        assert len(first.audio.samples) == frames * hop


def test_the_export_is_a_standard_voice(voice: Bundle, tmp_path: Path) -> None:
    child = applied(voice, "few_shapes", tmp_path / "child")
    files = [piper.export(bundle, tmp_path / name)[0] for bundle, name in ((voice, "plain"), (child, "masked"))]
    feed = {"input": np.array([[1, 3, 4, 2]], np.int64), "input_lengths": np.array([4], np.int64)}
    feed["scales"] = np.array([0, 1, 0], np.float32)
    one, other = (ort.InferenceSession(str(file)).run(None, feed)[0] for file in files)
    assert np.abs(one - other).max() < 1e-6


def test_once_is_enough(voice: Bundle, tmp_path: Path) -> None:
    child = applied(voice, "few_shapes", tmp_path / "child")
    with pytest.raises(UsageError, match="takes a mask already"):
        applied(child, "few_shapes", tmp_path / "again")


def test_a_family_that_does_not_pad_is_left_alone(toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy does not pad"):
        applied(toy, "few_shapes", tmp_path / "child")
    with pytest.raises(UsageError, match="multiple is 1"):
        pass_.Settings(1)


def model(nodes: list[Any], weights: dict[str, np.ndarray]) -> Any:
    given = helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 2, "frames"])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, None, None])
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "decoder", [given], [made], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_without_convolutions_there_is_nothing_to_mask() -> None:
    plain = model([helper.make_node("Tanh", ["latent"], ["output"])], {})
    before = plain.SerializeToString()
    assert pass_.rewrite(plain, "latent", "mask") == "has no convolution"
    assert plain.SerializeToString() == before


def test_a_convolution_of_the_input_itself_is_masked() -> None:
    weight = np.ones((1, 2, 3), np.float32)
    made = model([helper.make_node("Conv", ["latent", "w"], ["output"], name="c", pads=[1, 1])], {"w": weight})
    assert pass_.rewrite(made, "latent", "mask") is None
    onnx.checker.check_model(made)
    x, mask = np.ones((1, 2, 5), np.float32), np.array([[[1, 1, 1, 0, 0]]], np.float32)
    found = ort.InferenceSession(made.SerializeToString()).run(None, {"latent": x, "mask": mask})[0]
    assert found[0, 0, :3].tolist() == [4, 6, 4]  # as if the signal ended there
