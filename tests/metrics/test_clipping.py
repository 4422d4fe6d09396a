from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import clipping

Speech = Callable[..., Audio]


def score(samples: np.ndarray, rate: int = 22050) -> float:
    return clipping.score(Audio(samples.astype(np.float32), rate), "", None)


def sixteen_bit(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767) / 32768


def cut(samples: np.ndarray, share: float) -> np.ndarray:
    peak = share * np.abs(samples).max()
    return np.clip(samples, -peak, peak)


@pytest.mark.parametrize("seed", range(6))
def test_speech_is_not_clipped_whatever_its_level(speechlike: Speech, seed: int) -> None:
    samples = speechlike(seed).samples
    for gain in (0.5, 1.0, 1 / np.abs(samples).max()):
        assert score(samples * gain) == 0
        assert score(sixteen_bit(samples * gain)) == 0


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
@pytest.mark.parametrize("frequency", [50, 100, 440, 3000])
def test_a_tone_turns_over_at_its_peak(rate: int, frequency: float) -> None:
    t = np.arange(rate) / rate
    assert score(np.sin(2 * np.pi * frequency * t), rate) == 0
    assert score(sixteen_bit(np.sin(2 * np.pi * frequency * t)), rate) == 0


def test_more_clipping_scores_more(speechlike: Speech) -> None:
    samples = speechlike(0).samples * 1.8
    scores = [score(cut(samples, share)) for share in (1.0, 0.6, 0.4, 0.2)]
    assert scores[0] == 0
    assert scores == sorted(set(scores))
    assert scores[-1] > clipping.TOLERANCE


def test_the_share_is_that_of_the_flat_samples() -> None:
    samples = 0.3 * np.sin(np.arange(1000) * 0.3)
    samples[100:150] = 0.9
    assert score(samples) == pytest.approx(0.05)


def test_beyond_full_scale_is_clipped(speechlike: Speech) -> None:
    """Floats above 1 are cut when they become 16-bit samples."""
    samples = speechlike(0).samples * 8
    assert score(samples) == pytest.approx(score(np.clip(samples, -1, 1)))
    assert score(samples) > clipping.TOLERANCE


def test_turning_a_clipped_clip_down_hides_nothing(speechlike: Speech) -> None:
    clipped = cut(speechlike(0).samples * 1.8, 0.4)
    assert score(clipped * 0.5) == pytest.approx(score(clipped))


def test_silence_is_not_clipped() -> None:
    assert score(np.zeros(1000)) == 0
    assert score(np.full(1000, 3e-5)) == 0


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    assert max(clipping.score(a, "", None) for a in real_speech) == 0
    for audio in real_speech:
        loud = np.clip(audio.samples / np.abs(audio.samples).max() * 4, -1, 1).astype(np.float32)
        assert clipping.score(Audio(loud, audio.rate), "", None) > clipping.TOLERANCE
