from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.audio import Audio
from vivace.metrics import _neural


@given(st.floats(0.3, 2), st.sampled_from([8000, 16000, 22050, 48000]), st.floats(0.001, 3))
def test_speech_is_at_16_khz_and_within_full_scale(seconds, rate, level):
    samples = level * np.sin(np.arange(round(seconds * rate)) * 0.05)
    speech = _neural.speech(Audio(samples.astype(np.float32), rate), 0.25)
    assert speech.dtype == np.float32
    assert np.abs(speech).max() <= 1
    assert len(speech) == pytest.approx(seconds * 16000, abs=2)


def test_silence_is_told_from_quiet_speech():
    quiet = np.full(16000, 2e-4, dtype=np.float32)
    assert not _neural.silent(quiet)
    assert _neural.silent(quiet / 4)


def test_once_loads_once_for_each_argument_and_again_after_a_failure():
    calls = []

    @_neural.once
    def load(name: str) -> object:
        calls.append(name)
        time.sleep(0.01)
        if len(calls) == 1:
            raise OSError
        return object()

    with pytest.raises(OSError):
        load("a")
    barrier = threading.Barrier(4)

    def together(name: str) -> object:
        barrier.wait()
        return load(name)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(together, "aabb"))
    assert sorted(calls) == ["a", "a", "b"]
    assert found[0] is found[1]
    assert found[2] is found[3]
