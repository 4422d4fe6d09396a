"""A process that speaks as its bundle does here; that dies alone; that says why it cannot start."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from vivace.core.audio import join
from vivace.core.bundle import MANIFEST, Bundle
from vivace.core.speech import Event, Request
from vivace.engine import runner
from vivace.engine.engine import Engine, speak
from vivace.engine.pool import Pool
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have a priority of their own there alone")
def test_who_speaks_lets_others_load_first(make_toy: Callable[..., Bundle]) -> None:
    async def todo(runner: Runner) -> set[int]:
        await heard(runner, Request("a", TEXT))
        tasks = [int(task.name) for task in Path(f"/proc/{runner.pid}/task").iterdir()]
        return {os.getpriority(os.PRIO_PROCESS, task) for task in tasks}

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert run(make_toy().path, todo) == {min(own + 5, 19)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


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


def test_starts_leave_nothing_open(make_toy: Callable[..., Bundle], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree((good := make_toy()).path, damaged)
    (damaged / MANIFEST).write_text("{}", encoding="utf-8")

    def known() -> int:
        gc.collect()
        registry = multiprocessing.util._finalizer_registry  # type: ignore[attr-defined]
        return len(list(Path("/proc/self/fd").iterdir())) + len(registry)

    async def todo() -> None:
        broken, well = Runner(damaged, Plan(1, 1, 1)), Runner(good.path, Plan(1, 1, 1))
        seen = []
        for _ in range(3):
            with pytest.raises(Died):
                await broken.start()
            assert not broken.megabytes  # the next start warms up still
            await well.start()
            os.kill(well.pid, signal.SIGKILL)
            await asyncio.to_thread(well._process.join)
            await well.start()
            assert well.megabytes
            await well.stop()
            seen.append(known())
        assert seen[1] == seen[2]

    asyncio.run(todo())


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_start_that_is_given_up_leaves_no_process(
    make_toy: Callable[..., Bundle], seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    before = {child.pid for child in multiprocessing.active_children()}

    async def todo() -> None:
        starting = asyncio.create_task(Runner(make_toy().path, Plan(1, 1, 1)).start())
        await asyncio.sleep(seconds)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(todo())
    assert {child.pid for child in multiprocessing.active_children()} <= before
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_process_that_loads_ends_with_its_parent(tmp_path: Path) -> None:
    """However the parent ends: here it is killed while its child waits for a manifest that never comes."""
    path = tmp_path / "endless"
    path.mkdir()
    os.mkfifo(path / MANIFEST)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(path)])
    try:
        children: list[int] = []
        while not (children := _loading(parent.pid)):
            assert parent.poll() is None
            time.sleep(0.05)
        time.sleep(2)  # it has come to the manifest
        assert all(_alive(pid) for pid in children)
        parent.kill()
        parent.wait()
        end = time.monotonic() + 10
        while children and time.monotonic() < end:
            children = [pid for pid in children if _alive(pid)]
            time.sleep(0.05)
        assert not children
    finally:
        parent.kill()
        for pid in children:
            os.kill(pid, signal.SIGKILL)


PARENT = """
import asyncio, sys
from pathlib import Path
from vivace.engine.runner import Plan, Runner
if __name__ == "__main__":
    asyncio.run(Runner(Path(sys.argv[1]), Plan(1, 1, 1)).start())
"""


def _loading(parent: int) -> list[int]:
    """The children of a process that run Python's spawn."""
    found = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()]
    return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_ends_at_once_ends_quietly(make_toy: Callable[..., Bundle], capfd: Any) -> None:
    """Workers that are inside a runtime while their interpreter ends make C++ say `terminate called`."""
    path = make_toy().path

    async def todo() -> None:
        runner = Runner(path, Plan(4, 1, 1))
        await runner.start()
        events = [runner.speak(Request(f"r{k}", "a long text. " * 4000, chunk_frames=256)) for k in range(4)]
        for each in events:
            await anext(each)
        await runner.stop()
        for each in events:
            await each.aclose()

    for _ in range(4):
        asyncio.run(todo())
    assert "terminate" not in capfd.readouterr().err


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


