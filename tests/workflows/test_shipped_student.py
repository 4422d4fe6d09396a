"""The students in voices/ speak: all of the text, once, with and without a cache, alone and beside others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.workflows.export import export
from vivace.workflows.import_ import import_model
from vivace.workflows.recipe import load

pytest.importorskip("safetensors")

ROOT = Path(__file__).parents[2]
STUDENT = ROOT / "voices" / "joe-ar"
DECODER = ROOT / "voices" / "joe-istft"
TEXTS = ("Hello there.", "The ferry leaves at seven, whether or not the fog has lifted from the harbour.")
QUIET = {"noise_scale": 0.0, "noise_w": 0.0}


@pytest.fixture(scope="module")
def student(real_voice: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from vivace.workflows.distill import with_teacher

    folder = tmp_path_factory.mktemp("student")
    made = with_teacher(real_voice, STUDENT, folder / "made")
    kv_cache = registry.load("passes", "kv_cache")
    cached: Bundle = kv_cache.apply(made, folder / "cached", kv_cache.Settings(), Context(lambda stage: []))
    return cached


@pytest.mark.parametrize("folder", [STUDENT, DECODER])
def test_it_is_small_enough_to_ship(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 15e6


@pytest.mark.voice
def test_it_says_as_much_as_its_teacher_and_ends(student: Bundle, real_voice: Bundle) -> None:
    with (
        Engine(student, RuntimeOptions(threads=1)) as engine,
        Engine(real_voice, RuntimeOptions(threads=1)) as teacher,
    ):
        for text in TEXTS:
            engine.add(Request("a", text, **QUIET))
            events = [event for _ in iter(lambda: engine.idle, True) for event in engine.step()]
            assert events[-1].reason == "stop"
            seconds = sum(event.audio.seconds for event in events if event.audio)
            assert seconds == pytest.approx(speak(teacher, Request("b", text, **QUIET)).seconds, rel=0.2)


@pytest.mark.voice
def test_beside_others_it_says_the_same(student: Bundle) -> None:
    with Engine(student, RuntimeOptions(threads=1), max_batch=4) as engine:
        alone = [speak(engine, Request("a", text, **QUIET)).samples for text in TEXTS]
        for k, text in enumerate(TEXTS):
            engine.add(Request(str(k), text, **QUIET))
        pieces: dict[str, list[np.ndarray]] = {"0": [], "1": []}
        while not engine.idle:
            for event in engine.step():
                pieces[event.request_id] += [event.audio.samples] if event.audio else []
    for k, samples in enumerate(alone):
        together = np.concatenate(pieces[str(k)])
        assert len(together) == len(samples)
        assert np.abs(together - samples).max() < 1e-3


@pytest.mark.voice
def test_the_decoder_takes_its_teachers_place_and_leaves_in_one_file(
    real_voice: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where its recipe is meant to be used
    (entry,) = load("voices/joe-istft/recipe.toml").passes
    student = registry.load("passes", entry.name).apply(
        real_voice, tmp_path / "made", entry.settings, Context(lambda stage: [])
    )
    voices = (real_voice, student, import_model(export(student, tmp_path / "piper")[0], tmp_path / "again"))
    said = []
    for voice in voices:
        with Engine(voice, RuntimeOptions(threads=1)) as engine:
            said.append(speak(engine, Request("a", TEXTS[1], **QUIET)).samples)
    teacher, own, again = said
    assert len(own) == len(teacher) == len(again)
    assert 0.5 < np.sqrt(np.mean(own**2) / np.mean(teacher**2)) < 2
    assert np.abs(own - again).max() < 1e-3
