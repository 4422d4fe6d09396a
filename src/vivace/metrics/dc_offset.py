"""DC offset: a waveform that does not swing around zero, which costs headroom and clicks where clips are joined."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import checked

SUMMARY = "distance of the mean sample from zero"
NEEDS: frozenset[str] = frozenset()
UNIT = "full scale"
BETTER: Better = "down"
TOLERANCE = 0.005  # -46 dB; the real voice stays below 0.001


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """|mean| of the samples, where 1 is full scale. Raises ValueError for empty or non-finite audio."""
    return abs(float(checked(audio).mean(dtype=np.float64)))
