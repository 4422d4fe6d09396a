"""Hiss: noise where the reference is quiet. Coarse arithmetic in a vocoder adds it; word errors do not show it."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio, Samples
from vivace.core.report import Better
from vivace.metrics._signal import Floats, log_mel, pair

SUMMARY = "noise added where the reference is quiet"
NEEDS = frozenset({"reference"})
UNIT = "dB"
BETTER: Better = "down"
TOLERANCE = 6.0  # dB; another draw of noise stays below 1, a sparing INT8 vocoder below 4, a hissing one lies above 10


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """By how many dB the quiet half of each mel band lies above the reference's, averaged over the bands.

    For each band, the quieter half of its levels in time are compared by rank, so that the clips need not be
    aligned; this follows the idea of noise estimation by minimum statistics (Martin 2001). Levels are relative to
    the speech of their own clip; a band that became quieter counts 0, so that it cannot hide noise in another.
    Raises ValueError for empty or non-finite audio, or without a reference.
    """
    a, b, rate = pair(audio, reference)
    return float(np.maximum(0.0, _quiet(a, rate) - _quiet(b, rate)).mean())


def _quiet(samples: Samples, rate: int) -> Floats:
    ranked = np.sort(log_mel(samples, rate), axis=0)
    return np.asarray(ranked[: (len(ranked) + 1) // 2].mean(axis=0), dtype=np.float64)
