"""Truncation: a clip that stops in the midst of sound instead of dying away."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import SILENT, checked, decibels, levels, speech_level

SUMMARY = "how abruptly the clip ends (0: dies away, 1: at the level of speech)"
NEEDS: frozenset[str] = frozenset()
UNIT = "share"
BETTER: Better = "down"
TOLERANCE = 0.2  # the real voice scores 0, with noise up to 0.06; cut in the midst of a sound, 0.7 and more

END = 0.010  # seconds
NOTHING = 60.0  # dB below speech: what follows the last sample above it was put there by software
LOWEST, HIGHEST = 40.0, 20.0  # dB below speech, between which the clip's own background is looked for


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """The level of the last 10 ms of sound, on a scale from the clip's background (0) to its speech level (1).

    Near-digital silence at the end is skipped: padding does not mend a cut. The background is the level that 5% of
    the frames stay below, so that steady noise is not taken for a cut. A silent clip scores 0.
    Raises ValueError for empty or non-finite audio.
    """
    samples = checked(audio)
    frame_levels = levels(samples, audio.rate)
    speech = speech_level(frame_levels)
    if speech < SILENT:
        return 0.0
    background = float(np.clip(np.quantile(frame_levels, 0.05), speech - LOWEST, speech - HIGHEST))
    swing = np.abs(samples - samples[-1])  # from where the clip comes to rest, offset or not
    last = int(np.flatnonzero(swing >= 10 ** ((speech - NOTHING) / 20))[-1]) + 1
    end = decibels(2 * samples[max(0, last - round(END * audio.rate)) : last].var(dtype=np.float64))
    return float(np.clip((end - background) / (speech - background), 0.0, 1.0))
