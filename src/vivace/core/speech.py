"""What is asked of a voice (Request), what comes back (Event), and the row that a family moves forward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vivace.core.audio import Audio
from vivace.core.errors import UsageError
from vivace.core.stage import Array

MAX_CHARACTERS = 200_000
FIRST_CHUNK = 32  # frames with which `say` and `benchmark` begin a stream: 0.4 s of speech at 86 frames a second
LARGEST_CHUNK = 256  # frames
Reason = Literal["stop", "length", "error", "cancelled"]
Blame = Literal["", "request", "model"]


@dataclass(frozen=True)
class Request:
    """One text to be spoken.

    `speed` above 1 is faster; None for a noise scale means the voice's own default.
    `chunk_frames` 0 renders each sentence whole; above 0 it streams: a first chunk of about that many frames, then
    larger ones (see `next_chunk` and `Row.fitted`). `whole`: nobody hears a chunk before all of them are there.
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
    whole: bool = False

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


def next_chunk(first: int, given: int) -> int:
    """Frames of the next chunk of a stream whose first chunk has `first`, when `given` were given so far.

    Chunks double, up to LARGEST_CHUNK: each is at most as long as all before it and the first once more, so that a
    listener has enough to play while it is made; the sizes are few, which spares runtimes that compile for each.
    """
    return int(first << (min(given + first, max(first, LARGEST_CHUNK)) // first).bit_length() - 1)


@dataclass(frozen=True, eq=False)
class Event:
    """A piece of audio, the end of a request, or both.

    `times` holds seconds on the engine's clock: queued, first_audio, end (those that have happened).
    `blame` says of an error whether another model could mend it ("model"), or only another request ("request").
    """

    request_id: str
    audio: Audio | None = None
    done: bool = False
    reason: Reason | None = None
    error: str = ""
    times: dict[str, float] = field(default_factory=dict)
    blame: Blame = ""


def _as_asked(start: int, frames: int) -> int:  # noqa: ARG001
    return frames


@dataclass(eq=False)
class Row:
    """One utterance (a sentence of a request) on its way through a family. Mutable; owned by the engine.

    The family's `advance` fills `frames` (frame axis last) and sets `done`; its `render` moves `rendered`
    forward by `due`. A row is finished when it is done and all its frames are rendered.
    `cut` says that the model did not end by itself: the request ends with "length".
    `before` is the number of frames of the request's earlier utterances.
    `held` is for models that move in steps: how many of the last frames cannot be rendered before more come.
    `fitted(start, frames)` lets a family make chunks of another length, near `frames`, that cost less for a frame.
    """

    request: Request
    tokens: Array
    rng: np.random.Generator
    before: int = 0
    frames: Array | None = None
    done: bool = False
    cut: bool = False
    rendered: int = 0
    held: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    fitted: Callable[[int, int], int] = _as_asked

    @property
    def total_frames(self) -> int:
        return 0 if self.frames is None else int(self.frames.shape[-1])

    @property
    def due(self) -> int:
        """How many frames `render` makes next: all that are left or, in a stream, the next chunk of them."""
        return min(self._chunk, self.total_frames - self.rendered)

    @property
    def speakable(self) -> bool:
        """Whether `render` has something to do: all frames of a row that is done, or a whole chunk before that."""
        if self.done:
            return self.rendered < self.total_frames
        return bool(self.request.chunk_frames) and self._chunk <= self.total_frames - self.held - self.rendered

    @property
    def finished(self) -> bool:
        return self.done and self.rendered >= self.total_frames

    @property
    def _chunk(self) -> int:
        if not (first := self.request.chunk_frames):
            return self.total_frames
        return self.fitted(self.rendered, next_chunk(first, self.before + self.rendered))
