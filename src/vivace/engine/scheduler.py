"""Decides which sequences move in the next step. Touches no tensor.

Round robin over the utterances: a sequence that was served goes to the back, so that a long text never starves
a short one.
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
        """The next sequences, taken to the back of the queue in their order."""
        picked = [self._queue.popleft() for _ in range(min(self._max_batch, len(self._queue)))]
        self._queue.extend(picked)
        return picked

    def remove(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)
