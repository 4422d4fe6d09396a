from __future__ import annotations

import importlib.util
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core.audio import Audio
from vivace.metrics import _neural, predicted_mos

SCRIPT = Path(__file__).parents[2] / "scripts/convert_distillmos.py"
TOLERANCE = 0.001  # half-precision weights: 0.0004 on these clips


def score(audio: Audio) -> float:
    return predicted_mos.score(audio, "", None)


def test_it_scores_as_the_original_model_did(clip, golden):
    scores = golden("distillmos")["scores"]
    assert {"speech", "speech_long", "speech_noise_20db"} <= set(scores)
    assert {name: score(clip(name)) for name in scores} == pytest.approx(scores, abs=TOLERANCE)


def test_it_scores_as_the_original_model_does(clip, monkeypatch):
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchaudio") is None:
        monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    distillmos = pytest.importorskip("distillmos")
    model = distillmos.ConvTransformerSQAModel().eval()
    rng = np.random.default_rng(0)
    for seconds in (0.3, 3.1, 7.5, 7.68, 7.7, 8.7, 11.3):
        samples = np.resize(clip("speech_long").samples, round(seconds * 16000))
        samples = (samples + 0.003 * rng.standard_normal(len(samples))).astype(np.float32)
        with torch.no_grad():
            theirs = model(torch.from_numpy(samples)[None]).item()
        assert score(Audio(samples, 16000)) == pytest.approx(theirs, abs=TOLERANCE)


@settings(max_examples=8, deadline=None)
@given(st.integers(4_000, predicted_mos.SEGMENT), st.integers(0, 2**32 - 1))
def test_leaving_silence_out_changes_nothing(length, seed):
    session = _neural.session(_neural.DATA / "distillmos.onnx")
    samples = np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)
    whole = np.pad(samples, (0, predicted_mos.SEGMENT - length))
    expected = session.run(None, {"samples": whole[None]})[0].item()
    assert predicted_mos.mos_of(session, samples) == pytest.approx(expected, abs=1e-5)


def test_a_long_clip_is_the_mean_of_overlapping_segments():
    class Positions:
        """A session that answers with the first sample it is given."""

        def run(self, _names, inputs):
            assert inputs["samples"].shape == (1, predicted_mos.SEGMENT)
            return [inputs["samples"][:, 0]]

    ramp = np.arange(predicted_mos.SEGMENT + 24_000, dtype=np.float32)
    assert predicted_mos.mos_of(Positions(), ramp) == np.mean([0, 12_000, 24_000])
    assert predicted_mos.mos_of(Positions(), ramp[: predicted_mos.SEGMENT]) == 0


def test_damage_lowers_the_score(clip):
    speech = clip("speech")
    clean = score(speech)
    clipped = Audio(np.clip(speech.samples * 30, -0.3, 0.3), speech.rate)
    assert clean > 4.0
    assert score(clip("speech_noise_20db")) < clean - 0.5
    assert score(clipped) < clean - 0.5


def test_it_does_not_depend_on_level_or_rate(clip):
    speech = clip("speech")
    clean = score(speech)
    assert score(Audio(speech.samples * np.float32(0.1), speech.rate)) == pytest.approx(clean, abs=0.01)
    doubled = _neural.resample(speech, 32_000)
    assert score(Audio(doubled, 32_000)) == pytest.approx(clean, abs=0.05)


def test_silence_is_bad_speech(clip):
    assert 1 < score(Audio(np.zeros(16000, dtype=np.float32), 16000)) < 2.5


def test_two_threads_get_the_same_scores(clip):
    clips = [clip(name) for name in ("speech", "speech_other", "speech_noise_20db")] * 2
    alone = [score(audio) for audio in clips]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(score, clips)) == alone


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0), "empty"),
        (np.full(16000, np.nan), "finite"),
        (np.full(3000, 0.5), r"at least 0\.25 s"),
    ],
)
def test_audio_that_cannot_be_judged(samples, reason):
    with pytest.raises(ValueError, match=reason):
        score(Audio(samples.astype(np.float32), 16000))
