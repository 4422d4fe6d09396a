"""Decides which sequences move in the next step. Touches no tensor.

An utterance whose frames are being made keeps its place until they are all made: what the model holds for it stays
where it is. The rest takes turns: a sequence that was served goes to the back, so that a long text never starves a
short one.
"""

from __future__ import annotations

from collections import deque

from vivace.engine.sequence import Sequence


class Scheduler:
    """A queue of live sequences, of which at most `max_batch` move at once."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._queue: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, sequence: Sequence) -> None:
        self._queue.append(sequence)

    def pick(self) -> list[Sequence]:
        """The next sequences: first those in the making, then others, which go to the back of the queue."""
        picked = [sequence for sequence in self._queue if sequence.making][: self._max_batch]
        others = [sequence for sequence in self._queue if not sequence.making]
        served = others[: self._max_batch - len(picked)]
        if served:
            making = [sequence for sequence in self._queue if sequence.making]
            self._queue = deque([*making, *others[len(served) :], *served])
        return picked + served

    def remove(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)
