"""Guards against models with a stop head that never reach it: they say the same again and again, or hold one sound.

Both are judged from the frames alone, whatever they mean, and relative to the row's own frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vivace.core.stage import Array

LOOK = 0.4  # seconds between two looks
SHORTEST = 0.1  # seconds of a loop: below it, all that changes slowly looks like one
LIVELY = 0.25  # of the row's spread: what moves less is no speech that repeats


@dataclass(frozen=True)
class Guard:
    """Thresholds, of which 0 seconds switch a guard off.

    A loop: the last two `repeat_seconds` have a period of at most one, all numbers within `repeat_tolerance` of their
    spread (root mean squares). A still: for `still_seconds` nothing moves by more than `still_tolerance` of the frames'
    size. No sound of speech lasts as long.
    """

    repeat_seconds: float = 0.8
    repeat_tolerance: float = 0.05
    still_seconds: float = 2.5
    still_tolerance: float = 0.01

    def sees(self, frames: Array, new: int, frame_rate: float) -> bool:
        """Whether `frames` [values, time], the last `new` of which are new, have run away. Looks at some steps only,
        which are always the same ones."""
        look, count = max(1, round(LOOK * frame_rate)), frames.shape[1]
        if count // look == (count - new) // look:
            return False
        size = self.still_tolerance * _size(frames)
        still = round(self.still_seconds * frame_rate)
        if 0 < still < count and _size(_centred(frames[:, -still - 1 :])) <= size:
            return True
        repeat = round(self.repeat_seconds * frame_rate)
        if not 0 < 2 * repeat <= count:
            return False
        last = _centred(frames[:, -2 * repeat :])
        moves = _size(last)
        if moves <= max(size, LIVELY * _size(_centred(frames))):
            return False
        shortest = max(1, round(SHORTEST * frame_rate))
        return _loop(last, shortest, repeat) <= self.repeat_tolerance * moves


def _size(frames: Array) -> float:
    return float(np.sqrt(np.square(frames).mean(dtype=np.float64)))


def _centred(frames: Array) -> Array:
    found: Array = frames - frames.mean(axis=1, keepdims=True)
    return found


def _loop(frames: Array, shortest: int, longest: int) -> float:
    """How far the frames are from those one period before, for the period that suits them best: root mean square.
    From all products of two frames at once: |a - b|^2 = aa + bb - 2ab."""
    products = np.matmul(frames.T, frames, dtype=np.float64)
    sizes = np.cumsum(np.diagonal(products))
    found = []
    for period in range(shortest, longest + 1):
        apart = sizes[-1] - sizes[period - 1] + sizes[-period - 1] - 2 * np.trace(products, offset=period)
        found.append(max(0.0, apart) / (frames.shape[0] * (frames.shape[1] - period)))
    return float(np.sqrt(min(found)))
