"""Clips that anybody who listens calls bad: what attention checks play."""

from __future__ import annotations

import numpy as np

from vivace.core.audio import Audio

HALF_WORDS = 0.06  # seconds that are heard, and seconds that are not


def damaged(audio: Audio, seed: int) -> Audio:
    """The same speech in pieces of 60 ms, under noise as loud as itself, in 4 bits; no louder than it was."""
    draw = np.random.default_rng(seed)
    samples = audio.samples.astype(np.float64)
    level = float(np.sqrt(np.mean(samples**2))) or 1e-3
    gate = np.arange(len(samples)) // max(1, int(HALF_WORDS * audio.rate)) % 2 == 0
    noisy = samples * gate + draw.normal(0, level, len(samples))
    coarse = np.round(noisy / (3 * level) * 8) / 8
    made = coarse / (float(np.sqrt(np.mean(coarse**2))) or 1.0) * level
    return Audio(np.clip(made, -1, 1).astype(np.float32), audio.rate)
