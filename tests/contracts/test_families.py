"""Every family: import, open, speak; batched = single, streamed = whole, errors are sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.samples import ABSENT, MODELS
from vivace.core import registry
from vivace.core.audio import Audio, join
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import BundleError, ModelError, TextError, UsageError, VivaceError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak, stream

ONE = RuntimeOptions(threads=1)
TEXTS = ("hi", "a longer text of several words, with a comma", "two sentences. here is the second one.")
FAMILIES = [name for name in registry.names("families") if name not in ABSENT]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("families")
    return {
        name: registry.load("families", name).import_(make(folder), folder / f"{name} bundle")
        for name, make in MODELS.items()
    }


@pytest.fixture(params=FAMILIES)
def bundle(request: pytest.FixtureRequest, bundles: dict[str, Bundle]) -> Bundle:
    return bundles[request.param]


def test_every_family_has_a_sample() -> None:
    assert sorted(MODELS) == FAMILIES, "add a small model of the new family to tests/contracts/samples.py"


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_recognises_its_own_models_only(tmp_path: Path, name: str) -> None:
    path = MODELS[name](tmp_path)
    assert [other for other in FAMILIES if registry.load("families", other).recognise(path)] == [name]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".onnx", ".json", ".onnx.json", ".pt", ""]), data=st.binary(max_size=50))
def test_a_strange_file_is_no_exception_but_a_sentence(tmp_path: Path, name: str, suffix: str, data: bytes) -> None:
    family = registry.load("families", name)
    path = tmp_path / f"strange{suffix}"
    path.write_bytes(data)
    assert family.recognise(path) in (True, False)
    with pytest.raises(ModelError) as caught:
        family.import_(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_bundle_opens_and_is_complete(bundle: Bundle) -> None:
    assert open_bundle(bundle.path) == bundle
    assert bundle.history == ()
    assert bundle.stages
    for stage in bundle.stages:
        runtime = registry.load("runtimes", stage.runtime)
        assert bundle.file(stage.file).suffix[1:] in runtime.FORMATS
        assert stage.loop in ("once", "frame")
        assert stage.inputs
        assert stage.outputs


@pytest.mark.parametrize("name", FAMILIES)
def test_import_does_not_overwrite_unasked(tmp_path: Path, name: str) -> None:
    family = registry.load("families", name)
    path = MODELS[name](tmp_path)
    made = family.import_(path, tmp_path / "out")
    with pytest.raises(BundleError, match="exists"):
        family.import_(path, tmp_path / "out")
    assert family.import_(path, tmp_path / "out", overwrite=True).digest == made.digest


def test_export_writes_what_it_returns(tmp_path: Path, bundle: Bundle) -> None:
    files = registry.load("families", bundle.family).export(bundle, tmp_path / "out")
    assert files
    assert all(file.is_file() and file.stat().st_size for file in files)
    assert sorted(files) == sorted(p for p in (tmp_path / "out").iterdir())


def test_speech_is_audio(bundle: Bundle) -> None:
    with Engine(bundle, ONE) as engine:
        audio = speak(engine, Request("a", TEXTS[1]))
    assert audio.rate == bundle.sample_rate
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert 0.001 < np.abs(audio.samples).max() < 1.001
    assert audio.seconds > 0.1


@pytest.mark.parametrize("max_batch", [2, 4])
def test_batched_is_single(bundle: Bundle, max_batch: int) -> None:
    requests = [
        Request(f"{text} {voice}", text, voice=voice, seed=7) for text in TEXTS for voice in bundle.voices[:2] or ("",)
    ]
    pieces: dict[str, list[Audio]] = {r.id: [] for r in requests}
    with Engine(bundle, ONE, max_batch=max_batch) as engine:
        alone = {r.id: speak(engine, r).samples for r in requests}
        for request in requests:
            engine.add(request)
        while not engine.idle:
            for event in engine.step():
                assert not event.error
                pieces[event.request_id] += [event.audio] if event.audio else []
    for name, samples in alone.items():
        together = join(pieces[name]).samples
        assert together.shape == samples.shape
        assert np.abs(together - samples).max() < 1e-5


@pytest.mark.parametrize("chunk", [1, 10, 64])
def test_streamed_is_whole(bundle: Bundle, chunk: int) -> None:
    request = Request("a", TEXTS[2], seed=5)
    with Engine(bundle, ONE) as engine:
        whole = speak(engine, request).samples
        pieces = [e.audio for e in stream(engine, replace(request, chunk_frames=chunk)) if e.audio]
    assert len(pieces) > 1
    assert np.abs(join(pieces).samples - whole).max() < 1e-5


def test_the_same_seed_is_the_same_speech(bundle: Bundle) -> None:
    with Engine(bundle, ONE) as engine:
        one, same = (speak(engine, Request("a", TEXTS[1], seed=3)).samples for _ in range(2))
    assert np.array_equal(one, same)


def test_what_cannot_be_spoken_is_a_sentence(bundle: Bundle) -> None:
    with Engine(bundle, ONE) as engine:
        for text in ("", " \n\t", "…"):
            with pytest.raises(TextError):
                list(engine._model.encode(Request("a", text)))
        with pytest.raises(UsageError, match="unknown voice 'nobody'"):
            list(engine._model.encode(Request("a", "hello", voice="nobody")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30))
def test_any_text_is_spoken_or_an_error_of_its_own(bundle: Bundle, text: str) -> None:
    with Engine(bundle, ONE) as engine:
        try:
            audio = speak(engine, Request("a", text, max_seconds=1))
        except VivaceError as error:
            assert "\n" not in str(error)
            assert ": " not in str(error) or not str(error).split(":")[0].endswith(("Error", "Exception"))
            return
    assert np.isfinite(audio.samples).all()
