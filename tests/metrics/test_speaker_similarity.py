from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.audio import Audio
from vivace.metrics import _neural, speaker_similarity
from vivace.metrics.speaker_similarity import HOP, WINDOW, embedding, mel_powers, windows


def score(audio: Audio, reference: Audio) -> float:
    return speaker_similarity.score(audio, "", reference)


def test_it_embeds_as_the_original_encoder_did(clip, golden):
    embeddings = golden("resemblyzer")["embeddings"]
    assert {"speech", "speech_long", "another_voice"} <= set(embeddings)
    for name, expected in embeddings.items():
        ours = embedding(clip(name).samples)
        assert ours.shape == (256,)
        assert ours @ np.array(expected) == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(ours, expected, atol=0.003)


def test_a_voice_is_told_from_another(clip):
    speech, other = clip("speech"), clip("another_voice")
    assert score(speech, speech) == pytest.approx(1, abs=1e-5)
    assert score(clip("speech_other"), speech) > 0.85
    assert score(clip("speech_long"), speech) > 0.85
    assert score(other, speech) < 0.7


def test_damage_lowers_the_similarity(clip):
    speech = clip("speech")
    higher = Audio(speech.samples, round(speech.rate * 1.3))
    assert score(higher, speech) < 0.8
    assert score(clip("speech_noise_20db"), speech) < 0.95


def test_level_and_rate_do_not_count(clip):
    speech = clip("speech")
    quiet = Audio(speech.samples * np.float32(0.02), speech.rate)
    fast = Audio(_neural.resample(speech, 24_000), 24_000)
    assert score(fast, speech) > 0.995
    quieter = Audio(quiet.samples * np.float32(0.5), speech.rate)
    assert score(quiet, quieter) == pytest.approx(1, abs=1e-4)


@given(st.integers(8_000, 400_000))
def test_windows_cover_the_clip(length):
    starts = windows(length)
    end = (starts[-1] + WINDOW) * HOP
    assert starts[0] == 0
    assert len(starts) == 1 or (length - starts[-1] * HOP) >= 0.75 * WINDOW * HOP
    assert length - end < WINDOW * HOP


def test_mel_powers_keep_the_place_and_the_power_of_a_tone():
    t = np.arange(32_000) / 16_000
    low, high = (mel_powers(np.sin(2 * np.pi * f * t).astype(np.float32))[50] for f in (300, 3000))
    assert low.argmax() < high.argmax()
    loud = mel_powers(2 * np.sin(2 * np.pi * 300 * t).astype(np.float32))[50]
    np.testing.assert_allclose(loud, 4 * low, rtol=1e-3, atol=1e-5)


def test_mel_powers_are_those_of_librosa(clip):
    librosa = pytest.importorskip("librosa")
    samples = clip("speech").samples
    theirs = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=400, hop_length=160, n_mels=40).T
    np.testing.assert_allclose(mel_powers(samples), theirs, rtol=1e-3, atol=1e-5)


def test_two_threads_get_the_same_scores(clip):
    pairs = [(clip(name), clip("speech")) for name in ("speech_other", "speech_long", "another_voice")] * 2
    alone = [score(*pair) for pair in pairs]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda pair: score(*pair), pairs)) == alone


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0), "empty"),
        (np.full(16000, np.nan), "finite"),
        (np.zeros(16000), "silent"),
        (np.full(7000, 0.5), r"at least 0\.5 s"),
    ],
)
def test_audio_that_cannot_be_judged(clip, samples, reason):
    bad = Audio(samples.astype(np.float32), 16000)
    with pytest.raises(ValueError, match=reason):
        score(bad, clip("speech"))
    with pytest.raises(ValueError, match=reason):
        score(clip("speech"), bad)


def test_a_reference_is_needed(clip):
    with pytest.raises(ValueError, match="needs a reference"):
        speaker_similarity.score(clip("speech"), "", None)
