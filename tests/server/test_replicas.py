"""The client's tests again, with two replicas on Ray Serve behind the doors; and replicas that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
pytest.importorskip("uvicorn")

from server.conftest import Served, ask, metric, replica_pids, serving, until  # noqa: E402
from server.test_speech import (  # noqa: E402, F401
    client,
    test_events_hold_the_same_bytes,
    test_every_format_holds_the_whole_speech,
    test_speed_voice_and_seed_are_heard,
    test_the_answer_says_who_spoke,
    test_the_asynchronous_client,
    test_the_clients_own_exceptions,
    whole,
)
from vivace.core.audio import Audio  # noqa: E402
from vivace.core.speech import Event, Request  # noqa: E402
from vivace.engine.runner import Died, Plan  # noqa: E402
from vivace.server import replicas as module  # noqa: E402
from vivace.server.cluster import Cluster, cluster  # noqa: E402
from vivace.server.replicas import Replicas, Scale, Seen, _after  # noqa: E402
from vivace.server.service import Settings  # noqa: E402

Make = Callable[..., Path]
LONG = "on and on it goes. " * 100


@pytest.fixture(scope="module")
def beneath(make_variant: Make) -> Iterator[Cluster]:
    room = Settings({"toy": [make_variant("any")] * 8})
    with cluster(Scale(2, 2, start_seconds=60), room) as found:
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        assert session.is_dir()
        yield found
    assert not session.exists(), "what was begun in /tmp/ray is cleaned up"


@pytest.fixture(scope="module")
def served(beneath: Cluster, make_variant: Make) -> Iterator[Served]:
    voices = {"voices": ["ann", "bob"]}
    models = {"toy": [make_variant("fast", **voices), make_variant("safe", **voices)], "other": [make_variant("one")]}
    with serving(Settings(models), beneath.speaker) as found:
        yield found


def test_replicas_are_counted(served: Served) -> None:
    assert metric(served, "vivace_variant_replicas", model="toy", variant="fast") == 2
    assert metric(served, "vivace_variant_slots", model="toy", variant="fast") == 2
    assert metric(served, "vivace_cluster_head_up") == 1


def test_a_killed_replica_loses_nothing_that_is_spoken(beneath: Cluster, make_variant: Make) -> None:
    """Audio has gone out when it dies: another one goes on at the very sample."""
    before = replica_pids()
    with serving(Settings({"sole": [make_variant("sole")]}), beneath.speaker) as served:
        own = replica_pids() - before
        assert len(own) == 2
        calm = ask(served, LONG, "sole").content
        answers: list[Any] = []
        first = threading.Event()

        def client() -> None:
            body = {"model": "sole", "input": LONG, "response_format": "pcm"}
            with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body, timeout=60) as answer:
                heard = b""
                for part in answer.iter_raw():
                    heard += part
                    first.set()
                answers.append((answer.status_code, heard))

        clients = [threading.Thread(target=client) for _ in range(6)]
        for thread in clients:
            thread.start()
        assert first.wait(60)
        os.kill(min(own), signal.SIGKILL)
        for thread in clients:
            thread.join()
        assert [status for status, _ in answers] == [200] * 6
        assert all(heard == calm for _, heard in answers)
        assert ask(served, model="sole").status_code == 200
        until(lambda: metric(served, "vivace_replica_deaths_total", model="sole", variant="sole") == 1)
        until(lambda: len(replica_pids() - before) == 2 and min(own) not in replica_pids(), 60)


def test_when_all_are_dead_it_says_so_and_comes_back(
    beneath: Cluster, make_variant: Make, caplog: pytest.LogCaptureFixture
) -> None:
    before = replica_pids()
    with serving(Settings({"gone": [make_variant("gone")]}), beneath.speaker) as served:
        for pid in replica_pids() - before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: metric(served, "vivace_variant_replicas", model="gone", variant="gone") == 0)
        answer = ask(served, model="gone")
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert answer.json()["error"]["code"] == "unavailable"
        ready = httpx.get(f"{served.url}/health/ready")
        assert ready.status_code == 503 and "no process of gone is left" in ready.json()["problem"]
        until(lambda: metric(served, "vivace_replica_deaths_total", model="gone", variant="gone") == 2)
        assert any(r.levelname == "WARNING" and "replicas died" in r.message for r in caplog.records)
        until(lambda: httpx.get(f"{served.url}/health/ready").status_code == 200, 60)
        assert ask(served, model="gone").status_code == 200


def test_configurations_that_two_threads_make_at_once_are_made(make_variant: Make) -> None:
    """Ray keeps a list of the process while it makes one, and complains where another thread has changed it."""
    bundle, faults = make_variant("any"), list[ValueError]()

    def make() -> None:
        try:
            for _ in range(10):
                module.deployment("any", bundle, Plan(1, 1, 1), Scale(1, 1), 8)
        except ValueError as error:
            faults.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_other_faults_of_a_configuration_are_told_at_once() -> None:
    asked = []

    def wrong() -> None:
        asked.append(1)
        raise ValueError("num_replicas is -1")

    with pytest.raises(ValueError, match="num_replicas"):
        module.alone(wrong)
    assert len(asked) == 1


def test_there_are_as_many_as_the_queue_asks_for(beneath: Cluster, make_variant: Make) -> None:
    more = Cluster(beneath.head, Scale(1, 2, start_seconds=60), 64)
    with serving(Settings({"some": [make_variant("some")]}), more.speaker) as served:
        assert metric(served, "vivace_variant_replicas", model="some", variant="some") == 1
        ended = threading.Event()

        def client() -> None:
            while not ended.is_set():
                assert ask(served, LONG, "some").status_code == 200

        clients = [threading.Thread(target=client) for _ in range(12)]
        for thread in clients:
            thread.start()
        try:
            until(lambda: metric(served, "vivace_variant_replicas", model="some", variant="some") == 2, 90)
        finally:
            ended.set()
            for thread in clients:
                thread.join()
        assert metric(served, "vivace_replica_deaths_total", model="some", variant="some") == 0


def test_leaving_early_frees_the_replica(beneath: Cluster, make_variant: Make) -> None:
    with serving(Settings({"left": [make_variant("left")]}), beneath.speaker) as served:
        body = {"model": "left", "input": LONG * 2, "response_format": "pcm"}
        for _ in range(8):
            with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body, timeout=60) as answer:
                next(answer.iter_raw())
        until(lambda: metric(served, "vivace_live_requests") == 0)
        assert ask(served, model="left").status_code == 200


def event(count: int) -> Event:
    return Event("a", audio=Audio(np.arange(count, dtype=np.float32), 100) if count else None)


@pytest.mark.parametrize(
    ("given", "at", "left", "end"), [(0, 0, 4, 4), (3, 0, 1, 4), (4, 0, 0, 4), (9, 0, 0, 4), (3, 3, 4, 7), (5, 3, 2, 7)]
)
def test_what_was_given_is_not_given_again(given: int, at: int, left: int, end: int) -> None:
    found, next_one = _after(event(4), given, at)
    assert next_one == end and (len(found.audio.samples) if found.audio else 0) == left
    if found.audio:
        assert found.audio.samples[-1] == 3
    assert _after(event(0), given, at)[1] == at


def test_what_no_replica_speaks_is_said() -> None:
    def fails() -> None:
        raise RuntimeError("Deploying app failed")

    async def todo() -> None:
        replicas = Replicas("app", "voice", Plan(1, 1, 1), 1.0, deploy=fails)
        with pytest.raises(Died, match="voice has no replica: Deploying app failed"):
            await replicas.start()
        with pytest.raises(Died, match="has no replica"):
            await anext(replicas.speak(Request("a", "hello")))
        assert replicas.pending == 0

    asyncio.run(todo())


class Waits:
    """Stands for Ray's handle, with a request that waits for a replica."""

    def __init__(self) -> None:
        self.speak, self.left = self, 0

    def remote(self, request: Request) -> Waits:
        return self

    def cancel(self) -> None:
        self.left += 1

    def __aiter__(self) -> Waits:
        return self

    async def __anext__(self) -> Event:
        await asyncio.sleep(60)
        raise AssertionError("nobody told it")


