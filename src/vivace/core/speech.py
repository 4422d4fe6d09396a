"""What is asked of a voice (Request), what comes back (Event), and the row that a family moves forward."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vivace.core.audio import Audio
from vivace.core.errors import UsageError
from vivace.core.stage import Array

MAX_CHARACTERS = 200_000
Reason = Literal["stop", "length", "error", "cancelled"]


@dataclass(frozen=True)
class Request:
    """One text to be spoken.

    `speed` above 1 is faster; None for a noise scale means the voice's own default.
    `chunk_frames` 0 renders each sentence whole; above 0 it streams chunks of that many frames.
    `max_seconds` bounds the audio of one request, whatever the model does.
    Raises UsageError for a value outside its range.
    """

    id: str
    text: str
    voice: str = ""
    speed: float = 1.0
    language: str = ""
    seed: int = 0
    noise_scale: float | None = None
    noise_w: float | None = None
    chunk_frames: int = 0
    max_seconds: float = 7200.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.speed <= 10:
            raise UsageError(f"speed is {self.speed}; it must lie between 0.1 and 10")
        if len(self.text) > MAX_CHARACTERS:
            raise UsageError(f"the text has {len(self.text):,} characters; the limit is {MAX_CHARACTERS:,}: split it")
        for name in ("noise_scale", "noise_w"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 5:
                raise UsageError(f"{name} is {value}; it must lie between 0 and 5")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; it must not be negative")
        if self.chunk_frames < 0:
            raise UsageError(f"chunk_frames is {self.chunk_frames}; it must not be negative")
        if not 0 < self.max_seconds < math.inf:
            raise UsageError(f"max_seconds is {self.max_seconds}; it must be above 0 and finite")


@dataclass(frozen=True, eq=False)
class Event:
    """A piece of audio, the end of a request, or both.

    `times` holds seconds on the engine's clock: queued, first_audio, end (those that have happened).
    """

    request_id: str
    audio: Audio | None = None
    done: bool = False
    reason: Reason | None = None
    error: str = ""
    times: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Row:
    """One utterance (a sentence of a request) on its way through a family. Mutable; owned by the engine.

    The family's `advance` fills `frames` (frame axis last) and sets `done`; its `render` moves `rendered`
    forward. A row is finished when it is done and all its frames are rendered.
    `held` is for models that move in steps: how many of the last frames cannot be rendered before more come.
    """

    request: Request
    tokens: Array
    rng: np.random.Generator
    frames: Array | None = None
    done: bool = False
    rendered: int = 0
    held: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def total_frames(self) -> int:
        return 0 if self.frames is None else int(self.frames.shape[-1])

    @property
    def speakable(self) -> bool:
        """Whether `render` has something to do: all frames of a row that is done, or a whole chunk before that."""
        if self.done:
            return self.rendered < self.total_frames
        return 0 < self.request.chunk_frames <= self.total_frames - self.held - self.rendered

    @property
    def finished(self) -> bool:
        return self.done and self.rendered >= self.total_frames
