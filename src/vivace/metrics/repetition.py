"""Repetition: a voice that is caught in a loop, or hangs on a sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import HOP, SILENT, Floats, cepstra, checked, levels, log_mel, speech_level

SUMMARY = "seconds of sound that repeat, alike, what was heard before"
NEEDS: frozenset[str] = frozenset()
UNIT = "s"
BETTER: Better = "down"
TOLERANCE = 0.5  # s; two readings of one sentence that repeats words differ by less

SHORTEST_LAG = 0.25  # seconds: below it lies the steadiness of any vowel
LONGEST_LAG = 8.0  # seconds: bounds the cost; a loop with a longer period is not seen
STRETCH = 0.3  # seconds that must be alike
ALIKE = 2.0  # dB of mel-cepstral distance; two readings of one sentence lie near 1.7, other words above 3


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Seconds of the clip that lie within `ALIKE` of the clip `SHORTEST_LAG` to `LONGEST_LAG` earlier.

    Mel cepstra, smoothed over 30 ms, are compared with themselves at each lag, frame by frame, as in a
    self-similarity matrix (Foote 1999); the mean distance over a stretch of loud frames decides. A text that
    repeats itself in the same words may score up to about a second: compare with the parent on the same text.
    Raises ValueError for empty or non-finite audio.
    """
    samples = checked(audio)
    frame_levels = levels(samples, audio.rate)
    features = cepstra(_smooth(log_mel(samples, audio.rate)))
    loud = _loud(frame_levels)
    stretch = round(STRETCH / HOP)
    repeated = np.zeros(len(features) + 1)  # +1 where a repeated stretch starts, -1 after its end
    last = min(len(features) - stretch, round(LONGEST_LAG / HOP))
    for lag in range(round(SHORTEST_LAG / HOP), last + 1):
        both = loud[lag:] & loud[:-lag]
        difference = features[lag:] - features[:-lag]
        distance = 10 / np.log(10) * np.sqrt(2 * np.einsum("ij,ij->i", difference, difference))
        count = _moving_sum(both.astype(np.float64), stretch)
        total = _moving_sum(np.where(both, distance, 0.0), stretch)
        starts = lag + np.flatnonzero((count >= 0.7 * stretch) & (total < ALIKE * count))
        repeated[starts] += 1
        repeated[starts + stretch] -= 1
    return float(np.count_nonzero(np.cumsum(repeated[:-1]) > 0) * HOP)


def _smooth(values: Floats) -> Floats:
    padded = np.pad(values, ((1, 1), (0, 0)), mode="edge")
    return np.asarray((padded[:-2] + padded[1:-1] + padded[2:]) / 3)


def _loud(frame_levels: Floats) -> NDArray[np.bool_]:
    """Frames of speech: pauses resemble each other, whether they hold silence or a steady noise."""
    speech, background = speech_level(frame_levels), np.quantile(frame_levels, 0.05)
    return np.asarray(frame_levels > max(speech - 35, min(background + 10, speech - 15), SILENT), dtype=np.bool_)


def _moving_sum(values: Floats, size: int) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(total[size:] - total[:-size])
