"""What a row's decoder attends to of its text: all of it, or what a model that reads sees from its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from vivace.core.speech import Row
from vivace.core.stage import Array
from vivace.families import _transformer_graph as graph
from vivace.families._slots import Slots, Spec

PATIENCE = 2.5  # seconds that a reader may stay at one token: no sound of speech lasts longer


class Text(Protocol):
    def read(self, rows: Sequence[Row], made: Mapping[str, Array]) -> None:
        """Keeps what the encoder made of new rows."""
        ...

    def for_step(self, rows: Sequence[Row]) -> dict[str, Array]: ...

    def for_prefix(self, rows: Sequence[Row]) -> dict[str, Array]: ...

    def moved(self, row: Row, made: Mapping[str, Array], k: int) -> bool:
        """Takes note of a step (row `k` of what it made). True where the text itself is at its end."""
        ...

    def release(self, row: Row) -> None: ...


def bias(counts: Array, room: int) -> Array:
    """[row, 1, 1, room]: 0 for the first `counts` positions of each row, FORBIDDEN behind them."""
    found = np.where(np.arange(room) < counts[:, None], 0, graph.FORBIDDEN).astype(np.float32)
    return found[:, None, None]


class WholeText:
    """Keys and values of all tokens, in slots."""

    def __init__(self, shape: graph.Shape) -> None:
        key, value = Spec((shape.heads, shape.head, 1), 2), Spec((shape.heads, 1, shape.head), 1)
        names = [graph.cross_names(k) for k in range(shape.decoder_layers)]
        self._slots = Slots({name: spec for pair in names for name, spec in zip(pair, (key, value), strict=True)})

    def read(self, rows: Sequence[Row], made: Mapping[str, Array]) -> None:
        self._slots.reserve(max(len(row.tokens) for row in rows))
        for k, row in enumerate(rows):
            self._slots.give_back(row)  # a step that failed may have left it there
            self._slots.take(row)
            self._slots.put(self._slots.places([row]), [0], self._slots.cut(made, k, len(row.tokens)))

    def for_step(self, rows: Sequence[Row]) -> dict[str, Array]:
        counts = np.array([len(row.tokens) for row in rows])
        return {**self._slots.view(self._slots.places(rows)), "token_bias": bias(counts, self._slots.room)}

    for_prefix = for_step

    def moved(self, row: Row, made: Mapping[str, Array], k: int) -> bool:  # noqa: ARG002
        return False

    def release(self, row: Row) -> None:
        self._slots.give_back(row)


class ReadText:
    """Each row has a place in its text, and its step is given the tokens around it: so that a long text is no harder
    than a short one, nothing is read twice, and what is read ends (Shen et al. 2020 argue so for durations)."""

    def __init__(self, shape: graph.Shape, frame_rate: float) -> None:
        self._shape = shape
        self._names = [name for k in range(shape.decoder_layers) for name in graph.cross_names(k)]
        self._patience = max(1, round(PATIENCE * frame_rate / shape.frames_per_step))

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
            row.state = {
                **row.state,
                "cross": cross,
                "shut": shut,
                "memory": made[graph.MEMORY][k, :count],
                "places": (0,),
            }

    def for_step(self, rows: Sequence[Row]) -> dict[str, Array]:
        feed: dict[str, Array] = {}
        windows = [slice(place := row.state["places"][-1], place + self._shape.seen) for row in rows]
        for name in self._names:
            axis = (slice(None),) * (2 if "key" in name else 1)
            feed[name] = np.stack([r.state["cross"][name][(*axis, w)] for r, w in zip(rows, windows, strict=True)])
        shut = np.stack([row.state["shut"][w] for row, w in zip(rows, windows, strict=True)])
        here = np.stack([row.state["memory"][row.state["places"][-1]] for row in rows])
        return {**feed, "token_bias": shut[:, None, None], "here": here[:, None]}

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
        longest = max(len(row.state["places"]) for row in rows)
        reader = np.zeros((len(rows), longest), np.int64)
        for k, row in enumerate(rows):
            reader[k, : len(row.state["places"])] = row.state["places"]
        here = np.stack([row.state["memory"][places] for row, places in zip(rows, reader, strict=True)])
        return {**feed, "token_bias": bias(counts, int(counts.max())), "reader": reader, "here": here}

    def moved(self, row: Row, made: Mapping[str, Array], k: int) -> bool:
        places = row.state["places"]
        place = places[-1] + int(made["advance"][k].argmax())
        if len(places) >= self._patience and places[-self._patience] == place:
            place += 1  # it has stalled
        ended = bool(place >= len(row.tokens))
        row.state = {**row.state, "places": (*places, min(place, len(row.tokens) - 1))}
        return ended

    def release(self, row: Row) -> None:
        """All is in the row."""
