"""A server with toy voices, on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from vivace.server.app import create_app  # noqa: E402
from vivace.server.service import Service, Settings  # noqa: E402

PATIENCE = 60  # seconds until a server that does not come up fails its test


@dataclass(frozen=True)
class Served:
    url: str
    service: Service


def ask(served: Served, text: str = "hello there", model: str = "toy", **more: Any) -> Any:
    headers = more.pop("headers", {})
    body = {"model": model, "input": text, "response_format": "pcm", **more}
    return httpx.post(f"{served.url}/v1/audio/speech", json=body, headers=headers, timeout=60)


def metric(served: Served, name: str, **labels: str) -> float:
    return served.service.metrics.registry.get_sample_value(name, labels or None) or 0.0


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def replica_pids() -> set[int]:
    """Of all replicas here, by the titles of their processes."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:vivace "):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


@contextmanager
def serving(settings: Settings, speaker: Any = None) -> Iterator[Served]:
    app = create_app(settings, speaker)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end, "the server did not come up"
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}", app.state.service)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def served(make_variant: Callable[..., Path]) -> Iterator[Served]:
    """Two models: `toy` with the voices ann and bob and two variants, `other` with one voice."""
    voices = {"voices": ["ann", "bob"]}
    models = {"toy": [make_variant("fast", **voices), make_variant("safe", **voices)], "other": [make_variant("one")]}
    with serving(Settings(models)) as found:
        yield found
