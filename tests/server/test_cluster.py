"""The Ray beneath a server: its head dies, is not there, or is KubeRay's, whose proxies lead to a door."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("ray.serve")
pytest.importorskip("uvicorn")

from server.conftest import replica_pids, until  # noqa: E402
from vivace.cli.main import main  # noqa: E402
from vivace.core.errors import UsageError  # noqa: E402
from vivace.server import cluster  # noqa: E402

Make = Callable[..., Path]
BODY = {"model": "joe", "input": "One sentence. And another one.", "response_format": "pcm"}


@contextmanager
def process(command: list[str], ready: str) -> Iterator[tuple[Any, str, list[str]]]:
    """A process, what `ready` found on its standard error, and all the lines that come there."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as running:
        assert running.stderr
        lines: list[str] = []
        try:
            for line in running.stderr:
                lines.append(line)
                if found := re.search(ready, line):
                    break
            else:
                pytest.fail("".join(lines))
            rest = threading.Thread(target=lambda: lines.extend(running.stderr or ()), daemon=True)
            rest.start()
            yield running, found[0], lines
        finally:
            running.kill()


def heads(parent: int) -> list[int]:
    """The processes of Ray's head that a process has begun."""
    children = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(pid) for path in children for pid in path.read_text(encoding="ascii").split()]
    return [pid for pid in found if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_what_runs_speaks_on_without_a_head(make_variant: Make) -> None:
    voice, others = make_variant("voice"), replica_pids()
    command = [sys.executable, "-m", "vivace.cli.main", "serve", f"joe={voice}", "--replicas", "2", "--port", "0"]
    with process(command, r"http://127\.0\.0\.1:\d+") as (server, url, lines):
        own = replica_pids() - others
        assert len(own) == 2
        before = httpx.post(f"{url}/v1/audio/speech", json=BODY, timeout=60)
        (head,) = heads(server.pid)
        os.kill(head, signal.SIGKILL)
        until(lambda: "problem" in httpx.get(f"{url}/health/ready").json(), 30)
        ready = httpx.get(f"{url}/health/ready")
        assert ready.status_code == 200 and "is gone" in ready.json()["problem"]
        assert "vivace_cluster_head_up 0.0" in httpx.get(f"{url}/metrics").text
        for _ in range(4):
            answer = httpx.post(f"{url}/v1/audio/speech", json=BODY, timeout=60)
            assert answer.status_code == 200 and answer.content == before.content
        assert len([line for line in lines if "is gone" in line]) == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(90) == 0
        assert not any("Traceback" in line for line in lines), "".join(lines)
        until(lambda: not any(pid in replica_pids() for pid in own))


def test_a_head_that_is_not_there_is_said_at_once(make_variant: Make, capfd: Any) -> None:
    assert main(["serve", str(make_variant("voice")), "--replicas", "1", "--ray", "127.0.0.1:1"]) == 2
    error = capfd.readouterr().err
    assert "there is no Ray head at 127.0.0.1:1" in error and "Traceback" not in error


DOOR = """
import json, sys, time
import ray
from ray import serve
from vivace.server.cluster import door
ray.init(num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(door(json.loads(sys.argv[1])), name="vivace", route_prefix="/")
print("there", file=sys.stderr, flush=True)
time.sleep(600)
"""


def test_a_door_of_the_clusters_own(make_variant: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_worker_niceness", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VIVACE_API_KEY", "secret")
    arguments = {"models": {"joe": [str(make_variant("voice"))]}, "replicas": "2", "queue": 32}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", DOOR, json.dumps(arguments), str(port)]
    with process(command, "there"):
        url = f"http://127.0.0.1:{port}"
        assert httpx.post(f"{url}/v1/audio/speech", json=BODY, timeout=60).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        answer = httpx.post(f"{url}/v1/audio/speech", json=BODY, headers=headers, timeout=60)
        assert (
            answer.status_code == 200 and answer.headers["X-Vivace-Variant"] == "voice" and len(answer.content) > 1000
        )
        assert httpx.get(f"{url}/health/ready").status_code == 200
        assert 'vivace_variant_replicas{model="joe",variant="voice"} 2.0' in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"models": {}, "colour": 1}, "unknown: colour"), ({"models": {}, "replicas": "0"}, "replicas are '0'")],
)
def test_what_a_door_does_not_know(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cluster.door(arguments)


def test_spans() -> None:
    assert cluster.span("3") == (3, 3) and cluster.span("1-8") == (1, 8)
    for wrong in ("", "0", "-1", "2-1", "1-", "a-b", "1-2-3"):
        with pytest.raises(UsageError, match="write a number such as 2, or 1-8"):
            cluster.span(wrong)


def test_a_ray_that_does_not_start_is_tried_again_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    tries: list[int] = []

    def init(**_: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Ray's own threads may try as well
            tries.append(1)
        raise Exception("The current node timed out\nand more")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(cluster.VivaceError, match=r"Ray does not start: The current node timed out; is the machine"):
        cluster._start()
    assert len(tries) == cluster.STARTS
