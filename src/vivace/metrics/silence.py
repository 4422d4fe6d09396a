"""Silence where there should be speech: seconds of pause beyond what speakers make, and of sound cut off to nothing."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio, Samples
from vivace.core.report import Better
from vivace.metrics._signal import HOP, SILENT, checked, levels, runs, speech_level

SUMMARY = "seconds of silence beyond natural pauses, and of dropouts"
NEEDS: frozenset[str] = frozenset()
UNIT = "s"
BETTER: Better = "down"
TOLERANCE = 0.02  # s; the real voice scores 0 on every sentence

PAUSE = 0.7  # seconds: the real voice pauses for up to 0.5 inside a sentence; joined sentences come close to 0.7
QUIET = 35.0  # dB below the level of speech
DROPOUT = 0.005  # seconds


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Seconds by which silent stretches exceed `PAUSE`, plus the seconds of dropouts; the whole length of a clip
    that is silent throughout.

    A dropout is a stretch of equal samples within the clip that follows sound without any decay, as a missing chunk
    leaves it: too short for a pause, yet never made by a voice. Raises ValueError for empty or non-finite audio.
    """
    samples = checked(audio)
    frame_levels = levels(samples, audio.rate)
    if frame_levels.max() < SILENT:
        return audio.seconds
    level = speech_level(frame_levels)
    starts, ends = runs(frame_levels < max(level - QUIET, SILENT))
    excess = float(np.maximum(0.0, (ends - starts) * HOP - PAUSE).sum())
    return excess + _dropouts(samples, audio.rate, level)


def _dropouts(samples: Samples, rate: int, level: float) -> float:
    starts, ends = runs(np.diff(samples) == 0)
    length = (ends - starts) / rate
    found = (length >= DROPOUT) & (length <= PAUSE) & (ends < len(samples) - 1)  # longer ones are counted as silence
    before = [samples[max(0, s - round(HOP * rate)) : s + 1] for s in starts[found]]
    cut = np.array([_level(piece) > level - QUIET + 10 for piece in before], dtype=bool)
    return float(length[found][cut].sum())


def _level(samples: Samples) -> float:
    return float(10 * np.log10(2 * samples.astype(np.float64).var() + 1e-12))
