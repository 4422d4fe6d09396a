"""What loops or stands still is cut; what people say is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families.test_transformer_mel import cached
from families.transformer_maker import READING, make
from vivace.core.errors import ModelError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions, Session, Stage
from vivace.engine.engine import Engine, stream
from vivace.families import transformer_mel
from vivace.families._runaway import LOOK, Guard

RATE = 86.0  # frames a second


def frames(seconds: float) -> int:
    return round(seconds * RATE)


def speech(seconds: float, seed: int = 0, level: float = -5.0, pace: float = 10) -> np.ndarray:
    """[16, time], as log mels are: sounds that glide into each other `pace` times a second."""
    rng = np.random.default_rng(seed)
    count = frames(seconds)
    marks = np.arange(0, count + RATE, RATE / pace)
    sounds = rng.standard_normal((16, len(marks)))
    return np.stack([np.interp(np.arange(count), marks, row) for row in sounds]).astype(np.float32) + level


def ends(made: np.ndarray, guard: Guard | None = None, new: int = 1) -> float | None:
    """The second at which it is cut."""
    for count in range(new, made.shape[1] + 1, new):
        if (guard or Guard()).sees(made[:, :count], new, RATE):
            return count / RATE
    return None


def after(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    return np.concatenate([first, then], 1)


def again(piece: np.ndarray, times: int) -> np.ndarray:
    return np.tile(piece, (1, times))


@pytest.mark.parametrize("period", [0.05, 0.11, 0.3, 0.57, 0.8])
@pytest.mark.parametrize("level", [-5.0, 0.0, 3.0])
def test_a_loop_is_cut_soon(period: float, level: float) -> None:
    said = speech(1.5, level=level)
    loop = again(speech(period, 1, level, 40), round(5 / period))
    noise = 0.01 * np.random.default_rng(2).standard_normal(loop.shape)
    cut = ends(after(said, loop + noise.astype(np.float32)))
    assert cut is not None
    assert 1.5 + 1.6 - period < cut < 1.5 + 1.6 + LOOK + 0.1


def test_several_frames_a_step_are_looked_at_as_often() -> None:
    cut = ends(after(speech(1.5), again(speech(0.3, 1), 12)), new=3)
    assert cut is not None
    assert cut < 1.5 + 1.6 + LOOK + 0.1


@pytest.mark.parametrize("held", ["vowel", "silence"])
def test_a_sound_is_held_for_two_and_a_half_seconds_at_most(held: str) -> None:
    sound = speech(0.1, 1)[:, :1] if held == "vowel" else np.full((16, 1), -11.5, np.float32)
    before, behind = speech(1.5), speech(1.5, 3)
    assert ends(after(after(before, again(sound, frames(2.5))), behind)) is None
    cut = ends(after(before, again(sound, frames(4))))
    assert cut is not None
    assert 1.5 + 2.5 <= cut < 1.5 + 2.5 + LOOK + 0.1


def test_zeros_from_the_start_are_a_still() -> None:
    assert ends(np.zeros((16, frames(4)), np.float32)) is not None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-20, 20))
def test_speech_is_never_cut(seed: int, level: float) -> None:
    assert ends(speech(8, seed, level)) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.15, 0.8))
def test_a_word_said_again_and_again_is_not_a_loop(seed: int, seconds: float) -> None:
    """People, and models, never say it twice within a twentieth: here a tenth of its movement differs."""
    rng = np.random.default_rng(seed)
    said = again(speech(seconds, seed), round(6 / seconds))
    assert ends(said + 0.1 * said.std() * rng.standard_normal(said.shape).astype(np.float32)) is None


@pytest.mark.parametrize("seconds", [1.0, 2.4])
def test_a_vowel_that_glides_is_not_a_loop(seconds: float) -> None:
    glide = np.linspace(0, 1, frames(seconds)) * speech(0.1, 1)[:, :1] + speech(0.1, 2)[:, :1]
    settles = np.exp(-np.arange(frames(seconds)) / 9) * speech(0.1, 3)[:, :1] + speech(0.1, 4)[:, :1]
    for vowel in (glide, settles):
        assert ends(after(after(speech(1), vowel.astype(np.float32)), speech(1, 5))) is None


def test_a_faint_loop_in_a_pause_is_no_speech() -> None:
    pause = again(0.01 * speech(0.3, 1, 0.0), 8) - 11.5
    assert ends(after(after(speech(2), pause), speech(1, 2))) is None


def test_zero_seconds_switch_a_guard_off() -> None:
    loop, still = after(speech(1), again(speech(0.3, 1), 30)), again(speech(0.1)[:, :1], frames(9))
    assert ends(loop, Guard(repeat_seconds=0)) is None
    assert ends(still, Guard(still_seconds=0)) is None
    assert ends(still, Guard(repeat_seconds=0)) is not None


def saying(made: np.ndarray) -> Callable[[Stage, Session], Session]:
    """The steps' frames are `made` [time, mels], the last one for ever."""

    class Said:
        def __init__(self, session: Session) -> None:
            self.run_, self.close = session.run, session.close

        def run(self, feed: Any) -> Any:
            found = dict(self.run_(feed))
            found["frames"] = made[np.minimum(feed["place"], len(made) - 1)]
            return found

    return lambda stage, session: Said(session) if stage.name == "step" else session


@pytest.mark.parametrize("guarded", [True, False])
def test_a_row_that_runs_away_ends_with_the_reason_length(tmp_path: Path, guarded: bool) -> None:
    path = make(tmp_path, max_steps=1200, longest=1500)
    if not guarded:
        config = json.loads((path / "config.json").read_text(encoding="utf-8")) | {"still_seconds": 0}
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bundle = cached(transformer_mel.import_(path, tmp_path / "bundle"), tmp_path / "cached")
    assert bundle.defaults["repeat_seconds"] == 0.8
    said = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    with Engine(bundle, RuntimeOptions(threads=1), wrap=saying(said)) as engine:
        events = list(stream(engine, Request("a", "hello")))
    assert events[-1].reason == "length"
    seconds = sum(event.audio.seconds for event in events if event.audio)
    assert (seconds < 0.4 + 2.5 + LOOK + 0.1) if guarded else seconds == 1200 * 32 / 8000


def test_a_model_that_reads_needs_no_guard(tmp_path: Path) -> None:
    bundle = transformer_mel.import_(make(tmp_path, **READING), tmp_path / "bundle")
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        assert engine._model._guard is None


@pytest.mark.parametrize("value", [-1, "long", True, float("nan")])
def test_a_wrong_threshold_is_named(tmp_path: Path, value: object) -> None:
    path = make(tmp_path)
    (path / "config.json").write_text(
        json.dumps(json.loads((path / "config.json").read_text(encoding="utf-8")) | {"still_seconds": value}),
        encoding="utf-8",
    )
    with pytest.raises(ModelError, match="still_seconds is missing or wrong; it must be a number from 0 up"):
        transformer_mel.import_(path, tmp_path / "bundle")
