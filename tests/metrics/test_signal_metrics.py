"""What all signal metrics owe their caller, whatever the audio."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core import registry
from vivace.core.audio import Audio

DETECTORS = ("silence", "clipping", "truncation", "dc_offset", "repetition")
COMPARISONS = ("hiss", "mel_cepstral_distance", "log_spectral_distance", "duration_ratio", "loudness_difference")
ALL = DETECTORS + COMPARISONS


@pytest.mark.parametrize("name", ALL)
def test_the_contract(name: str) -> None:
    metric = registry.load("metrics", name)
    assert metric.SUMMARY
    assert metric.UNIT
    assert metric.BETTER in ("up", "down", "none")
    assert frozenset({"reference"} if name in COMPARISONS else ()) == metric.NEEDS


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("samples", [[], [0.1, float("nan")], [float("inf"), 0.0]])
def test_audio_that_cannot_be_judged_is_an_error(name: str, samples: list[float]) -> None:
    bad, good = Audio(np.array(samples, np.float32), 16000), Audio(np.zeros(16000, np.float32), 16000)
    metric = registry.load("metrics", name)
    with pytest.raises(ValueError, match="audio"):
        metric.score(bad, "", good)
    if name in COMPARISONS:
        with pytest.raises(ValueError, match="audio"):
            metric.score(good, "", bad)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["zeros", "ones", "noise", "tone", "click", "loud"]),
    length=st.integers(4, 30000),
    other=st.integers(4, 30000),
    rate=st.sampled_from([8000, 16000, 22050, 48000]),
)
def test_scores_are_finite_whatever_the_audio(name: str, kind: str, length: int, other: int, rate: int) -> None:
    rng = np.random.default_rng(length)
    click = np.zeros(length)
    click[length // 2] = 1.0
    samples = {
        "zeros": np.zeros(length),
        "ones": np.ones(length),
        "noise": rng.standard_normal(length) * 0.1,
        "tone": np.sin(np.arange(length) * 0.1),
        "click": click,
        "loud": rng.standard_normal(length) * 1000,
    }[kind]
    reference = Audio((rng.standard_normal(other) * 0.1).astype(np.float32), 16000)
    audio = Audio(samples.astype(np.float32), rate)
    metric = registry.load("metrics", name)
    assert np.isfinite(metric.score(audio, "", reference))
    assert np.isfinite(metric.score(reference, "", audio))


@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_same_in_any_thread(name: str, speechlike: Callable[..., Audio]) -> None:
    metric, clips = registry.load("metrics", name), [speechlike(k) for k in range(4)]
    alone = [metric.score(a, "", clips[0]) for a in clips]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda a: metric.score(a, "", clips[0]), clips)) == alone
