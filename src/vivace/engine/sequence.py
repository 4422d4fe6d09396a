"""A request inside the engine: its utterances, the one that is being spoken, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from vivace.core.speech import Request, Row
from vivace.core.stage import Array, seeded

Status = Literal["waiting", "running", "finished", "failed", "cancelled"]


@dataclass(eq=False)
class Sequence:
    """The engine's mutable twin of a Request. `tokens` are the utterances that have not begun, read one by one."""

    request: Request
    status: Status = "waiting"
    tokens: Iterator[Array] = field(default_factory=lambda: iter(()))
    row: Row | None = None
    begun: int = 0
    samples: int = 0
    times: dict[str, float] = field(default_factory=dict)

    @property
    def making(self) -> bool:
        """Whether the frames of its utterance are being made, and more will come."""
        return self.row is not None and self.row.frames is not None and not self.row.done

    def start(self, utterances: Iterable[Array]) -> bool:
        """Takes up the first utterance; False if there is none."""
        self.tokens = iter(utterances)
        self.status = "running"
        return self.next_row()

    def next_row(self) -> bool:
        """Takes up the next utterance; False if there is none. Its noise depends on the request's seed and its
        own place in the text only, never on what runs beside it."""
        before = self.row.before + self.row.total_frames if self.row else 0
        self.row = None
        for tokens in self.tokens:
            self.row = Row(self.request, tokens, seeded(self.request.seed, self.begun), before)
            self.begun += 1
            return True
        return False
