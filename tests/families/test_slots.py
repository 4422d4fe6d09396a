"""What is put into a slot is found there, whoever joins, leaves or grows meanwhile."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.speech import Request, Row
from vivace.core.stage import Stage, TensorSpec
from vivace.families._slots import BLOCK, Slots, Spec, kept

SPECS = {"key": Spec((2, 3, 1), 2), "value": Spec((2, 1, 3), 1)}


def row(name: int) -> Row:
    return Row(Request(str(name), "x"), np.zeros(1, np.int64), np.random.default_rng(0))


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "step"]), st.integers(0, 5)), max_size=60))
def test_every_row_keeps_what_it_put(moves: list[tuple[str, int]]) -> None:
    slots, rows, kept = Slots(SPECS), [], {}
    for number, (what, which) in enumerate(moves):
        if what == "join":
            rows.append(row(number))
            kept[id(rows[-1])] = 0
            slots.take(rows[-1])
        elif what == "leave" and rows:
            slots.give_back(rows.pop(which % len(rows)))
        elif rows:
            for mine in rows:  # a number of its own at every position
                done = kept[id(mine)]
                slots.reserve(done + 20)
                mark = np.arange(done, done + 20, dtype=np.float32) + 1000 * int(mine.request.id)
                values = {
                    "key": np.broadcast_to(mark, (1, 2, 3, 20)),
                    "value": np.broadcast_to(mark[:, None], (1, 2, 20, 3)),
                }
                slots.put(slots.places([mine]), [done], values)
                kept[id(mine)] += 20
        assert len(slots) == len(rows)
        for mine in rows:
            wanted = np.arange(kept[id(mine)], dtype=np.float32) + 1000 * int(mine.request.id)
            found = slots.view(slots.places([mine]))
            assert np.array_equal(found["key"][0, 1, 2, : len(wanted)], wanted)
            assert np.array_equal(found["value"][0, 1, : len(wanted), 2], wanted)
    for mine in rows:
        slots.give_back(mine)
    assert slots.bytes == 0


def test_the_first_slots_are_read_where_they_are() -> None:
    slots, rows = Slots(SPECS), [row(k) for k in range(3)]
    for mine in rows:
        slots.take(mine)
    slots.reserve(5)
    assert slots.room == BLOCK
    assert np.shares_memory(slots.view([0, 1])["key"], slots.view([0, 1, 2])["key"])
    assert not np.shares_memory(slots.view([1, 0])["key"], slots.view([0, 1])["key"])


def test_leaving_twice_is_no_error() -> None:
    slots, mine = Slots(SPECS), row(1)
    slots.take(mine)
    slots.give_back(mine)
    slots.give_back(mine)
    assert len(slots) == 0


def test_slots_are_as_wide_as_the_step_says() -> None:
    inputs = {
        "place": TensorSpec("int64", ("batch", 1)),
        "cache_bias": TensorSpec("float32", ("batch", 1, 1, "room")),
        "key.0": TensorSpec("int8", ("batch", 2, 3, "room")),
        "key.0.scale": TensorSpec("float32", ("batch", 2, 1, "room")),
        "value.0": TensorSpec("float16", ("batch", 2, "room", 3)),
    }
    step = Stage("step", "s", inputs=inputs, outputs={f"new.{name}": inputs[name] for name in list(inputs)[2:]})
    specs = kept(step)
    assert specs == {
        "key.0": Spec((2, 3, 1), 2, "int8"),
        "key.0.scale": Spec((2, 1, 1), 2),
        "value.0": Spec((2, 1, 3), 1, "float16"),
    }
    assert [spec.bytes for spec in specs.values()] == [6, 8, 12]
    slots = Slots(specs)
    slots.take(row(1))
    slots.reserve(1)
    assert slots.bytes == BLOCK * (6 + 8 + 12)
    assert {name: array.dtype.name for name, array in slots.view([0]).items()} == {
        name: spec.dtype for name, spec in specs.items()
    }
