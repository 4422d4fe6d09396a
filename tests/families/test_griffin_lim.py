"""Log-mels to samples, by what the samples' own log-mels say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vivace.core.features import LogMel
from vivace.families._griffin_lim import GriffinLim

MEL = LogMel(rate=8000, fft=256, hop=64, mels=40)


def sound() -> np.ndarray:
    """One second: a voice-like pulse train that glides, with pauses."""
    times = np.arange(8000) / 8000
    phase = 2 * np.pi * np.cumsum(120 + 40 * times) / 8000
    wave = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 3 * times) > -0.5)
    return (0.2 * wave).astype(np.float32)


def mels(samples: np.ndarray) -> np.ndarray:
    """A frame for every hop, in its middle."""
    return MEL(np.pad(samples, (MEL.fft - MEL.hop) // 2))


def distance(rounds: int) -> float:
    """Mean difference of log-mels above the quietest, in nepers of power."""
    wanted = mels(sound())
    found = mels(replace(GriffinLim(MEL), rounds=rounds)(wanted, np.random.default_rng(0)))
    loud = wanted > wanted.max() - 9
    return float(np.abs(found - wanted)[loud].mean())


def test_the_mels_come_back() -> None:
    assert distance(32) < 0.25
    assert distance(32) < 0.5 * distance(0)  # random phases


@pytest.mark.parametrize("frames", [1, 2, 3, 17, 125])
def test_a_hop_of_samples_for_each_frame(frames: int) -> None:
    found = GriffinLim(MEL)(mels(sound())[:frames], np.random.default_rng(0))
    assert found.shape == (frames * MEL.hop,)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_the_same_seed_gives_the_same_samples() -> None:
    vocoder, given = GriffinLim(MEL), mels(sound())
    first, again, other = (vocoder(given, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_a_frame_stays_in_its_place() -> None:
    """What is loud in the mels is loud in the samples of the same frames."""
    given = np.full((60, MEL.mels), -12.0, np.float32)
    given[30:40] = 0
    energy = (GriffinLim(MEL)(given, np.random.default_rng(0)).reshape(60, -1) ** 2).sum(axis=1)
    assert energy[30:40].sum() > 0.9 * energy.sum()
    assert energy[33:37].min() > 100 * energy[:25].max()


def test_what_no_sound_can_be_stays_finite() -> None:
    """A broken network may ask for any loudness."""
    given = np.array([[200.0], [-200.0], [0.0]], np.float32).repeat(MEL.mels, axis=1)
    assert np.isfinite(GriffinLim(MEL)(given, np.random.default_rng(0))).all()


def test_an_odd_hop_works() -> None:
    shape = LogMel(rate=8000, fft=256, hop=50, mels=40)
    found = GriffinLim(shape)(np.zeros((9, 40), np.float32), np.random.default_rng(0))
    assert found.shape == (450,)
