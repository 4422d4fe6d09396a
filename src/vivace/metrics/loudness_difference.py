"""Loudness difference: a voice that became quieter or louder, which shape-comparing metrics leave out."""

from __future__ import annotations

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import levels, pair, speech_level

SUMMARY = "level of speech above the reference's"
NEEDS = frozenset({"reference"})
UNIT = "dB"
BETTER: Better = "none"


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Active speech level of `audio` minus that of `reference` in dB, pauses left out of both.

    Raises ValueError for empty or non-finite audio, or without a reference.
    """
    a, b, rate = pair(audio, reference)
    return speech_level(levels(a, rate)) - speech_level(levels(b, rate))
