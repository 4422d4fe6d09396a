"""Faults put into real processes: killed, damaged, out of memory, or with numbers that are none."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from server.conftest import ask, metric, serving, until  # noqa: E402
from vivace.core.bundle import open_bundle  # noqa: E402
from vivace.families.toy import CHARACTERS  # noqa: E402
from vivace.server.service import Settings  # noqa: E402

Make = Callable[..., Path]


def test_a_killed_process_is_replaced_while_requests_come(make_variant: Make) -> None:
    models = {"toy": [make_variant("fast"), make_variant("safe")]}
    with serving(Settings(models)) as served:
        fast = served.service.models["toy"].chain.variants[0]
        statuses: list[int] = []
        stop = threading.Event()

        def client() -> None:
            while not stop.is_set():
                try:
                    statuses.append(ask(served, "hello. " * 20).status_code)
                except httpx.RemoteProtocolError:  # audio had gone out: cut, not mended
                    statuses.append(0)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        until(lambda: len(statuses) > 8)
        first = fast.runner.pid
        os.kill(first, signal.SIGKILL)
        until(lambda: fast.runner.pid not in (0, first))
        count = len(statuses)
        until(lambda: len(statuses) > count + 8)
        stop.set()
        for thread in clients:
            thread.join()
        assert statuses.count(0) <= 4 and set(statuses) <= {0, 200}
        assert metric(served, "vivace_variant_failures_total", model="toy", variant="fast") >= 1
        assert metric(served, "vivace_replica_deaths_total", model="toy", variant="fast") == 1
        assert ask(served).headers["X-Vivace-Variant"] == "fast"


def test_a_damaged_variant_is_left_out_and_seen(make_variant: Make) -> None:
    broken = make_variant("broken")
    with serving(Settings({"toy": [broken, make_variant("safe")]})) as served:  # damaged after it was opened
        variant = served.service.models["toy"].chain.variants[0]
        for stage in (broken / "stages").iterdir():
            stage.write_bytes(b"nothing")
        os.kill(variant.runner.pid, signal.SIGKILL)
        until(lambda: metric(served, "vivace_variant_up", model="toy", variant="broken") == 0)
        assert ask(served).headers["X-Vivace-Variant"] == "safe"
        assert metric(served, "vivace_breaker_state", model="toy", variant="broken") in (1, 2)
        assert httpx.get(f"{served.url}/health/ready").status_code == 200


def poisoned(path: Path, name: str = "poisoned") -> Path:
    """A variant beside `path` in which the letter q is not a number."""
    bundle = open_bundle(path)
    file = bundle.stage("text").file

    def change(folder: Path) -> None:
        model = onnx.load(str(folder / file))
        weights = next(i for i in model.graph.initializer if i.name == "letters.weight")
        values = numpy_helper.to_array(weights).copy()
        values[CHARACTERS.index("q")] = np.nan
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        onnx.save(model, str(folder / file))

    return bundle.derive(path.with_name(name), None, change).path


def test_numbers_that_are_none_are_mended_by_the_next_variant(make_variant: Make) -> None:
    safe = make_variant("safe")
    with serving(Settings({"toy": [poisoned(safe), safe]})) as served:
        assert ask(served, "hello").headers["X-Vivace-Variant"] == "poisoned"
        for _ in range(3):
            found = ask(served, "quite quiet")
            assert found.status_code == 200 and found.headers["X-Vivace-Variant"] == "safe" and len(found.content)
        assert metric(served, "vivace_variant_failures_total", model="toy", variant="poisoned") == 3
        assert metric(served, "vivace_breaker_state", model="toy", variant="poisoned") > 0
        assert "vivace_breaker_state" in httpx.get(f"{served.url}/metrics").text
        until(lambda: ask(served, "hello").headers["X-Vivace-Variant"] == "poisoned")


def test_a_text_that_all_variants_fail_opens_no_breaker(make_variant: Make) -> None:
    whole = make_variant("whole")
    with serving(Settings({"toy": [poisoned(whole), poisoned(whole, "too")]})) as served:
        found = ask(served, "quite quiet")
        assert found.status_code == 400 and "no variant can speak this text" in found.json()["error"]["message"]
        assert metric(served, "vivace_variant_failures_total", model="toy", variant="poisoned") == 0
        assert ask(served, "hello").headers["X-Vivace-Variant"] == "poisoned"


def test_memory_that_runs_out_is_mended_by_the_next_variant(make_variant: Make) -> None:
    """The process may hold what it holds and no more: long sentences find no room, or end it."""
    with serving(Settings({"toy": [make_variant("small"), make_variant("safe")]})) as served:
        small = served.service.models["toy"].chain.variants[0]
        pid = small.runner.pid
        resource.prlimit(pid, resource.RLIMIT_DATA, (1, resource.RLIM_INFINITY))
        found: list[Any] = []
        clients = [
            threading.Thread(target=lambda: found.append(ask(served, "on and " * 580, response_format="wav")))
            for _ in range(12)
        ]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        assert [answer.status_code for answer in found] == [200] * 12
        assert "safe" in {answer.headers["X-Vivace-Variant"] for answer in found}
        if small.runner.pid == pid:
            resource.prlimit(pid, resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: ask(served).headers["X-Vivace-Variant"] == "small")
