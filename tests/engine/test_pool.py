from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.driver import MANY, ONE, PATIENCE, TEXTS, Gate, audio_of, ends, engine, requests, run
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError, UsageError, VivaceError
from vivace.core.machine import cores
from vivace.core.speech import Event, Request
from vivace.core.stage import Array, RuntimeOptions, Tensors
from vivace.engine import pool as module
from vivace.engine.engine import Engine
from vivace.engine.pool import Pool, speak_all


@pytest.fixture(params=["one-shot", "multi-step"])
def voice(request: pytest.FixtureRequest, make_toy: Callable[..., Bundle]) -> Bundle:
    return make_toy(voices=["ann"]) if request.param == "one-shot" else make_toy(steps=4)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_pooled_is_alone(voice: Bundle, workers: int) -> None:
    with Pool(voice, workers) as pool:
        for request in requests():
            pool.submit(request)
        events = list(pool.events())
    assert set(ends(events).values()) == {"stop"}
    with engine(voice) as one:
        for request in requests():
            alone = audio_of(run(one, request), request.id)
            assert np.array_equal(audio_of(events, request.id).samples, alone.samples)


@pytest.mark.parametrize("workers", [1, 3])
def test_events_are_told_as_they_would_be_read(voice: Bundle, workers: int) -> None:
    told: list[Event] = []
    with Pool(voice, workers) as pool:
        pool.tell(told.append)
        for request in requests():
            pool.submit(request)
        assert not list(pool.events())  # all have ended when it returns
        pool.submit(requests()[0])  # its id is free again
        pool.cancel(requests()[0].id)
        assert not list(pool.events())
    assert told[-1].done
    assert told.pop().request_id == requests()[0].id
    with engine(voice) as one:
        for request in requests()[1:]:
            alone = audio_of(run(one, request), request.id)
            assert np.array_equal(audio_of(told, request.id).samples, alone.samples)


