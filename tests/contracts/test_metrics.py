"""Every metric: a finite figure of a clean clip, ValueError for what cannot be judged, the same from any thread."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak

TEXT = "the quick brown fox jumps over the lazy dog"


def heavy(name: str) -> bool:
    """Whether the metric loads a neural model."""
    source = inspect.getsource(registry.load("metrics", name))
    return "_neural" in source or "_asr" in source


METRICS = [pytest.param(name, marks=[pytest.mark.voice] if heavy(name) else []) for name in registry.names("metrics")]


@pytest.fixture(scope="module")
def clip(make_toy: Callable[..., Bundle]) -> Audio:
    """Two seconds of the toy voice at the rate of a real one."""
    with Engine(make_toy(rate=16000), RuntimeOptions(threads=1)) as engine:
        audio = speak(engine, Request("a", f"{TEXT}, {TEXT}"))
    assert audio.seconds > 1
    return audio


@pytest.mark.parametrize("name", METRICS)
def test_a_clean_clip_has_a_finite_figure(name: str, clip: Audio) -> None:
    figure = registry.load("metrics", name).score(clip, TEXT, clip)
    assert isinstance(figure, float)
    assert math.isfinite(figure)


@pytest.mark.parametrize("name", METRICS)
def test_the_clip_is_left_alone(name: str, clip: Audio) -> None:
    before = clip.samples.copy()
    registry.load("metrics", name).score(clip, TEXT, clip)
    assert np.array_equal(clip.samples, before)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("what", ["empty", "nan", "infinite"])
def test_what_cannot_be_judged_is_refused(name: str, what: str, clip: Audio) -> None:
    samples = {"empty": clip.samples[:0], "nan": clip.samples * np.nan, "infinite": clip.samples * np.inf}[what]
    with pytest.raises(ValueError) as caught:
        registry.load("metrics", name).score(Audio(samples.astype(np.float32), clip.rate), TEXT, clip)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", ["silence", "one sample", "a click"])
def test_a_poor_clip_has_a_figure_or_is_refused(name: str, kind: str, clip: Audio) -> None:
    samples = np.zeros(1 if kind == "one sample" else clip.rate, np.float32)
    if kind == "a click":
        samples[len(samples) // 2] = 1
    try:
        figure = registry.load("metrics", name).score(Audio(samples, clip.rate), TEXT, clip)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert math.isfinite(figure)


@pytest.mark.parametrize("name", METRICS)
def test_threads_do_not_disturb_one_another(name: str, clip: Audio) -> None:
    score = registry.load("metrics", name).score
    clips = [Audio(np.roll(clip.samples, k * 1000)[: -(k + 1) * 500], clip.rate) for k in range(4)]
    alone = [score(c, TEXT, clip) for c in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda c: score(c, TEXT, clip), clips))
    assert together == alone