def looking(monkeypatch: pytest.MonkeyPatch, *seen: Seen) -> tuple[Replicas, list[str]]:
    """Replicas of which Ray says this, look by look; and what they tell."""
    left, told, real = list(seen), [], module._seen

    def say(application: str, name: str) -> Seen:
        if application != "app":  # of other tests' replicas
            return real(application, name)
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "_seen", say)
    replicas = Replicas("app", "voice", Plan(1, 1, 1), 1.0)
    replicas.lost, replicas.died = lambda: told.append("lost"), lambda: told.append("died")
    return replicas, told


A, B, C = "abc"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([Seen(2, frozenset((A, B))), Seen(1, frozenset((A, C)))], ["lost"]),
        ([Seen(2, frozenset((A, B))), Seen(2, frozenset((A, C)))], ["lost"]),
        ([Seen(2, frozenset((A, B))), Seen(2, frozenset()), Seen(0, frozenset((C,)))], ["lost", "lost", "died"]),
        ([Seen(2, frozenset((A, B))), Seen(1, frozenset((A, B)), ordered=True), Seen(1, frozenset((A,)))], []),
        ([Seen(1, frozenset((A,))), Seen(2, frozenset((A, B)))], []),
        ([Seen(1, frozenset((A,))), Seen(ordered=True)], ["died"]),
    ],
    ids=[
        "one died",
        "and was replaced before anybody looked",
        "all died",
        "fewer were wanted",
        "more were wanted",
        "taken away",
    ],
)
def test_deaths_are_counted_and_orders_are_not(
    monkeypatch: pytest.MonkeyPatch, seen: list[Seen], expected: list[str]
) -> None:
    replicas, told = looking(monkeypatch, *seen)

    async def todo() -> None:
        task = asyncio.create_task(replicas._look())
        await asyncio.sleep(0.5)
        task.cancel()

    asyncio.run(todo())
    assert told == expected and replicas.replicas == seen[-1].running


def test_what_waits_for_a_replica_hears_that_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas, _ = looking(monkeypatch, *[Seen(1, frozenset((A,)))] * 20, Seen())
    replicas._handle = handle = Waits()

    async def todo() -> None:
        task = asyncio.create_task(replicas._look())
        while not replicas.alive:
            await asyncio.sleep(0.01)
        with pytest.raises(Died, match="no replica of voice is left"):
            async with asyncio.timeout(30):
                await anext(replicas.speak(Request("a", "hello")))
        assert handle.left == 1 and replicas.pending == 0 and not replicas._waiting
        task.cancel()

    asyncio.run(todo())
