"""Log-spectral distance: how far the fine spectrum lies from the reference's, level and noise included."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import INAUDIBLE, align, cepstra, decibels, levels, log_mel, pair, spectrogram, speech_level

SUMMARY = "mean distance of the aligned spectra from the reference's"
NEEDS = frozenset({"reference"})
UNIT = "dB"
BETTER: Better = "down"


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Root mean square over frequency of the difference in dB, averaged over the frames of the warped path.

    A. H. Gray and J. D. Markel, "Distance measures for speech processing", IEEE Trans. ASSP 24 (1976). The clips are
    aligned by dynamic time warping of their mel cepstra. Another draw of a voice's noise is about as far away as a
    harmed voice: it does not rank voices, and serves where audio ought to be nearly equal.
    Raises ValueError for empty or non-finite audio, or without a reference.
    """
    a, b, rate = pair(audio, reference)
    i, j = align(cepstra(log_mel(a, rate)), cepstra(log_mel(b, rate)))
    floor = speech_level(levels(b, rate)) - INAUDIBLE
    x, y = (np.maximum(decibels(spectrogram(clip, rate)), floor) for clip in (a, b))
    difference = x[i] - y[j]
    return float(np.sqrt((difference**2).mean(axis=1)).mean())