def test_a_lone_request_stays_with_the_worker_that_was_at_work_last(toy: Bundle, meddle: Callable[..., Any]) -> None:
    seen: list[str] = []

    def note(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        seen.append(threading.current_thread().name)
        return outputs

    meddle(note)
    with Pool(toy, 3) as pool:
        deadline = time.monotonic() + PATIENCE
        while len(pool._idle) < 3:
            assert time.monotonic() < deadline
        for k in range(3):
            pool.submit(Request(str(k), MANY, chunk_frames=5))
            list(pool.events())
    assert len(seen) > 20
    assert len(set(seen)) == 1


def test_the_pieces_of_a_request_come_in_order(voice: Bundle) -> None:
    with Pool(voice, 3) as pool:
        for k in range(6):
            pool.submit(Request(f"{k}", MANY, seed=k, chunk_frames=5))
        events = list(pool.events())
    assert ends(events) == {f"{k}": "stop" for k in range(6)}


def test_one_worker_for_each_core_with_one_thread_and_shared_sessions(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RuntimeOptions] = []
    original = module.open_sessions
    monkeypatch.setattr(module, "open_sessions", lambda b, options: seen.append(options) or original(b, options))
    with Pool(toy) as pool:
        assert pool.workers == cores()
        list(speak_all(pool, requests()))
    Pool(toy, 3, RuntimeOptions(threads=2)).close()
    assert seen == [RuntimeOptions(threads=1, workers=cores()), RuntimeOptions(threads=2, workers=3)]


def test_a_fault_ends_one_request(toy: Bundle) -> None:
    with Pool(toy, 2) as pool:
        pool.submit(Request("good", TEXTS["long"]))
        pool.submit(Request("bad", "~~~"))
        pool.submit(Request("nobody", "hi", voice="carl"))
        pool.submit(Request("also good", "hi"))
        events = list(pool.events())
    assert ends(events) == {"good": "stop", "bad": "error", "nobody": "error", "also good": "stop"}
    assert "carl" in next(e.error for e in events if e.request_id == "nobody")


def test_a_stage_that_fails_ends_the_request_that_it_served(
    toy: Bundle, meddle: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def second_fails(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        runs.append(1)
        if len(runs) == 2:
            raise RuntimeError("planted")
        return outputs

    meddle(second_fails)
    with Pool(toy, 1) as pool:
        for name in "abc":
            pool.submit(Request(name, "hi"))
        assert ends(pool.events()) == {"a": "stop", "b": "error", "c": "stop"}
    assert "planted" in caplog.text


def test_the_time_in_the_queue_counts(toy: Bundle, gate: Gate) -> None:
    ticks = iter(range(10_000))
    with Pool(toy, 1, clock=lambda: float(next(ticks))) as pool:
        pool.submit(Request("a", "hi"))
        assert gate.entered.wait(PATIENCE)
        submitted = float(next(ticks))
        pool.submit(Request("b", "hi"))
        gate.opened.set()
        times = {event.request_id: event.times for event in pool.events() if event.done}
    assert times["b"]["queued"] == submitted + 1
    for one in times.values():
        assert one["queued"] < one["first_audio"] < one["end"]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_bundle_says_how_many_are_spoken_together(
    toy: Bundle, batch: int, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []
    original = Engine.step

    def noting(self: Engine) -> list[Event]:
        moved.append(len(self._live))
        return original(self)

    monkeypatch.setattr(Engine, "step", noting)
    with Pool(replace(toy, defaults={**toy.defaults, "batch": batch}), 1) as pool:
        pool.submit(Request("first", "hi"))
        assert gate.entered.wait(PATIENCE)
        for k in range(6):
            pool.submit(Request(f"{k}", "hi", seed=k))
        gate.opened.set()
        events = list(pool.events())
    assert moved == ([1] * 7 if batch == 1 else [1, 3, 3])
    with engine(toy) as one:
        alone = audio_of(run(one, Request("4", "hi", seed=4)), "4")
    assert np.allclose(audio_of(events, "4").samples, alone.samples, atol=1e-6)


# --- bounds ---


def test_a_full_pool_says_so_and_has_room_again(toy: Bundle, gate: Gate) -> None:
    with Pool(toy, 1, limit=2) as pool:
        pool.submit(Request("a", "hi"))
        pool.submit(Request("b", "hi"))
        with pytest.raises(VivaceError, match=r"the pool is full \(2 requests\)"):
            pool.submit(Request("c", "hi"))
        gate.opened.set()
        assert ends(pool.events()) == {"a": "stop", "b": "stop"}
        pool.submit(Request("c", "hi"))
        assert ends(pool.events()) == {"c": "stop"}


def test_an_id_is_in_use_until_its_last_event_was_read(toy: Bundle) -> None:
    with Pool(toy, 1) as pool:
        pool.submit(Request("a", "hi"))
        events = pool.events()
        with pytest.raises(UsageError, match="'a' is in use"):
            pool.submit(Request("a", "hi"))
        assert next(events).done
        pool.submit(Request("a", "hi"))
        assert ends(events) == {"a": "stop"}


def test_workers_wait_for_a_reader(toy: Bundle, meddle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EVENTS", 3)
    runs: list[int] = []
    enough = threading.Event()

    def count(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        runs.append(1)
        if len(runs) == 3:
            enough.set()
        return outputs

    meddle(count)
    with Pool(toy, 2) as pool:
        pool.submit(Request("a", MANY))
        pool.submit(Request("b", MANY))
        assert enough.wait(PATIENCE)
        assert len(runs) <= 5  # three are unread, each worker may be inside one more
        assert ends(pool.events()) == {"a": "stop", "b": "stop"}
    assert len(runs) == 16


@pytest.mark.parametrize("workers", [-1, -5])
def test_a_number_of_workers_that_cannot_be(toy: Bundle, workers: int) -> None:
    with pytest.raises(UsageError, match=f"workers is {workers}"):
        Pool(toy, workers)


# --- cancelling ---


def test_cancelling_what_is_new_and_what_has_begun(toy: Bundle, gate: Gate) -> None:
    with Pool(toy, 1) as pool:
        pool.submit(Request("begun", MANY))
        assert gate.entered.wait(PATIENCE)
        pool.submit(Request("new", "hi"))
        pool.submit(Request("other", "hi"))
        pool.cancel("new")
        pool.cancel("begun")
        pool.cancel("unknown")
        gate.opened.set()
        events = list(pool.events())
    assert ends(events) == {"new": "cancelled", "begun": "cancelled", "other": "stop"}
    assert len([e for e in events if e.request_id == "begun" and e.audio]) <= 1
    assert all(e.times["queued"] <= e.times["end"] for e in events if e.done)


def test_cancelling_between_steps(toy: Bundle) -> None:
    with Pool(toy, 1) as pool:
        pool.submit(Request("a", MANY * 50))
        events = pool.events()
        next(events)
        pool.cancel("a")
        rest = list(events)
        assert ends(rest) == {"a": "cancelled"}
        pool.cancel("a")  # it has ended
        pool.submit(Request("b", "hi"))
        assert ends(pool.events()) == {"b": "stop"}


# --- ends ---


def test_nothing_submitted_means_no_events(toy: Bundle) -> None:
    with Pool(toy, 1) as pool:
        assert list(pool.events()) == []


def test_closing_drops_what_has_not_ended(toy: Bundle, gate: Gate, meddle: Callable[..., Any]) -> None:
    opened = meddle(gate)
    pool = Pool(toy, 2)
    for k in range(5):
        pool.submit(Request(f"{k}", MANY))
    assert gate.entered.wait(PATIENCE)
    gate.opened.set()
    pool.close()
    assert {name: session.closed for name, session in opened.items()} == {"text": 1, "frames": 1, "decoder": 1}
    assert not [t for t in threading.enumerate() if t.name.startswith("vivace-worker")]
    with pytest.raises(VivaceError, match="the pool is closed"):
        pool.submit(Request("late", "hi"))
    with pytest.raises(VivaceError, match="the pool is closed"):
        list(pool.events())
    pool.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_a_worker_that_dies_is_told(toy: Bundle, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: Engine) -> list[Event]:
        raise error("planted")

    monkeypatch.setattr(Engine, "step", die)
    with Pool(toy, 2) as pool:
        pool.submit(Request("a", "hi"))
        with pytest.raises(VivaceError, match=r"a worker of the pool has died .*planted"):
            list(pool.events())
        with pytest.raises(VivaceError, match="has died"):
            pool.submit(Request("b", "hi"))


def test_a_worker_that_dies_while_nothing_is_asked_is_told(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: Engine) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(Engine, "warm", die)
    with Pool(toy, 1, warm=True) as pool:
        for thread in pool._threads:
            thread.join(PATIENCE)
        with pytest.raises(VivaceError, match="has died"):
            list(pool.events())


def test_ctrl_c_while_waiting(toy: Bundle, meddle: Callable[..., Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    released = threading.Event()

    def interrupt(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert released.wait(PATIENCE)
        return outputs

    opened = meddle(interrupt)
    with pytest.raises(KeyboardInterrupt), Pool(toy, 1) as pool:
        pool.submit(Request("a", MANY))
        try:
            list(pool.events())
        finally:
            released.set()
    assert opened["decoder"].closed == 1


def test_a_family_that_cannot_be_opened_closes_the_sessions(toy: Bundle, meddle: Callable[..., Any]) -> None:
    opened = meddle(lambda inputs, outputs: outputs)
    with pytest.raises(UsageError, match="unknown family"):
        Pool(replace(toy, family="no_such_family"), 2)
    assert [session.closed for session in opened.values()] == [1, 1, 1]


def test_a_stage_that_cannot_be_loaded(toy: Bundle) -> None:
    broken = replace(toy, stages=(replace(toy.stages[0], file="none.onnx"), *toy.stages[1:]))
    with pytest.raises(ModelError, match=r"none\.onnx"):
        Pool(broken, 2)


def test_an_engine_leaves_sessions_open_that_are_not_its_own(toy: Bundle) -> None:
    sessions = module.open_sessions(toy, ONE)
    for _ in range(2):
        with Engine(toy, sessions=sessions) as one:
            assert ends(run(one, Request("a", "hi"))) == {"a": "stop"}
    for session in sessions.values():
        session.close()


def test_a_pool_that_has_rested_speaks_as_before(voice: Bundle) -> None:
    with Pool(voice, 1) as pool:
        said = [next(iter(speak_all(pool, [Request("a", MANY, seed=3)])))[1].samples]
        pool.rest()
        said.append(next(iter(speak_all(pool, [Request("a", MANY, seed=3)])))[1].samples)
    assert np.array_equal(*said)


def test_every_session_that_can_rests(voice: Bundle) -> None:
    rested = []
    with Pool(voice, 1) as pool:
        for name, session in pool._sessions.items():
            session.rest = lambda name=name: rested.append(name)
        pool.rest()
        assert rested == [stage.name for stage in voice.stages]
