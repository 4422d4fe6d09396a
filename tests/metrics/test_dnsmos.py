from __future__ import annotations

import importlib
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.core.errors import MissingDependency
from vivace.metrics import _neural, dnsmos


def score(audio: Audio) -> float:
    return dnsmos.score(audio, "", None)


@pytest.fixture
def library(monkeypatch):
    """The package's own procedure. It asks librosa for the features of a second model, which is not needed here."""
    librosa = types.ModuleType("librosa")
    librosa.feature = types.SimpleNamespace(melspectrogram=lambda y, n_mels, **_: np.ones((n_mels, 900), np.float32))
    librosa.power_to_db = lambda mel, ref: mel
    requests = types.ModuleType("requests")
    requests.session = None
    monkeypatch.setitem(sys.modules, "librosa", librosa)
    monkeypatch.setitem(sys.modules, "requests", requests)
    pytest.importorskip("speechmos")
    module = importlib.import_module("speechmos.dnsmos")
    yield lambda samples: module.run(samples, 16000)["ovrl_mos"]
    sys.modules.pop("speechmos.dnsmos", None)


@pytest.mark.parametrize("seconds", [3.1, 9.01, 9.9, 11.2])
def test_it_scores_as_the_package_does(clip, library, seconds):
    samples = np.resize(clip("speech_noise_20db").samples, round(seconds * 16000))
    assert score(Audio(samples, 16000)) == pytest.approx(library(samples), abs=1e-4)


def test_every_window_of_a_long_clip_counts(clip):
    samples = np.resize(clip("speech_long").samples, 19 * 16000)
    samples = samples * np.linspace(0.02, 1, len(samples), dtype=np.float32)
    whole = _neural.session(dnsmos.model_path())
    windows = [samples[at : at + dnsmos.WINDOW] for at in range(0, 160_000, 16_000)]
    expected = [whole.run(None, {"input_1": window[None]})[0][0, 2] for window in windows]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(dnsmos.overall(dnsmos._network(), samples), expected, atol=1e-4)


def test_noise_lowers_the_score(clip):
    assert score(clip("speech_noise_20db")) < score(clip("speech")) - 0.4
    assert score(clip("tone")) < 2


def test_silence_is_bad_speech(clip):
    assert 1 < score(Audio(np.zeros(16000, dtype=np.float32), 16000)) < 2.5


def test_two_threads_get_the_same_scores(clip):
    clips = [clip("speech"), clip("speech_noise_20db")] * 2
    alone = [score(audio) for audio in clips]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(score, clips)) == alone


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0), "empty"),
        (np.full(16000, np.inf), "finite"),
        (np.full(3000, 0.5), r"at least 0\.25 s"),
    ],
)
def test_audio_that_cannot_be_judged(samples, reason):
    with pytest.raises(ValueError, match=reason):
        score(Audio(samples.astype(np.float32), 16000))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(MissingDependency, match=r"vivace\[eval\]"):
        dnsmos.model_path()
