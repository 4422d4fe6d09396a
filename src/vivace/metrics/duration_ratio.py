"""Duration ratio: how long the clip is beside the reference's. Sees lost words, loops and runaway generation."""

from __future__ import annotations

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import checked

SUMMARY = "seconds of the clip over seconds of the reference"
NEEDS = frozenset({"reference"})
UNIT = "ratio"
BETTER: Better = "none"


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Seconds of `audio` over seconds of `reference`; 1 is equal.

    Raises ValueError for empty or non-finite audio, or without a reference.
    """
    if reference is None:
        raise ValueError("this metric compares with a reference, and none was given")
    checked(audio), checked(reference)
    return audio.seconds / reference.seconds
