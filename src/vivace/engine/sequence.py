"""A request inside the engine: its utterances, the one that is being spoken, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vivace.core.speech import Request, Row
from vivace.core.stage import Array, seeded

Status = Literal["waiting", "running", "finished", "failed", "cancelled"]


@dataclass(eq=False)
class Sequence:
    """The engine's mutable twin of a Request. `tokens` are the utterances that have not begun."""

    request: Request
    status: Status = "waiting"
    tokens: list[Array] = field(default_factory=list)
    row: Row | None = None
    begun: int = 0
    samples: int = 0
    times: dict[str, float] = field(default_factory=dict)

    def start(self, utterances: list[Array]) -> None:
        self.tokens = list(utterances)
        self.status = "running"
        self.next_row()

    def next_row(self) -> bool:
        """Takes up the next utterance; False if there is none. Its noise depends on the request's seed and its
        own place in the text only, never on what runs beside it."""
        if not self.tokens:
            self.row = None
            return False
        self.row = Row(self.request, self.tokens.pop(0), seeded(self.request.seed, self.begun))
        self.begun += 1
        return True
