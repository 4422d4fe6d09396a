from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import silence

Speech = Callable[..., Audio]


def score(samples: np.ndarray, rate: int = 22050) -> float:
    return silence.score(Audio(samples.astype(np.float32), rate), "", None)


def zeros(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * 22050))


@pytest.mark.parametrize("seed", range(6))
def test_pauses_are_no_silence(speechlike: Speech, seed: int) -> None:
    assert score(speechlike(seed).samples) == 0


def test_a_long_gap_counts_beyond_a_pause(speechlike: Speech) -> None:
    a, b = speechlike(0).samples, speechlike(1).samples
    assert score(np.concatenate([a, zeros(0.2), b])) == 0
    assert score(np.concatenate([a, zeros(2.0), b])) == pytest.approx(2.0 - silence.PAUSE, abs=0.5)


def test_silence_at_either_end_counts_too(speechlike: Speech) -> None:
    speech = speechlike(0).samples
    assert score(np.concatenate([zeros(3), speech])) == pytest.approx(3.0 - silence.PAUSE, abs=0.2)
    assert score(np.concatenate([speech, zeros(3)])) == pytest.approx(3.0 - silence.PAUSE, abs=0.5)


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_a_clip_without_sound_is_silent_throughout(level: float) -> None:
    noise = level * np.random.default_rng(0).standard_normal(22050)
    assert score(noise) == pytest.approx(1.0)


def loudest(samples: np.ndarray, rate: int = 22050) -> int:
    return int(np.convolve(samples**2, np.ones(rate // 20), "valid").argmax())


@pytest.mark.parametrize("milliseconds", [10, 40, 100])
def test_a_dropout_counts_though_it_is_shorter_than_a_pause(speechlike: Speech, milliseconds: int) -> None:
    samples = speechlike(2).samples.copy()
    start = loudest(samples) + 400
    samples[start : start + 22 * milliseconds] = 0
    assert score(samples) == pytest.approx(milliseconds / 1000, rel=0.1)


def test_zeros_put_between_two_sentences_are_no_dropout(speechlike: Speech) -> None:
    assert score(np.concatenate([speechlike(0).samples, zeros(0.2), speechlike(1).samples])) == 0


def test_padding_after_the_end_is_no_dropout(speechlike: Speech) -> None:
    samples = speechlike(2).samples
    assert score(np.concatenate([samples[: loudest(samples) + 400], zeros(0.3)])) == 0


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    assert [silence.score(a, "", None) for a in real_speech] == [0.0] * len(real_speech)
    for audio in real_speech:
        gap = np.concatenate([audio.samples, np.zeros(audio.rate), audio.samples]).astype(np.float32)
        assert silence.score(Audio(gap, audio.rate), "", None) > silence.TOLERANCE
