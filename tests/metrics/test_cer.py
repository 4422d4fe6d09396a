from __future__ import annotations

import sys

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.core.errors import MissingDependency
from vivace.metrics import _asr, cer, wer

SILENCE = Audio(np.zeros(16000, dtype=np.float32), 16000)


def test_a_nearly_right_word_counts_little(monkeypatch):
    monkeypatch.setattr(_asr, "transcript", lambda audio: "the birdy sang")
    assert cer.score(SILENCE, "The birds sang.", None) == pytest.approx(1 / 14)
    assert wer.score(SILENCE, "The birds sang.", None) == pytest.approx(1 / 3)


def test_silence_misses_everything(monkeypatch):
    assert cer.score(SILENCE, "The birds sang.", None) == 1


def test_without_jiwer(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingDependency, match=r"vivace\[eval\]"):
        cer.score(SILENCE, "a", None)


@pytest.mark.voice
def test_one_pass_serves_both(clip, monkeypatch):
    passes = []
    recognize = _asr.recognize
    monkeypatch.setattr(_asr, "recognize", lambda samples: passes.append(1) or recognize(samples))
    monkeypatch.setattr(_asr, "_known", type(_asr._known)())
    text = "Please bring two bottles of milk and a loaf of brown bread from the shop."
    assert cer.score(clip("speech_other"), text, None) < 0.1
    assert wer.score(clip("speech_other"), text, None) < 0.1
    assert len(passes) == 1
