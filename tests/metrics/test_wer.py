from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.audio import Audio
from vivace.core.errors import MissingDependency
from vivace.metrics import _asr, wer

TEXT = "She opened the window and listened to the birds singing in the garden."


def score(heard: str, text: str) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_asr, "transcript", lambda audio: heard)
        return wer.score(Audio(np.zeros(16000, dtype=np.float32), 16000), text, None)


def test_wrong_missing_and_added_words_count():
    assert score("the cat sat on a mat", "The cat sat on the mat.") == pytest.approx(1 / 6)
    assert score("the cat sat on mat", "The cat sat on the mat.") == pytest.approx(1 / 6)
    assert score("the cat sat on the green mat", "The cat sat on the mat.") == pytest.approx(1 / 6)
    assert score("", "The cat sat") == 1
    assert score("no no no no", "yes") == 4


@given(st.lists(st.sampled_from(["red", "green", "blue", "sky"]), min_size=2, max_size=8), st.data())
def test_dropping_words_costs_their_share(spoken, data):
    kept = data.draw(st.integers(0, len(spoken)))
    assert score(" ".join(spoken[:kept]), " ".join(spoken)) == pytest.approx(1 - kept / len(spoken))


def test_without_jiwer(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingDependency, match=r"vivace\[eval\]"):
        score("a", "a")


@pytest.mark.voice
def test_damage_makes_words_wrong(clip):
    speech = clip("speech")
    backwards = Audio(np.ascontiguousarray(speech.samples[::-1]), speech.rate)
    half = Audio(speech.samples[: len(speech.samples) // 2], speech.rate)
    assert wer.score(speech, TEXT, None) < 0.15
    assert wer.score(half, TEXT, None) > 0.3
    assert wer.score(backwards, TEXT, None) > 0.7
