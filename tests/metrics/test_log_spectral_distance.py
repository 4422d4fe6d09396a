from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics.log_spectral_distance import score

Speech = Callable[..., Audio]


def test_equal_audio_is_at_no_distance(speechlike: Speech) -> None:
    audio = speechlike()
    assert score(audio, "", audio) == 0


def test_a_gain_reads_as_itself() -> None:
    white = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * np.float32(0.05)
    assert score(Audio(white * np.float32(2), 16000), "", Audio(white, 16000)) == pytest.approx(6.02, abs=0.05)


def test_more_noise_is_farther(speechlike: Speech) -> None:
    audio = speechlike()
    noise = np.random.default_rng(0).standard_normal(len(audio.samples)).astype(np.float32)
    scores = [score(Audio(audio.samples + noise * level, audio.rate), "", audio) for level in (1e-4, 1e-3, 1e-2)]
    assert scores == sorted(set(scores))


def test_clips_of_different_rate_and_length_can_be_compared(speechlike: Speech) -> None:
    """The synthetic speech is drawn anew at each rate: the same syllables, other noise."""
    same, other = speechlike(0, 16000), speechlike(1, 22050)
    assert score(same, "", speechlike(0, 22050)) < score(other, "", speechlike(0, 22050))
