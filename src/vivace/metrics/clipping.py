"""Clipping: samples that stand at the clip's peak instead of turning over there."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import checked, runs

SUMMARY = "share of samples in flat runs at the peak"
NEEDS: frozenset[str] = frozenset()
UNIT = "share"
BETTER: Better = "down"
TOLERANCE = 5e-4  # about ten samples a second; the real voice scores 0

FULL_SCALE = 1 - 1e-5
QUIETEST = 0.1  # below this peak, equal 16-bit samples are a matter of rounding


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Share of samples (0 to 1) in runs of three or more at the clip's peak, or at or beyond full scale.

    A peak below full scale counts too: a clip may have been turned down after it was clipped. Three samples at
    up to 30 kHz, proportionally more above; a tone of 50 Hz or more turns over faster.
    Raises ValueError for empty or non-finite audio.
    """
    magnitude = np.abs(checked(audio))
    peak = magnitude.max()
    if peak < QUIETEST:
        return 0.0
    starts, ends = runs(magnitude >= min(peak * FULL_SCALE, FULL_SCALE))
    shortest = max(3, round(audio.rate / 10_000))
    length = ends - starts
    return float(length[length >= shortest].sum() / magnitude.size)
