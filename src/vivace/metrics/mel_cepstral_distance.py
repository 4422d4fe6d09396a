"""Mel-cepstral distance: how far the timbre lies from the reference's, moment by moment."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import align, cepstra, log_mel, pair

SUMMARY = "mean distance of the aligned mel cepstra from the reference's"
NEEDS = frozenset({"reference"})
UNIT = "dB"
BETTER: Better = "down"


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """(10 / ln 10) sqrt(2 sum (c_k - c'_k)^2) over cepstra 1 to 24, averaged over the frames of the warped path.

    R. F. Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", IEEE PACRIM 1993.
    Coefficient 0, the level, is left out. The clips are aligned by dynamic time warping on the same cepstra.
    Raises ValueError for empty or non-finite audio, or without a reference.
    """
    a, b, rate = pair(audio, reference)
    x, y = cepstra(log_mel(a, rate)), cepstra(log_mel(b, rate))
    i, j = align(x, y)
    squares = ((x[i] - y[j]) ** 2).sum(axis=1)
    return float(10 / np.log(10) * np.sqrt(2 * squares).mean())
