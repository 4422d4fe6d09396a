from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import hiss

Speech = Callable[..., Audio]


def noisy(audio: Audio, snr: float, seed: int = 0) -> Audio:
    noise = np.random.default_rng(seed).standard_normal(len(audio.samples))
    level = np.sqrt(np.mean(audio.samples**2)) * 10 ** (-snr / 20)
    return Audio((audio.samples + level * noise).astype(np.float32), audio.rate)


@pytest.mark.parametrize("seed", range(4))
def test_more_noise_scores_more(speechlike: Speech, seed: int) -> None:
    audio = speechlike(seed)
    scores = [hiss.score(noisy(audio, snr), "", audio) for snr in (90, 40, 30, 20, 10)]
    assert scores == sorted(set(scores))
    assert scores[0] < 0.5
    assert scores[2] > hiss.TOLERANCE


def test_equal_audio_has_none(speechlike: Speech) -> None:
    audio = speechlike()
    assert hiss.score(audio, "", audio) == 0


@pytest.mark.parametrize("gain", [0.3, 2.0])
def test_volume_is_no_hiss(speechlike: Speech, gain: float) -> None:
    audio = speechlike()
    assert hiss.score(Audio(audio.samples * np.float32(gain), audio.rate), "", audio) < 0.01


def test_another_timing_is_no_hiss(speechlike: Speech) -> None:
    audio = speechlike()
    k = int(np.argmin(np.convolve(audio.samples**2, np.ones(2000), "valid")))
    pause = np.tile(audio.samples[k : k + 2000], 2)
    later = Audio(np.concatenate([audio.samples[:k], pause, audio.samples[k:]]), audio.rate)
    assert hiss.score(later, "", audio) < 0.5


def test_noise_that_follows_the_voice_is_seen(speechlike: Speech) -> None:
    """Coarse rounding makes noise in speech, none in pauses of exact silence."""
    audio = speechlike()
    coarse = Audio((np.round(audio.samples * 64) / 64).astype(np.float32), audio.rate)
    assert hiss.score(coarse, "", audio) > 2


def test_less_noise_in_one_band_hides_no_noise_in_another(speechlike: Speech) -> None:
    clean = speechlike()
    noise = np.fft.rfft(noisy(clean, 25).samples - clean.samples)
    low, high = noise.copy(), noise.copy()
    low[len(noise) // 2 :] = 0
    high[: len(noise) // 2] = 0
    a, b = (Audio((clean.samples + np.fft.irfft(n, len(clean.samples))).astype(np.float32), 22050) for n in (low, high))
    assert hiss.score(a, "", b) > 2
    assert hiss.score(b, "", a) > 2


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    for audio in real_speech:
        assert hiss.score(noisy(audio, 30), "", audio) > hiss.TOLERANCE
        sixteen_bit = Audio((np.round(audio.samples * 32767) / 32768).astype(np.float32), audio.rate)
        assert hiss.score(sixteen_bit, "", audio) < 0.1
