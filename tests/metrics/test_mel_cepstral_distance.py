from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import mel_cepstral_distance
from vivace.metrics.mel_cepstral_distance import score

Speech = Callable[..., Audio]


def noisy(audio: Audio, snr: float) -> Audio:
    noise = np.random.default_rng(0).standard_normal(len(audio.samples)) * audio.samples.std()
    return Audio((audio.samples + noise * 10 ** (-snr / 20)).astype(np.float32), audio.rate)


def test_equal_audio_is_at_no_distance(speechlike: Speech) -> None:
    audio = speechlike()
    assert score(audio, "", audio) == 0
    assert score(Audio(audio.samples * np.float32(0.3), audio.rate), "", audio) < 0.01


def test_more_harm_is_farther_and_other_speech_farthest(speechlike: Speech) -> None:
    audio = speechlike()
    scores = [score(noisy(audio, snr), "", audio) for snr in (60, 40, 20)] + [score(speechlike(1), "", audio)]
    assert scores == sorted(set(scores))


def test_a_shift_in_time_hardly_counts(speechlike: Speech) -> None:
    audio = speechlike()
    shifted = Audio(np.concatenate([np.zeros(3000, np.float32), audio.samples]), audio.rate)
    assert score(shifted, "", audio) < 0.5 * score(noisy(audio, 30), "", audio)


def test_the_figure_is_the_spectral_difference_in_decibels() -> None:
    """Noise whose spectrum is tilted by a cosine of amplitude 6 dB lies 6 / sqrt(2) dB away: the constant's meaning."""
    rate = 16000
    white = np.random.default_rng(0).standard_normal(4 * rate)
    spectrum = np.fft.rfft(white)
    hertz = np.fft.rfftfreq(len(white), 1 / rate)
    position = np.log10(1 + hertz / 700) / np.log10(1 + rate / 1400)
    tilted = np.fft.irfft(spectrum * 10 ** (6 * np.cos(2 * np.pi * position) / 20))
    a, b = (Audio((0.05 * x).astype(np.float32), rate) for x in (tilted, white))
    assert score(a, "", b) == pytest.approx(6 / np.sqrt(2), rel=0.1)


def test_it_needs_a_reference(speechlike: Speech) -> None:
    assert "reference" in mel_cepstral_distance.NEEDS
    with pytest.raises(ValueError, match="reference"):
        score(speechlike(), "", None)


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    for audio, other in pairwise(real_speech):
        assert score(noisy(audio, 40), "", audio) < score(noisy(audio, 30), "", audio) < score(other, "", audio)
