"""One progress bar for work of many phases: each phase is worth what it usually costs."""

from __future__ import annotations

from vivace.core.contracts import Progress


class Plan:
    """Phases with a weight each (roughly seconds), announced beforehand; `phase` hands out their progress callbacks."""

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress = progress
        self._total = max(total, 1e-9)
        self._behind = 0.0
        self._open = 0.0

    def phase(self, name: str, weight: float) -> Progress:
        """Ends the phase before and begins this one; its callback takes shares of the phase from 0 to 1."""
        self._behind += self._open
        self._open = weight
        base = self._behind

        def tell(message: str, share: float) -> None:
            done = (base + weight * min(max(share, 0.0), 1.0)) / self._total
            self._progress(f"{name}: {message}", min(done, 1.0))

        tell("", 0.0)
        return tell

    def done(self) -> None:
        self._progress("done", 1.0)
