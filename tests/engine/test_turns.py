"""Who is served when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from engine.driver import MANY, PATIENCE, Gate, audio_of, ends, engine, run
from vivace.core.bundle import Bundle
from vivace.core.speech import Event, Request
from vivace.core.stage import Array, Tensors
from vivace.engine.pool import Pool


class Clock:
    """Time that passes in decoders alone: `cost` seconds for each second of audio, and a little."""

    def __init__(self, rate: int, cost: float) -> None:
        self.now, self._rate, self._cost = 0.0, rate, cost

    def __call__(self) -> float:
        return self.now

    def decoded(self, inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        self.now += 0.02 + self._cost * next(iter(outputs.values())).shape[-1] / self._rate
        return outputs


def pieces_in_time(told: list[tuple[float, Event]], request_id: str) -> int:
    """How many pieces of audio its listener got; fails if one came when he had heard all before."""
    heard = [(now, event.audio.seconds) for now, event in told if event.request_id == request_id and event.audio]
    runs_dry = heard[0][0]
    for now, seconds in heard:
        assert now <= runs_dry
        runs_dry += seconds
    return len(heard)


def test_a_short_text_does_not_wait_for_a_long_one(toy: Bundle, gate: Gate) -> None:
    with Pool(toy, 1) as pool:
        pool.submit(Request("long", MANY))
        assert gate.entered.wait(PATIENCE)
        for k in range(3):
            pool.submit(Request(f"short {k}", "hi"))
        gate.opened.set()
        order = [event.request_id for event in pool.events()]
    # new and begun in turn: each short one waits for one sentence of the long one at most
    assert order[:7] == ["long", "short 0", "long", "short 1", "long", "short 2", "long"]


def test_the_listener_who_has_least_left_to_play_comes_first(toy: Bundle, gate: Gate) -> None:
    """Of two streams, one of which gets four times as much with every turn."""
    asked = [Request("small", MANY, chunk_frames=5), Request("large", MANY, seed=1, chunk_frames=20)]
    with Pool(toy, 1, clock=lambda: 0.0) as pool:
        pool.submit(asked[0])
        assert gate.entered.wait(PATIENCE)
        pool.submit(asked[1])
        gate.opened.set()
        events = list(pool.events())
    played: dict[str, float] = {}
    turns = 0
    for event in events:
        if len(played) == 2:
            assert played[event.request_id] == min(played.values())
            turns += 1
        if event.done:
            break
        assert event.audio
        played[event.request_id] = played.get(event.request_id, 0.0) + event.audio.seconds
    assert turns > 5


def test_short_texts_do_not_starve_a_long_one(toy: Bundle, gate: Gate) -> None:
    with Pool(toy, 1) as pool:
        pool.submit(Request("long", MANY))
        assert gate.entered.wait(PATIENCE)
        for k in range(40):
            pool.submit(Request(f"short {k}", "hi"))
        gate.opened.set()
        order = [event.request_id for event in pool.events() if event.done]
    assert order.index("long") <= 8


@pytest.mark.parametrize("whole", [True, False])
def test_only_those_who_hear_chunks_are_waited_for(toy: Bundle, gate: Gate, whole: bool) -> None:
    with Pool(toy, 1) as pool:
        pool.submit(Request("a", MANY, chunk_frames=8, whole=whole))
        assert gate.entered.wait(PATIENCE)
        slot = pool._where["a"]
        assert slot
        assert slot.streams == (set() if whole else {"a"})
        pool.cancel("a")
        assert not slot.streams
        gate.opened.set()
        assert ends(pool.events()) == {"a": "cancelled"}


@pytest.mark.parametrize(("short", "cost"), [("hi", 0.5), ("one two", 0.4), ("one two three", 0.3)])
def test_nobody_who_listens_waits_behind_many_short_texts(
    toy: Bundle, meddle: Callable[..., Any], short: str, cost: float
) -> None:
    """In turn with them, the listener would get less than he hears."""
    clock = Clock(toy.sample_rate, cost)
    told: list[tuple[float, Event]] = []

    def decoded(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        if clock.now == 0.0:
            for k in range(300):
                pool.submit(Request(f"short {k}", short, chunk_frames=128))
        return clock.decoded(inputs, outputs)

    meddle(decoded)
    with Pool(toy, 1, clock=clock, limit=500) as pool:
        pool.tell(lambda event: told.append((clock.now, event)))
        pool.submit(Request("long", 16 * "one two three. ", chunk_frames=32))
        assert not list(pool.events())
    heard = pieces_in_time(told, "long")
    between = [k for k, (_, event) in enumerate(told) if event.request_id == "long"]
    assert heard > 5
    assert between[-1] - between[0] > 1.2 * len(between)  # short ones came between


def test_files_made_whole_do_not_hold_up_a_listener(toy: Bundle, meddle: Callable[..., Any]) -> None:
    """A round of all of them takes longer than they can wait; a new text comes whenever one has ended."""
    clock = Clock(toy.sample_rate, 0.6)
    told: list[tuple[float, Event]] = []

    def decoded(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        if clock.now == 0.0:
            for k in range(24):
                pool.submit(Request(f"file {k}", MANY, chunk_frames=16, whole=True))
            pool.submit(Request("heard", 2 * MANY, chunk_frames=16))
        return clock.decoded(inputs, outputs)

    meddle(decoded)
    with Pool(toy, 1, clock=clock) as pool:
        pool.tell(lambda event: told.append((clock.now, event)))
        pool.submit(Request("first", "hi"))
        assert not list(pool.events())
    assert pieces_in_time(told, "heard") > 5


@pytest.mark.parametrize("turn", range(9, 40, 3))
def test_a_short_text_comes_before_listeners_who_have_enough_for_a_turn_of_each(
    toy: Bundle, meddle: Callable[..., Any], turn: int
) -> None:
    """Four of them, who have less than a second left, and more than their turns take."""
    clock = Clock(toy.sample_rate, 0.05)
    told: list[Event] = []
    turns = 0

    def decoded(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        nonlocal turns
        if (turns := turns + 1) == 1:
            for k in range(1, 4):
                pool.submit(Request(f"long {k}", 4 * MANY, seed=k, chunk_frames=16))
        if turns == turn:
            told.clear()
            pool.submit(Request("short", "hi", chunk_frames=4))
        return clock.decoded(inputs, outputs)

    meddle(decoded)
    with Pool(toy, 1, clock=clock) as pool:
        pool.tell(told.append)
        pool.submit(Request("long 0", 4 * MANY, chunk_frames=16))
        assert not list(pool.events())
    order = [event.request_id for event in told]
    assert order.index("short") <= 2, order[:12]


def test_long_texts_are_spoken_side_by_side(toy: Bundle, meddle: Callable[..., Any]) -> None:
    both = threading.Barrier(2)

    def together(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        both.wait(PATIENCE)  # breaks if one worker has to speak both
        return outputs

    meddle(together)
    with Pool(toy, 2) as pool:
        pool.submit(Request("a", MANY))
        pool.submit(Request("b", MANY))
        assert ends(pool.events()) == {"a": "stop", "b": "stop"}


def test_where_many_wait_chunks_are_larger_and_the_audio_is_the_same(toy: Bundle, gate: Gate) -> None:
    text = "a sentence that lasts for many frames and some more of them."
    with engine(toy) as alone:
        spoken = run(alone, Request("alone", text, chunk_frames=2))
    pieces = sum(event.audio is not None for event in spoken)
    with Pool(toy, workers=1, clock=lambda: 0.0) as pool:
        pool.submit(Request("0", text, chunk_frames=2))
        assert gate.entered.wait(PATIENCE)  # the first was taken while nobody else was there
        for k in range(1, 9):
            pool.submit(Request(str(k), text, chunk_frames=2))
        gate.opened.set()
        events = list(pool.events())
    counts = [sum(e.audio is not None for e in events if e.request_id == str(k)) for k in range(9)]
    assert counts[0] == pieces
    assert max(counts[1:]) < pieces
    for k in range(9):
        assert np.array_equal(audio_of(events, str(k)).samples, audio_of(spoken, "alone").samples)
