"""Truncation: a clip that stops in the midst of sound instead of dying away."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio
from vivace.core.report import Better
from vivace.metrics._signal import checked, levels, runs, speech_level

SUMMARY = "how abruptly the clip ends (0: dies away, 1: at the level of speech)"
NEEDS: frozenset[str] = frozenset()
UNIT = "share"
BETTER: Better = "down"

END = 3  # frames: 30 ms
NOTHING = 60.0  # dB below speech: what follows the last frame above it was put there by software
LOWEST, HIGHEST = 40.0, 20.0  # dB below speech, between which the clip's own background is looked for


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """The level of the last 30 ms of sound, on a scale from the clip's background (0) to its speech level (1).

    Near-digital silence at the end is skipped: padding does not mend a cut. The background is the level that 5% of
    the frames stay below, so that steady noise is not taken for a cut. A silent clip scores 0.
    Raises ValueError for empty or non-finite audio.
    """
    frame_levels = levels(checked(audio), audio.rate, window=0.010)
    speech = speech_level(frame_levels)
    background = float(np.clip(np.quantile(frame_levels, 0.05), speech - LOWEST, speech - HIGHEST))
    _, ends = runs(frame_levels > speech - NOTHING)
    last = frame_levels[max(0, ends[-1] - END) : ends[-1]]
    end = 10 * np.log10(np.mean(10 ** (last / 10)))
    return float(np.clip((end - background) / (speech - background), 0.0, 1.0))
