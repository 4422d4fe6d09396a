"""Log-mel features: what models that listen are fed with. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from vivace.core.audio import Samples
from vivace.core.stage import Array

SMALLEST = 1e-6  # power below which the logarithm does not go


@dataclass(frozen=True)
class LogMel:
    """Natural logarithm of a mel power spectrogram, Slaney's scale as in O'Shaughnessy (1987), Hann window.

    `rate` in Hz, `fft` and `hop` in samples, `low` and `high` in Hz (`high` 0: half the rate).
    """

    rate: int = 16000
    fft: int = 512
    hop: int = 160
    mels: int = 64
    low: float = 20.0
    high: float = 0.0

    def __call__(self, samples: Samples) -> Array:
        """float32[frames, mels]; frames = 1 + (samples - fft) // hop, what is shorter than `fft` is padded."""
        padded = np.pad(samples, (0, max(0, self.fft - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.fft)[:: self.hop]
        power = np.abs(np.fft.rfft(frames * np.hanning(self.fft + 1)[:-1].astype(np.float32), axis=1)) ** 2
        found: Array = np.log(power @ filters(self) + SMALLEST).astype(np.float32)
        return found


@cache
def filters(shape: LogMel) -> Array:
    """float32[fft // 2 + 1, mels]: triangles of equal area, evenly spaced in mels."""
    high = shape.high or shape.rate / 2
    edges = _hertz(np.linspace(_mel(shape.low), _mel(high), shape.mels + 2))
    bins = np.linspace(0, shape.rate / 2, shape.fft // 2 + 1)
    up = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    found: Array = (np.maximum(0, np.minimum(up, down)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)
    return found


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mels: Array) -> Array:
    found: Array = 700 * (10 ** (mels / 2595) - 1)
    return found
