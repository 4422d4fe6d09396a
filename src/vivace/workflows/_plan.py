"""One progress bar for work of many phases: each phase is worth what it usually costs."""

from __future__ import annotations

from vivace.core.contracts import Progress


class Plan:
    """Phases with a weight each (roughly seconds), announced beforehand; `phase` hands out their progress callbacks.

    A phase for which no weight is left takes half of what is left of the bar, which so is never full early.
    """

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress = progress
        self._left = total
        self._end = 0.0

    def phase(self, name: str, weight: float) -> Progress:
        """Ends the phase before and begins this one; its callback takes shares of the phase from 0 to 1."""
        start, rest = self._end, 1.0 - self._end
        if weight <= self._left:
            width = rest * weight / max(self._left, 1e-9)
            self._left -= weight
        else:
            width = rest / 2
        self._end = start + width

        def tell(message: str, share: float) -> None:
            self._progress(f"{name}: {message}", min(start + width * min(max(share, 0.0), 1.0), 1.0))

        tell("", 0.0)
        return tell

    def done(self) -> None:
        self._progress("done", 1.0)
