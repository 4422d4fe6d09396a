"""Helpers of the metrics against definitions, known signals and a slow but plain alignment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core.audio import Audio
from vivace.metrics import _signal

RATE = 16_000
Speech = Callable[..., Audio]


def tone(frequency: float, rate: int = RATE, seconds: float = 1.0, amplitude: float = 1.0) -> Audio:
    t = np.arange(round(rate * seconds)) / rate
    return Audio((amplitude * np.sin(2 * np.pi * frequency * t)).astype(np.float32), rate)


@pytest.mark.parametrize("wrong", [[], [0.0, np.nan], [np.inf, 0.0], [[0.0, 1.0]]])
def test_audio_that_cannot_be_judged_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="audio"):
        _signal.checked(Audio(np.array(wrong, dtype=np.float32), RATE))


def test_resampling_keeps_a_tone_and_its_length() -> None:
    out = _signal.resample(tone(440, 22050), RATE)
    assert out.dtype == np.float32
    assert abs(len(out) - RATE) <= 1
    middle = slice(2000, -2000)
    assert np.abs(out[middle] - tone(440).samples[middle]).max() < 1e-3


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    audio = tone(440)
    assert np.array_equal(_signal.resample(audio, RATE), audio.samples)


def test_a_clip_too_short_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        _signal.resample(Audio(np.zeros(1, np.float32), 48000), 16000)


def test_a_pair_meets_at_the_lower_rate() -> None:
    a, b, rate = _signal.pair(tone(440, 22050), tone(440, 16000))
    assert rate == 16000
    assert abs(len(a) - len(b)) <= 1
    with pytest.raises(ValueError, match="reference"):
        _signal.pair(tone(440), None)


def test_a_full_scale_tone_reads_zero_decibels() -> None:
    samples = tone(1000).samples
    assert _signal.levels(samples, RATE)[10] == pytest.approx(0, abs=0.05)
    assert _signal.decibels(_signal.spectrogram(samples, RATE))[10].max() == pytest.approx(0, abs=0.05)


def test_an_offset_is_no_sound() -> None:
    assert _signal.levels(np.full(RATE, 0.5, np.float32), RATE).max() == _signal.FLOOR


@pytest.mark.parametrize("count", [1, 399, 400, 401, 560, 561])
def test_frames_hold_every_sample(count: int) -> None:
    samples = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    power = (_signal.frames(samples, RATE, 0.025, 0.025) ** 2).sum()
    cut = [samples[k : k + 400].astype(float) for k in range(0, count, 400)]
    cut[-1] = np.pad(cut[-1], (0, 400 - len(cut[-1])), mode="edge")
    assert power == pytest.approx(sum(((c - c.mean()) ** 2).sum() for c in cut))


def test_a_tone_lands_in_its_mel_band() -> None:
    bands = [_signal.log_mel(tone(f).samples, RATE)[10].argmax() for f in (200, 500, 1000, 2000, 4000, 7000)]
    assert bands == sorted(set(bands))
    white = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert np.ptp(_signal.log_mel(white, RATE).mean(axis=0)) < 3  # no band is empty or counted twice


def test_log_mel_does_not_change_with_the_volume(speechlike: Speech) -> None:
    audio = speechlike()
    quieter = _signal.log_mel(audio.samples * np.float32(0.25), audio.rate)
    assert np.abs(_signal.log_mel(audio.samples, audio.rate) - quieter).max() < 1e-3


def test_speech_level_leaves_pauses_out(speechlike: Speech) -> None:
    audio = speechlike()
    padded = np.concatenate([audio.samples, np.zeros(5 * audio.rate, np.float32)])
    one, two = (_signal.speech_level(_signal.levels(s, audio.rate)) for s in (audio.samples, padded))
    assert one == pytest.approx(two, abs=0.1)


def test_cepstra_give_the_spectrum_back() -> None:
    """c_k cos(pi k x) with all coefficients is the curve of ln(amplitude) less its mean."""
    levels = np.random.default_rng(0).normal(-30, 10, (5, 20))
    c = _signal.cepstra(levels, 19)
    x = (np.arange(20) + 0.5) / 20
    curve = c @ np.cos(np.pi * np.outer(np.arange(1, 20), x))
    wanted = levels * np.log(10) / 20
    assert np.allclose(curve, wanted - wanted.mean(axis=1, keepdims=True))


def test_runs() -> None:
    starts, ends = _signal.runs(np.array([True, True, False, True, False, False, True]))
    assert starts.tolist() == [0, 3, 6]
    assert ends.tolist() == [2, 4, 7]
    assert _signal.runs(np.zeros(3, bool))[0].size == 0


def cheapest(a: np.ndarray, b: np.ndarray) -> float:
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            before = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = np.linalg.norm(a[i] - b[j]) + before
    return float(total[-1, -1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_alignment_is_the_cheapest_whole_path(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    i, j = _signal.align(a, b)
    assert (i[0], j[0], i[-1], j[-1]) == (0, 0, n - 1, m - 1)
    steps = set(zip(np.diff(i).tolist(), np.diff(j).tolist(), strict=True))
    assert steps <= {(1, 1), (1, 0), (0, 1)}
    assert np.linalg.norm(a[i] - b[j], axis=1).sum() == pytest.approx(cheapest(a, b))


def test_alignment_finds_a_stretch() -> None:
    features = np.random.default_rng(0).normal(size=(60, 4))
    stretched = np.concatenate([features[:30], np.repeat(features[30:], 2, axis=0)])
    i, j = _signal.align(stretched, features)
    assert np.array_equal(stretched[i], features[j])


@pytest.mark.parametrize(("n", "m"), [(900, 40), (3, 2500), (1200, 1150)])
def test_alignment_reaches_the_end_within_its_band(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    i, j = _signal.align(rng.normal(size=(n, 2)), rng.normal(size=(m, 2)))
    assert (i[-1], j[-1]) == (n - 1, m - 1)
    assert (np.diff(i) + np.diff(j) >= 1).all()
