"""One text streamed as a listener meets it: how soon the first audio comes, and whether playing ever has to wait.

The listener plays from the first chunk on, in real time, and takes each chunk when it comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from vivace.core.errors import ModelError
from vivace.core.speech import FIRST_CHUNK, Request
from vivace.engine.engine import Engine, stream


@dataclass(frozen=True)
class Streamed:
    """All in seconds. `gaps` are the waits between one chunk and the next. `low` is the least that was left to play
    when a chunk came, and what the only chunk holds where there is but one: below 0, the listener heard a hole."""

    ttfa: float
    gaps: tuple[float, ...]
    low: float
    audio: float
    seconds: float

    @property
    def worst_gap(self) -> float:
        return max(self.gaps, default=0.0)

    @property
    def underran(self) -> bool:
        return self.low < 0


def listen(engine: Engine, request: Request, clock: Callable[[], float] = time.perf_counter) -> Streamed:
    """Streams `request`, with chunks of FIRST_CHUNK at first if it asks for none. For an engine of one's own.

    Raises VivaceError if it fails, ModelError if no audio came.
    """
    begun = clock()
    came: list[float] = []
    lengths: list[float] = []
    for event in stream(engine, replace(request, chunk_frames=request.chunk_frames or FIRST_CHUNK)):
        if event.audio is not None and event.audio.seconds:
            came.append(clock() - begun)
            lengths.append(event.audio.seconds)
    seconds = clock() - begun
    if not came:
        raise ModelError("the voice made no audio")
    left = [sum(lengths[:k]) - (came[k] - came[0]) for k in range(1, len(came))]
    gaps = tuple(later - sooner for sooner, later in pairwise(came))
    return Streamed(came[0], gaps, min(left, default=lengths[0]), sum(lengths), seconds)
