"""A process that speaks as its bundle does here; that dies alone; that says why it cannot start."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core.audio import join
from vivace.core.bundle import Bundle
from vivace.core.speech import Event, Request
from vivace.engine.engine import Engine, speak
from vivace.engine.runner import Died, Plan, Runner

TEXT = "One sentence. And another one of them."


def run(bundle: Path, todo: Callable[[Runner], Any]) -> Any:
    async def inside() -> Any:
        runner = Runner(bundle, Plan(1, 1, 1))
        await runner.start()
        try:
            return await todo(runner)
        finally:
            await runner.stop()
            assert not runner.alive

    return asyncio.run(inside())


async def heard(runner: Runner, request: Request) -> list[Event]:
    return [event async for event in runner.speak(request)]


def test_it_speaks_as_the_engine_does(make_toy: Callable[..., Bundle]) -> None:
    bundle = make_toy(voices=["ann"])
    requests = [Request(f"r{k}", TEXT, seed=k, chunk_frames=16) for k in range(4)]

    async def todo(runner: Runner) -> list[list[Event]]:
        return await asyncio.gather(*(heard(runner, request) for request in requests))

    with Engine(bundle) as engine:
        for request, events in zip(requests, run(bundle.path, todo), strict=True):
            said = join([event.audio for event in events if event.audio])
            assert events[-1].reason == "stop"
            assert np.array_equal(said.samples, speak(engine, request).samples)


def test_a_request_that_is_wrong_says_so(make_toy: Callable[..., Bundle]) -> None:
    async def todo(runner: Runner) -> tuple[Event, ...]:
        wrong = await heard(runner, Request("a", "hello", voice="nobody"))
        empty = await heard(runner, Request("b", " "))
        good = await heard(runner, Request("c", "hello"))
        return wrong[-1], empty[-1], good[-1]

    wrong, empty, good = run(make_toy().path, todo)
    assert wrong.blame == empty.blame == "request" and "nobody" in wrong.error
    assert good.reason == "stop"


def test_a_death_ends_its_requests_and_a_start_mends_it(make_toy: Callable[..., Bundle]) -> None:
    died: list[bool] = []

    async def todo(runner: Runner) -> None:
        runner.died = lambda: died.append(True)
        long = asyncio.create_task(heard(runner, Request("a", "a long text. " * 4000)))
        while not runner.pending:
            await asyncio.sleep(0.01)
        os.kill(runner.pid, signal.SIGKILL)
        with pytest.raises(Died, match="died"):
            await long
        assert died == [True] and not runner.alive and runner.pid == 0
        with pytest.raises(Died):
            await heard(runner, Request("b", "hello"))
        await runner.start()
        assert (await heard(runner, Request("c", "hello")))[-1].reason == "stop"

    run(make_toy().path, todo)
    assert died == [True]  # being stopped is no death


def test_leaving_early_cancels(make_toy: Callable[..., Bundle]) -> None:
    async def todo(runner: Runner) -> None:
        events = runner.speak(Request("a", "a long text. " * 4000, chunk_frames=16))
        await anext(events)
        await events.aclose()
        assert runner.pending == 0
        async with asyncio.timeout(30):  # the worker is free again
            assert (await heard(runner, Request("b", "hello")))[-1].reason == "stop"

    run(make_toy().path, todo)


def test_a_damaged_bundle_is_refused_with_the_reason(make_toy: Callable[..., Bundle], tmp_path: Path) -> None:
    path = tmp_path / "broken"
    bundle = make_toy()
    shutil.copytree(bundle.path, path)
    stage = path / bundle.stages[-1].file
    stage.write_bytes(stage.read_bytes()[:-10] + b"0123456789")

    async def todo() -> None:
        with pytest.raises(Died, match=r"broken cannot be served: .*digest|damaged|changed"):
            await Runner(path, Plan(1, 1, 1)).start()

    asyncio.run(todo())


def test_a_second_start_changes_nothing(make_toy: Callable[..., Bundle]) -> None:
    async def todo(runner: Runner) -> None:
        first = runner.pid
        await runner.start()
        assert runner.pid == first

    run(make_toy().path, todo)


def test_a_start_that_is_given_up_leaves_no_process(make_toy: Callable[..., Bundle]) -> None:
    before = {child.pid for child in multiprocessing.active_children()}

    async def todo() -> None:
        starting = asyncio.create_task(Runner(make_toy().path, Plan(1, 1, 1)).start())
        await asyncio.sleep(0.1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(todo())
    assert {child.pid for child in multiprocessing.active_children()} <= before


def test_more_workers_than_the_queue_holds(make_toy: Callable[..., Bundle]) -> None:
    async def todo() -> None:
        runner = Runner(make_toy().path, Plan(4, 1, 1), limit=1)
        await runner.start()
        await runner.stop()

    asyncio.run(todo())


def test_models_that_step_share_their_steps(make_toy: Callable[..., Bundle]) -> None:
    plan = Plan.of(make_toy(), most=1)
    assert plan == Plan(1, 1, 1)
    bundle = make_toy()
    looped = [stage for stage in make_toy(steps=4).stages if stage.loop == "frame"]
    assert (Plan.of(make_toy(steps=4)).batch > 1) == bool(looped)
    assert Plan.of(bundle).batch == 1
