"""What a row's decoder attends to of its text: all of it, or what a model that reads sees from its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.speech import Row
from vivace.core.stage import Array
from vivace.families import _transformer_graph as graph
from vivace.families._slots import Slots, Spec

PATIENCE = 2.5  # seconds that a token may last at most: no sound of speech lasts longer


class Text(Protocol):
    def read(self, rows: Sequence[Row], made: Mapping[str, Array]) -> None:
        """Keeps what the encoder made of new rows."""
        ...

    def for_step(self, rows: Sequence[Row]) -> dict[str, Array]: ...

    def for_prefix(self, rows: Sequence[Row]) -> dict[str, Array]: ...

    def ended(self, row: Row, made: Mapping[str, Array], k: int) -> int:
        """The frames that the row has in all if it ends with its newest (row `k` of what the step made), else 0."""
        ...

    def release(self, row: Row) -> None: ...

    @property
    def bytes(self) -> int:
        """What is kept of the texts of all rows in the making."""
        ...


def bias(counts: Array, room: int) -> Array:
    """[row, 1, 1, room]: 0 for the first `counts` positions of each row, FORBIDDEN behind them."""
    found = np.where(np.arange(room) < counts[:, None], 0, graph.FORBIDDEN).astype(np.float32)
    return found[:, None, None]


class WholeText:
    """Keys and values of all tokens, in slots. The text ends where the stop head says so: above `stop`, a logit."""

    def __init__(self, shape: graph.Shape, stop: float) -> None:
        key, value = Spec((shape.heads, shape.head, 1), 2), Spec((shape.heads, 1, shape.head), 1)
        names = [graph.cross_names(k) for k in range(shape.decoder_layers)]
        self._slots = Slots({name: spec for pair in names for name, spec in zip(pair, (key, value), strict=True)})
        self._stop = stop

    def read(self, rows: Sequence[Row], made: Mapping[str, Array]) -> None:
        self._slots.reserve(max(len(row.tokens) for row in rows))
        for k, row in enumerate(rows):
            own = self._slots.cut(made, k, len(row.tokens))
            if not all(np.isfinite(array).all() for array in own.values()):  # the slot's next row would find it there
                raise ModelError("the model made something of this text that is not numbers")
            self._slots.give_back(row)  # a step that failed may have left it there
            self._slots.take(row)
            self._slots.put(self._slots.places([row]), [0], own)

    def for_step(self, rows: Sequence[Row]) -> dict[str, Array]:
        counts = np.array([len(row.tokens) for row in rows])
        return {**self._slots.view(self._slots.places(rows)), "token_bias": bias(counts, self._slots.room)}

    for_prefix = for_step

    def ended(self, row: Row, made: Mapping[str, Array], k: int) -> int:
        return row.total_frames * bool(made["stop"][k, 0] > self._stop)

    def release(self, row: Row) -> None:
        self._slots.give_back(row)

    @property
    def bytes(self) -> int:
        return self._slots.bytes


class ReadText:
    """Each step has a place in its text, which the durations say, and is given the tokens around it: so that a long
    text is no harder than a short one, nothing is read twice, and what is read ends (Shen et al. 2020)."""

    def __init__(self, shape: graph.Shape, frame_rate: float) -> None:
        self._shape = shape
        self._names = [name for k in range(shape.decoder_layers) for name in graph.cross_names(k)]
        self._patience = max(1, round(PATIENCE * frame_rate))
        self._held: dict[int, int] = {}  # bytes of each row in the making, by its id

    def read(self, rows: Sequence[Row], made: Mapping[str, Array]) -> None:
        s = self._shape
        for k, row in enumerate(rows):
            count = len(row.tokens)
            around = (s.back, s.ahead)  # so that every window lies inside
            cross = {}
            for name in self._names:
                axis = 2 if "key" in name else 1
                own = made[name][k][(slice(None),) * axis + (slice(count),)]
                cross[name] = np.pad(own, [around if a == axis else (0, 0) for a in range(3)])
            shut = np.full(count + s.back + s.ahead, graph.FORBIDDEN, np.float32)
            shut[s.back : s.back + count] = 0
            memory = made[graph.MEMORY][k, :count]
            row.state = {**row.state, "cross": cross, "shut": shut, "memory": memory}
            row.state |= self._timed(made[graph.DURATIONS][k, :count, 0])
            self._held[id(row)] = memory.nbytes + sum(array.nbytes for array in cross.values())

    def _timed(self, durations: Array) -> dict[str, Any]:
        """The token that each step begins in (`places`), its phase there, and the frames of the whole text."""
        if not np.isfinite(durations).all():
            raise ModelError("the model gave durations that are not numbers")
        lasts = np.minimum(durations, self._patience).astype(np.int64)
        ends = np.cumsum(lasts)
        at = np.arange(0, ends[-1], self._shape.frames_per_step)
        places = np.searchsorted(ends, at, side="right")
        phase = np.stack([at - (ends - lasts)[places], ends[places] - at], -1) / 10
        return {"places": places, "phase": phase.astype(np.float32), "lasts": int(ends[-1])}

    def _step(self, row: Row) -> int:
        """The number of the next step. The proof goes on behind the end of its text: it stays there."""
        return min(row.total_frames // self._shape.frames_per_step, len(row.state["places"]) - 1)

    def for_step(self, rows: Sequence[Row]) -> dict[str, Array]:
        feed: dict[str, Array] = {}
        steps = [self._step(row) for row in rows]
        now = [row.state["places"][step] for row, step in zip(rows, steps, strict=True)]
        windows = [slice(place, place + self._shape.seen) for place in now]
        for name in self._names:
            axis = (slice(None),) * (2 if "key" in name else 1)
            feed[name] = np.stack([r.state["cross"][name][(*axis, w)] for r, w in zip(rows, windows, strict=True)])
        shut = np.stack([row.state["shut"][w] for row, w in zip(rows, windows, strict=True)])
        here = np.stack([row.state["memory"][place] for row, place in zip(rows, now, strict=True)])
        phase = np.stack([row.state["phase"][step] for row, step in zip(rows, steps, strict=True)])
        return {**feed, "token_bias": shut[:, None, None], "here": here[:, None], "phase": phase[:, None]}

    def for_prefix(self, rows: Sequence[Row]) -> dict[str, Array]:
        s = self._shape
        counts = np.array([len(row.tokens) for row in rows])
        feed: dict[str, Array] = {}
        for name in self._names:
            axis, size = (2 if "key" in name else 1), int(counts.max())
            rest = [row.state["cross"][name] for row in rows]
            own = [a[(slice(None),) * axis + (slice(s.back, s.back + n),)] for a, n in zip(rest, counts, strict=True)]
            widths = [[(0, size - n if a == axis else 0) for a in range(3)] for n in counts]
            feed[name] = np.stack([np.pad(array, width) for array, width in zip(own, widths, strict=True)])
        longest = max(row.total_frames for row in rows) // s.frames_per_step + 1
        reader, phase = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest, 2), np.float32)
        for k, row in enumerate(rows):
            count = self._step(row) + 1
            reader[k, :count], phase[k, :count] = row.state["places"][:count], row.state["phase"][:count]
            reader[k, count:], phase[k, count:] = reader[k, count - 1], phase[k, count - 1]
        here = np.stack([row.state["memory"][places] for row, places in zip(rows, reader, strict=True)])
        feed |= {"reader": reader, "here": here, "phase": phase}
        return {**feed, "token_bias": bias(counts, int(counts.max()))}

    def ended(self, row: Row, made: Mapping[str, Array], k: int) -> int:  # noqa: ARG002
        lasts = int(row.state["lasts"])
        return lasts * (row.total_frames >= lasts)

    def release(self, row: Row) -> None:
        self._held.pop(id(row), None)  # the rest is in the row

    @property
    def bytes(self) -> int:
        return sum(self._held.values())
