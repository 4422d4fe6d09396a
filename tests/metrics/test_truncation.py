from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import duration_ratio, truncation

Speech = Callable[..., Audio]


def score(samples: np.ndarray, rate: int = 22050) -> float:
    return truncation.score(Audio(samples.astype(np.float32), rate), "", None)


def cut(audio: Audio) -> np.ndarray:
    """Up to the middle of the loudest 50 ms."""
    energy = np.convolve(audio.samples**2, np.ones(audio.rate // 20), "valid")
    return audio.samples[: int(energy.argmax()) + audio.rate // 40]


@pytest.mark.parametrize("seed", range(6))
def test_an_end_that_dies_away(speechlike: Speech, seed: int) -> None:
    assert score(speechlike(seed).samples) < truncation.TOLERANCE


@pytest.mark.parametrize("seed", range(6))
def test_a_cut_is_seen_with_and_without_padding(speechlike: Speech, seed: int) -> None:
    stump = cut(speechlike(seed))
    assert score(stump) > 0.8
    assert score(np.concatenate([stump, np.zeros(5000)])) > 0.8


def test_neither_volume_nor_offset_matter(speechlike: Speech) -> None:
    stump = cut(speechlike(0))
    assert score(stump * 0.1) == pytest.approx(score(stump), abs=0.01)
    assert score(speechlike(0).samples + 0.02) == pytest.approx(score(speechlike(0).samples), abs=0.01)


def test_steady_noise_is_no_cut(speechlike: Speech) -> None:
    samples = speechlike(0).samples
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(samples))
    assert score(samples + noise) < truncation.TOLERANCE


def test_silence_ends_gently() -> None:
    assert score(np.zeros(5000)) == 0
    assert score(np.zeros(1)) == 0


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    assert max(truncation.score(a, "", None) for a in real_speech) < truncation.TOLERANCE / 2
    for audio in real_speech:
        short = Audio(audio.samples[: len(audio.samples) - audio.rate // 2], audio.rate)
        seen = truncation.score(short, "", None) > truncation.TOLERANCE
        assert seen or duration_ratio.score(short, "", audio) < 0.95
    cuts = [truncation.score(Audio(cut(a), a.rate), "", None) for a in real_speech]
    assert min(cuts) > 0.7
