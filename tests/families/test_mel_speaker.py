"""Voices whose network makes log-mels of frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from families.generic_maker import mel_voice
from families.keras_maker import MELS
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError, VivaceError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.families import generic
from vivace.families._mel_speaker import columns, feed, lengths, table
from vivace.workflows.import_ import import_model

SMALL = {"durations": {"7": 2.0, "9": 3.4, "4": 0.5}, "context": 1, "places": 3}


def test_a_frame_is_told_by_its_neighbours_and_places() -> None:
    found = feed(np.array([1, 0]), np.array([3, 2]), SMALL)
    # 0 is outside, 1 to 3 are the phonemes; then three ids for each place, of which the last means "or more".
    assert found.tolist() == [
        # before, this, behind, since, until, from the first phoneme, to the last
        [0, 2, 1, 4 + 0, 7 + 2, 10 + 0, 13 + 1],
        [0, 2, 1, 4 + 1, 7 + 1, 10 + 0, 13 + 1],
        [0, 2, 1, 4 + 2, 7 + 0, 10 + 0, 13 + 1],
        [2, 1, 0, 4 + 0, 7 + 1, 10 + 1, 13 + 0],
        [2, 1, 0, 4 + 1, 7 + 0, 10 + 1, 13 + 0],
    ]
    assert (columns(SMALL), table(SMALL)) == (7, 16)
    assert found.max() < table(SMALL)


def test_a_phoneme_without_a_frame_is_still_a_neighbour() -> None:
    found = feed(np.array([0, 2, 1]), np.array([1, 0, 1]), SMALL)
    assert found[:, :3].tolist() == [[0, 1, 3], [3, 2, 0]]


def test_rounding_does_not_add_up() -> None:
    phonemes = np.array([1] * 50 + [2] * 50)
    for speed in (0.7, 1.0, 1.9):
        found = lengths(phonemes, SMALL, speed)
        assert abs(found.sum() - 50 * (3.4 + 0.5) / speed) <= 0.5
        assert found.min() >= 0


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return import_model(mel_voice(tmp_path / "plain.onnx"), tmp_path / "bundle")


def say(bundle: Bundle, text: str, **options: Any) -> np.ndarray:
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        return speak(engine, Request("a", text, **options)).samples


def test_it_speaks_at_its_rate_and_pace(bundle: Bundle) -> None:
    assert bundle.sample_rate == MELS["mel"]["rate"]
    frames = sum(MELS["durations"][str(MELS["text"]["characters"].index(c))] for c in "abba.")
    assert len(say(bundle, "abba.")) == round(frames) * MELS["mel"]["hop"]
    assert len(say(bundle, "abba.", speed=2.0)) == round(frames / 2) * MELS["mel"]["hop"]
    assert len(say(bundle, "a", speed=10.0)) == MELS["mel"]["hop"]  # at least a frame
    np.testing.assert_array_equal(say(bundle, "abba.", seed=3), say(bundle, "abba.", seed=3))
    assert np.abs(say(bundle, "abba.", seed=3) - say(bundle, "abba.", seed=4)).max() > 0


def test_what_is_not_in_the_table_is_not_said(bundle: Bundle) -> None:
    np.testing.assert_array_equal(say(bundle, "abzba."), say(bundle, "abba."))  # z has no duration
    with pytest.raises(VivaceError, match="knows no sound of the text"):
        say(bundle, "zz")
    with pytest.raises(VivaceError, match="unknown voice 'ann'; known: plain"):
        say(bundle, "abba.", voice="ann")


def test_mels_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    path = mel_voice(tmp_path / "plain.onnx")
    told = {**MELS, "mel": {**MELS["mel"], "mels": 21}}
    path.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(VivaceError, match=r"gives \[1, 8, 20\] where finite log-mels \[1, 8, 21\] are due"):
        say(import_model(path, tmp_path / "bundle"), "aa")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"durations": {}}, '"durations" must be there'),
        ({"durations": {"a": 3}}, "'a': 3 is no id with its mean number of frames"),
        ({"durations": {"1": -3}}, "'1': -3 is no id"),
        ({"text": {}}, '"text" must be there'),
        ({"text": {"characters": "ab"}}, '"text" needs "front_end"'),
        ({"context": -1}, '"context" is -1; it must be a whole number from 0 to 16'),
        ({"places": 0}, '"places" is 0'),
        ({"hop": 80}, "unknown field 'hop'; known: context, durations"),
        ({"mel": {"rate": 8000, "fft": 256, "hop": 200, "mels": 20}}, 'mel: "hop" is 200; .* from 1 to 128'),
        ({"mel": {"rate": 8000, "fft": 256, "hop": 64, "mels": 20, "bins": 3}}, "unknown field 'bins' in mel"),
    ],
)
def test_a_wrong_adapter_is_a_sentence(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = mel_voice(tmp_path / "plain.onnx")
    path.with_suffix(".json").write_text(json.dumps({**MELS, **change}), encoding="utf-8")
    with pytest.raises(ModelError, match=words):
        generic.import_(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
