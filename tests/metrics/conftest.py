"""Recorded clips at 16 kHz: `speech` (3.1 s), `speech_other` (3.6 s) and `speech_long` (8.8 s) of one synthetic voice,
`speech_noise_20db` (`speech` with white noise), `another_voice` (the words of `speech`) and `tone` (2 s).

The voices are Piper's en_US-joe-medium (recordings in the public domain) and Kokoro-82M's jm_kumo (Apache-2.0)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from vivace.core.audio import Audio

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
    return lambda name: json.loads((HERE / "golden" / f"{name}.json").read_text())
