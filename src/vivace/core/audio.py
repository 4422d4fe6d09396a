"""Mono audio in memory, and its two plain byte forms. Compressed formats and resampling live elsewhere."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Audio:
    """Samples float32[n] in [-1, 1], mono, at `rate` Hz."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def pcm16(self) -> bytes:
        """Signed 16-bit little-endian PCM; what lies outside [-1, 1] is clipped, not wrapped."""
        return (np.clip(self.samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()

    def wav(self) -> bytes:
        """A complete 16-bit WAV file."""
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(self.pcm16())
        return buffer.getvalue()


def join(pieces: list[Audio]) -> Audio:
    """One Audio of all pieces in order; they must share a rate, and there must be at least one."""
    rates = {piece.rate for piece in pieces}
    if len(rates) != 1:
        raise ValueError(f"cannot join audio of sample rates {sorted(rates)}")
    return Audio(np.concatenate([piece.samples for piece in pieces]), rates.pop())
