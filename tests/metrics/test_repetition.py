from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import repetition

Speech = Callable[..., Audio]


def score(samples: np.ndarray, rate: int = 22050) -> float:
    return repetition.score(Audio(samples.astype(np.float32), rate), "", None)


def looped(samples: np.ndarray, seconds: float, times: int, rate: int = 22050) -> np.ndarray:
    """The loudest stretch, again and again."""
    size = round(seconds * rate)
    energy = np.cumsum(samples[: len(samples) // 2 + size] ** 2)
    start = int((energy[size:] - energy[:-size]).argmax())
    return np.concatenate([samples[: start + size], np.tile(samples[start : start + size], times)])


@pytest.mark.parametrize("seed", range(6))
def test_speech_does_not_repeat_itself(speechlike: Speech, seed: int) -> None:
    assert score(speechlike(seed).samples) == 0


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.7])
def test_a_loop_counts_from_its_second_round(speechlike: Speech, seconds: float) -> None:
    samples = looped(speechlike(3).samples, seconds, 3)
    assert score(samples) == pytest.approx(3 * seconds, rel=0.35)


def test_a_loop_is_seen_through_noise(speechlike: Speech) -> None:
    samples = looped(speechlike(3).samples, 0.8, 3)
    noise = 0.1 * samples.std() * np.random.default_rng(0).standard_normal(len(samples))
    assert score(samples + noise) > 1


def test_a_sound_that_hangs_is_seen(speechlike: Speech) -> None:
    samples = speechlike(0).samples
    t = np.arange(22050) / 22050
    hum = sum(np.sin(2 * np.pi * 110 * k * t) / k for k in range(1, 20)) * 0.1
    middle = len(samples) // 2
    assert score(np.concatenate([samples[:middle], hum, samples[middle:]])) > 0.6


def test_pauses_do_not_resemble_each_other(speechlike: Speech) -> None:
    samples = speechlike(0).samples
    gap = 1e-4 * np.random.default_rng(0).standard_normal(11025)
    assert score(np.concatenate([samples, gap, gap, speechlike(1).samples])) == 0
    assert score(np.zeros(44100)) == 0


def test_clips_too_short_to_repeat_score_nothing(speechlike: Speech) -> None:
    assert score(speechlike(0).samples[:8000]) == 0
    assert score(np.ones(1)) == 0


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    assert max(repetition.score(a, "", None) for a in real_speech) < repetition.TOLERANCE
    long = [a for a in real_speech if a.seconds > 2]
    for audio in long:
        assert score(looped(audio.samples, 0.8, 4, audio.rate), audio.rate) > 2 * repetition.TOLERANCE
