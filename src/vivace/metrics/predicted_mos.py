"""Predicted mean opinion score of speech quality, by DistillMOS (Stahl and Gamper, arXiv 2502.05356), variant 7.

A prediction, never a listening test. It over-rates buzzy voices and does not hear that words are missing.
`scripts/convert_distillmos.py` makes the model file and shows that it scores as the original does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vivace.core.audio import Audio, Samples
from vivace.metrics._neural import DATA, session, speech

SUMMARY = "predicted mean opinion score of speech quality (DistillMOS, 1 to 5)"
NEEDS: frozenset[str] = frozenset()
UNIT = "predicted MOS"
BETTER = "up"

MINIMUM = 0.25  # seconds
SEGMENT = 122_880  # samples at 16 kHz: 7.68 s
STEP = 16_000  # segments of a longer clip start at most this far apart
GRID = 320  # samples for each frame of the transformer
SILENCE = 3_840  # samples after the clip: what the convolutions see of it and of the end, kept apart


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """The predicted MOS. Raises ValueError for audio that is not finite, or shorter than 0.25 s."""
    return mos_of(session(DATA / "distillmos.onnx"), speech(audio, MINIMUM))


def mos_of(session: Any, samples: Samples) -> float:
    """The mean over segments, which start where the original's own `forward` puts them. `samples` are at 16 kHz."""
    beyond = max(0, len(samples) - SEGMENT)
    starts = (int(share * beyond) for share in np.linspace(0, 1, -(-beyond // STEP) + 1))
    scores = [session.run(None, {"samples": padded(samples[at : at + SEGMENT])[None]})[0].item() for at in starts]
    return float(np.mean(scores))


def padded(samples: Samples) -> Samples:
    """`samples` and as little of the silence up to a whole segment as gives the score of all of it."""
    size = min(-(-(len(samples) + SILENCE) // GRID) * GRID, SEGMENT)
    return np.pad(samples, (0, size - len(samples)))
