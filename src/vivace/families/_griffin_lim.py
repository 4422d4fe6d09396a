"""Log-mels to samples without a network: the mel filters inverted, and phases found by the fast Griffin-Lim algorithm.

Griffin and Lim (1984), with the momentum of Perraudin, Balazs and Sondergaard (2013). NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from vivace.core.audio import Samples
from vivace.core.features import SMALLEST, LogMel, filters
from vivace.core.stage import Array

MOMENTUM = 0.99
REFINEMENTS = 40  # of the power spectrum behind the mels
QUIETEST = 1e-10
LOUDEST = 30.0  # log power; full scale has less than half of it


@dataclass(frozen=True)
class GriffinLim:
    """`mel` says how the log-mels were made; frame k stands for the samples from k * hop to (k + 1) * hop."""

    mel: LogMel
    rounds: int = 32

    def __call__(self, log_mels: Array, rng: np.random.Generator) -> Samples:
        """float32[frames * hop] of log-mels [frames, mels]; the first phases are drawn from `rng`."""
        magnitude = np.sqrt(_power(self.mel, log_mels))
        weight = _weight(len(magnitude), self.mel.fft, self.mel.hop)
        phases = np.exp(2j * np.pi * rng.random(magnitude.shape, dtype=np.float32)).astype(np.complex64)
        kept = np.zeros_like(phases)
        for _ in range(self.rounds):
            consistent = self._spectrum(self._samples(magnitude * phases, weight))
            moved = consistent + MOMENTUM * (consistent - kept)
            phases, kept = moved / np.maximum(np.abs(moved), QUIETEST), consistent
        edge = (self.mel.fft - self.mel.hop) // 2
        whole = self._samples(magnitude * phases, weight)
        found: Samples = whole[edge : edge + len(log_mels) * self.mel.hop].astype(np.float32)
        return found

    def _spectrum(self, samples: Array) -> Array:
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.mel.fft)[:: self.mel.hop]
        found: Array = np.fft.rfft(frames * _window(self.mel.fft), axis=1)
        return found

    def _samples(self, spectrum: Array, weight: Array) -> Array:
        """Windowed frames added up, over the sum of the squared windows."""
        fft = self.mel.fft
        return _added(np.fft.irfft(spectrum, fft, axis=1) * _window(fft), self.mel.hop) / weight


def _added(frames: Array, hop: int) -> Array:
    """[frames, fft] at distances of `hop`, summed."""
    count, fft = frames.shape
    parts = -(-fft // hop)
    padded = np.pad(frames, ((0, 0), (0, parts * hop - fft))).reshape(count, parts, hop)
    total = np.zeros((count + parts - 1, hop), frames.dtype)
    for k in range(parts):
        total[k : k + count] += padded[:, k]
    return total.reshape(-1)[: (count - 1) * hop + fft]


def _weight(count: int, fft: int, hop: int) -> Array:
    return np.maximum(_added(np.broadcast_to(_window(fft) ** 2, (count, fft)), hop), np.float32(1e-3))


def _power(mel: LogMel, log_mels: Array) -> Array:
    """float32[frames, fft // 2 + 1]: a power spectrum, nowhere negative, whose mels come near the given ones
    (multiplicative updates, Lee and Seung 2001, from the least squares)."""
    given = np.maximum(np.exp(np.minimum(log_mels, LOUDEST)) - np.float32(SMALLEST), np.float32(QUIETEST))
    up = filters(mel)
    found: Array = np.maximum(given @ _inverse(mel), np.float32(QUIETEST))
    wanted = given @ up.T
    for _ in range(REFINEMENTS):
        found *= wanted / np.maximum((found @ up) @ up.T, np.float32(QUIETEST**2))
    return found


@cache
def _inverse(mel: LogMel) -> Array:
    found: Array = np.linalg.pinv(filters(mel)).astype(np.float32)
    return found


@cache
def _window(fft: int) -> Array:
    found: Array = np.hanning(fft + 1)[:-1].astype(np.float32)
    return found
