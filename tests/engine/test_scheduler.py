from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.core.speech import Request
from vivace.engine.scheduler import Scheduler
from vivace.engine.sequence import Sequence


def sequences(count: int) -> list[Sequence]:
    return [Sequence(Request(str(k), "x")) for k in range(count)]


def names(picked: list[Sequence]) -> str:
    return "".join(sequence.request.id for sequence in picked)


def scheduler(max_batch: int, waiting: list[Sequence]) -> Scheduler:
    made = Scheduler(max_batch)
    for sequence in waiting:
        made.add(sequence)
    return made


def test_nothing_to_pick() -> None:
    assert scheduler(4, []).pick() == []


def test_takes_turns() -> None:
    turns = scheduler(2, sequences(3))
    assert [names(turns.pick()) for _ in range(4)] == ["01", "20", "12", "01"]


def test_a_new_sequence_is_served_before_an_old_one_returns() -> None:
    turns = scheduler(1, sequences(2))
    turns.pick()
    turns.add(Sequence(Request("new", "x")))
    assert [names(turns.pick()) for _ in range(3)] == ["1", "0", "new"]


def test_a_removed_sequence_never_comes_again() -> None:
    waiting = sequences(3)
    turns = scheduler(3, waiting)
    turns.pick()
    turns.remove(waiting[1])
    assert names(turns.pick()) == "02"
    assert len(turns) == 2


@given(count=st.integers(1, 12), max_batch=st.integers(1, 5), rounds=st.integers(1, 30))
def test_nobody_starves_and_nobody_is_picked_twice_at_once(count: int, max_batch: int, rounds: int) -> None:
    turns = scheduler(max_batch, sequences(count))
    served = dict.fromkeys(map(str, range(count)), 0)
    for _ in range(rounds):
        picked = turns.pick()
        assert len({s.request.id for s in picked}) == len(picked) == min(max_batch, count)
        for sequence in picked:
            served[sequence.request.id] += 1
    assert max(served.values()) - min(served.values()) <= 1
    assert len(turns) == count
