"""vivace serve as a process: ready, speaks, ends what it has begun on SIGTERM; and what it says of wrong arguments."""

from __future__ import annotations

import json
import re
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

import pytest

from vivace.cli import serve
from vivace.cli.main import main
from vivace.core.bundle import Bundle
from vivace.core.errors import UsageError

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")


@pytest.fixture
def voice(make_toy: Callable[..., Bundle]) -> Path:
    return make_toy().path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere"),
        (["joe="], "lacks a name or a bundle"),
        (["=VOICE"], "lacks a name or a bundle"),
        (["VOICE", "--patience", "-1"], "--patience is -1"),
        (["VOICE", "--wyoming", "99999"], "port 99999 is none"),
        (["VOICE", "--wyoming", "8000"], "--wyoming and --port are both 8000"),
        (["VOICE", "--host", "300.1.1.1"], "300.1.1.1 port 8000 cannot be had"),
        (["VOICE", "--queue", "0"], "--queue is 0"),
        (["VOICE", "--cores", "4096"], "--cores is 4096; this machine has"),
        (["VOICE", "--grace", "-1"], "--grace is -1"),
        (["VOICE", "--port", "70000"], "port 70000 is none"),
        (["a=VOICE", "a=VOICE"], "two models have the same name"),
        (["VOICE", "--memory", "lots"], "--memory is 'lots'; write a size such as 800M or 2G"),
        (["VOICE", "--keys", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["VOICE", "--replicas", "0"], "replicas are '0'"),
        (["VOICE", "--replicas", "4-2"], "replicas are '4-2'"),
        (["VOICE", "--replicas", "many"], "replicas are 'many'"),
        (["VOICE", "--replicas", "2", "--memory", "1G"], "--memory is for one machine"),
        (["VOICE", "--ray", "auto"], "--ray is for replicas"),
    ],
)
def test_wrong_arguments(voice: Path, capsys: Any, words: list[str], message: str) -> None:
    assert main(["serve", *(word.replace("VOICE", str(voice)) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n # a comment\n two \nthr#ee  # of Ann\n", encoding="utf-8")
    assert serve._keys(file) == ("one", "two", "thr#ee")
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no key"):
        serve._keys(file)
    monkeypatch.delenv("VIVACE_API_KEY", raising=False)
    assert serve._keys(None) == ()
    monkeypatch.setenv("VIVACE_API_KEY", "three")
    assert serve._keys(None) == ("three",)
    monkeypatch.setenv("VIVACE_API_KEY", "")
    with pytest.raises(UsageError, match="VIVACE_API_KEY is empty"):
        serve._keys(None)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(voice: Path, capfd: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (["--port", port], ["--port", "0", "--wyoming", port]):
            assert main(["serve", str(voice), *words]) == 2
            error = capfd.readouterr().err
            assert f"127.0.0.1 port {port} cannot be had" in error and "Traceback" not in error


def test_what_cannot_start_is_one_line(voice: Path, tmp_path: Path, capfd: Any) -> None:
    assert main(["serve", f"joe={voice}", "--memory", "1M"]) == 2
    error = capfd.readouterr().err
    assert "joe does not fit" in error and "Traceback" not in error
    folder = tmp_path / "broken"
    shutil.copytree(voice, folder)
    for stage in (folder / "stages").iterdir():
        stage.write_bytes(b"nothing")
    assert main(["serve", str(folder)]) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_it_serves_and_finishes_what_it_has_begun(voice: Path) -> None:
    command = [sys.executable, "-m", "vivace.cli.main", "serve", f"joe={voice}", "--port", "0", "--json"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stderr and process.stdout
        try:
            url = ""
            for line in process.stderr:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    url = found[0]
                    break
            assert json.loads(process.stdout.readline()) == {"url": url, "models": {"joe": [voice.name]}}
            rest = threading.Thread(target=process.stderr.read)  # so that it never waits for us
            rest.start()
            answers: list[Any] = []
            body = {"model": "joe", "input": "a long text. " * 300, "response_format": "pcm"}

            def ask() -> None:
                answers.append(httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60))

            ask()
            asking = threading.Thread(target=ask)
            asking.start()
            while b"vivace_live_requests 0.0" in httpx.get(f"{url}/metrics").content:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            asking.join(60)
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].content == answers[1].content
            assert process.wait(60) == 0
            rest.join(10)
        finally:
            process.kill()


def test_what_does_not_end_in_time_is_cut_and_said_to_be(voice: Path) -> None:
    command = [sys.executable, "-m", "vivace.cli.main", "serve", f"joe={voice}", "--port", "0", "--grace", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stderr
        try:
            port = next(
                int(found[1]) for line in process.stderr if (found := re.search(r"ready on .*:(\d+): joe", line))
            )
            body = json.dumps({"model": "joe", "input": "a long text. " * 300, "response_format": "pcm"}).encode()
            with socket.create_connection(("127.0.0.1", port)) as deaf:  # it does not read what it asked for
                head = (
                    b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                )
                deaf.sendall(head + str(len(body)).encode() + b"\r\n\r\n" + body)
                assert deaf.recv(12) == b"HTTP/1.1 200"
                process.send_signal(signal.SIGTERM)
                log = process.stderr.read()
            assert process.wait(60) == 0
            assert re.search(r": broken after .*: the server ends", log) and "Traceback" not in log
        finally:
            process.kill()
