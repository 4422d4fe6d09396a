"""The memory of rows that move in steps: their cached keys and values, one slot for each row.

Slots in use are the first ones and lie in one block, so that a step reads the cache where it is. Room grows with the
longest row, in blocks, and is given back when that row leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.core.speech import Row
from vivace.core.stage import Array, Stage

BLOCK = 64  # positions by which room grows
RESERVE = 4  # times the room that is needed: so much address space, so that growing seldom touches new memory


@dataclass(frozen=True)
class Spec:
    """An array of each slot: `shape` for one position, whose axis (without the slot's) is `axis`, where it is 1."""

    shape: tuple[int, ...]
    axis: int
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        """Of one position."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def whole(self, slots: int, room: int) -> tuple[int, ...]:
        return (slots, *self.shape[: self.axis], room, *self.shape[self.axis + 1 :])

    def part(self, start: int, stop: int) -> tuple[slice, ...]:
        """What of one slot's array holds these positions."""
        return (*(slice(None),) * self.axis, slice(start, stop))


def kept(step: Stage) -> dict[str, Spec]:
    """What a step takes of all positions before it (the axis named "room") and gives of its own as "new." + name."""
    found = {}
    for name, tensor in step.inputs.items():
        if f"new.{name}" in step.outputs:
            axis = tensor.shape.index("room") - 1
            shape = tuple(1 if size == "room" else int(size) for size in tensor.shape[1:])
            found[name] = Spec(shape, axis, tensor.dtype)
    return found


class Slots:
    """Arrays [slot, ...] by name, as `specs` say."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self._specs = dict(specs)
        self._rows: list[Row] = []
        self._used: list[int] = []  # positions of each row
        self._slots = self._room = 0
        self._flat: dict[str, Array] = {}  # the memory of each array
        self._arrays: dict[str, Array] = {}
        self._lay(0, 0)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        return list(self._specs)

    @property
    def room(self) -> int:
        """Positions that every slot has room for."""
        return self._room

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def take(self, row: Row) -> None:
        if len(self._rows) == self._slots:
            self._lay(max(1, 2 * self._slots), self._room)
        self._rows.append(row)
        self._used.append(0)

    def give_back(self, row: Row) -> None:
        """The last row moves into the slot that is free now. A row that has none is no error."""
        slot = next((k for k, mine in enumerate(self._rows) if mine is row), None)
        if slot is None:
            return
        last_row, last_used = self._rows.pop(), self._used.pop()
        if last_row is not row:
            for name, array in self._arrays.items():
                part = self._specs[name].part(0, last_used)
                array[slot][part] = array[len(self._rows)][part]
            self._rows[slot], self._used[slot] = last_row, last_used
        longest = _blocks(max(self._used, default=0))
        if 4 * len(self._rows) <= self._slots or 2 * longest < self._room:
            self._lay(len(self._rows), longest)

    def places(self, rows: Sequence[Row]) -> list[int]:
        """The slot of each row."""
        found = {id(row): k for k, row in enumerate(self._rows)}
        return [found[id(row)] for row in rows]

    def reserve(self, positions: int) -> None:
        """Room for at least so many positions in every slot."""
        if positions > self._room:
            self._lay(self._slots, _blocks(positions))

    def put(self, slots: Sequence[int], starts: Sequence[int], values: Mapping[str, Array]) -> None:
        """`values` [row, ...]: the positions of each slot from its start on."""
        first = starts[0] if starts else 0
        together = list(slots) == list(range(len(slots))) and all(start == first for start in starts)
        count = 0
        for name, value in values.items():
            spec, array = self._specs[name], self._arrays[name]
            count = value.shape[spec.axis + 1]
            if together:  # slices: a quarter of the time of places one by one
                array[: len(slots)][(slice(None), *spec.part(first, first + count))] = value
            elif count == 1:  # a step: all rows at once
                at: tuple[Any, ...] = (list(slots), *(slice(None),) * spec.axis, list(starts))
                array[at] = value.take(0, spec.axis + 1)
            else:
                for k, (slot, start) in enumerate(zip(slots, starts, strict=True)):
                    array[slot][spec.part(start, start + count)] = value[k]
        for slot, start in zip(slots, starts, strict=True):
            self._used[slot] = max(self._used[slot], start + count)

    def cut(self, values: Mapping[str, Array], row: int, positions: int) -> dict[str, Array]:
        """The first positions of one row of `values`, as one row."""
        return {name: values[name][row][spec.part(0, positions)][None] for name, spec in self._specs.items()}

    def view(self, slots: Sequence[int]) -> dict[str, Array]:
        """The arrays of these slots: where they are, if the slots are the first ones in their order."""
        if list(slots) == list(range(len(slots))):
            return {name: array[: len(slots)] for name, array in self._arrays.items()}
        return {name: array[list(slots)] for name, array in self._arrays.items()}

    def _lay(self, slots: int, room: int) -> None:
        """The arrays in another size, with what is in use: where they are, if the memory there holds them. What is not
        in use may then hold numbers of others, which no row attends to."""
        grows = slots * room >= self._slots * self._room
        self._slots, self._room = slots, room
        for name, spec in self._specs.items():
            shape, used = spec.whole(slots, room), spec.part(0, max(self._used, default=0))
            size, old, flat = math.prod(shape), self._arrays.get(name), self._flat.get(name)
            if flat is None or not grows or size > flat.size:
                flat = self._flat[name] = np.zeros(RESERVE * size, spec.dtype)  # takes no memory until it is written
            new = self._arrays[name] = flat[:size].reshape(shape)
            for slot in reversed(range(len(self._rows))):  # the last one first: each moves into room behind it
                if old is not None and slot < len(old):
                    new[slot][used] = old[slot][used]


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK


def appended(row: Row, new: Array) -> Array:
    """The row's frames and the new ones: behind them in the same memory, which doubles when it is full."""
    assert row.frames is not None
    buffer, used = row.state.get("buffer"), row.total_frames
    if buffer is None or used + new.shape[1] > buffer.shape[1]:
        larger = np.zeros((new.shape[0], max(64, 2 * (used + new.shape[1]))), np.float32)
        larger[:, :used] = row.frames
        row.state = {**row.state, "buffer": larger}
        buffer = larger
    buffer[:, used : used + new.shape[1]] = new
    found: Array = buffer[:, : used + new.shape[1]]
    return found