SIZES = [10, 100_000, 10, 1_000_000, *[1_000] * 3_000, 10]


def test_messages_keep_their_order_and_wait_for_nobody() -> None:
    mine, theirs = socket.socketpair()
    sent = [(k, "x" * size) for k, size in enumerate(SIZES)]
    heard: list[Any] = []

    async def todo() -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        line, ear = await loop.create_unix_connection(lambda: runner._Ear(heard.append, gone.set), sock=mine)
        for message in sent:  # nobody reads: a socket that is full would hold this up for ever
            line.write(runner._framed(message))
        read = await asyncio.to_thread(lambda: [m for _, m in zip(sent, runner._messages(theirs), strict=False)])
        assert read == sent

        def answer() -> None:
            for message in ["first", *sent]:
                theirs.sendall(runner._framed(message))
            theirs.sendall(runner._framed("cut off")[:-1])
            theirs.close()

        await asyncio.to_thread(answer)
        await gone.wait()
        assert await ear.first == "first"
        assert heard == sent
        line.write(runner._framed("to nobody"))  # who listens to the child knows that it is gone

    asyncio.run(todo())


def test_a_process_that_ends_behind_its_first_words(
    make_toy: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first_words(self: Runner, process: Any, ear: runner._Ear) -> str:
        await ear.first
        process.kill()
        await asyncio.to_thread(process.join)
        await asyncio.sleep(0.1)  # its end is heard
        return ""

    async def todo() -> None:
        runner = Runner(make_toy().path, Plan(1, 1, 1))
        with monkeypatch.context() as patched, pytest.raises(Died, match="ended behind its first words"):
            patched.setattr(Runner, "_first_words", first_words)
            await runner.start()
        assert not runner.alive
        await runner.start()
        assert runner.alive
        await runner.stop()

    asyncio.run(todo())


def test_a_process_that_ends_before_its_first_word() -> None:
    mine, theirs = socket.socketpair()

    async def todo() -> None:
        _, ear = await asyncio.get_running_loop().create_unix_connection(
            lambda: runner._Ear(pytest.fail, lambda: None), sock=mine
        )
        theirs.close()
        with pytest.raises(EOFError):
            await ear.first

    asyncio.run(todo())


@pytest.mark.parametrize("warm", [True, False])
def test_a_start_after_a_death_says_little(
    make_toy: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    asked: list[str] = []

    class Noting(Pool):
        def submit(self, request: Request) -> None:
            asked.append(request.text)
            super().submit(request)

    monkeypatch.setattr(runner, "Pool", Noting)
    for name in ("map_large_blocks", "sys"):  # of a process of its own
        monkeypatch.setattr(runner, name, Mock())
    runner.open_pool(make_toy().path, Plan(2, 1, 1), 4, warm=warm).close()
    assert asked == 2 * [runner.WARM_TEXT if warm else runner.FIRST_WORDS]


def test_a_child_rests_once_nothing_was_spoken_for_a_while(
    make_toy: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = socket.socketpair()
    rested = threading.Event()
    pool = Pool(make_toy(), 1)
    monkeypatch.setattr(runner, "GIVE_BACK", 0.2)
    monkeypatch.setattr(runner, "open_pool", lambda *_, **__: pool)
    left = threading.Event()
    monkeypatch.setattr(runner, "_leave", lambda code: left.set())  # the thread that reads ends, not the tests
    monkeypatch.setattr(pool, "rest", rested.set)
    threading.Thread(
        target=runner._speak, args=(theirs, Path(), Plan(1, 1, 1), 4), kwargs={"warm": False}, daemon=True
    ).start()
    heard = runner._messages(mine)
    assert next(heard)[0] == ""
    assert not rested.wait(0.5)  # nothing was spoken: there is nothing to hand back
    mine.sendall(runner._framed(("submit", Request("r", TEXT))))
    while not next(heard).done:
        pass
    assert rested.wait(10)
    mine.sendall(runner._framed(("stop", None)))
    assert left.wait(10)  # before `_leave` is itself again
    pool.close()
