"""The arms of the comparison: what is run, and the process behind each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = Path(__file__).with_name("arm.py")
SETTLE = 0.06  # seconds of rest before a run: ONNX Runtime's threads spin for about 30 ms after one


@dataclass(frozen=True)
class Arm:
    """`name` is the tool and its voice; `threads` 0 is the tool's own choice, which for piper-tts is all cores.

    `ours` marks Vivace. `original` names the arm that has the original file in the same tool, where there is one.
    `identity` says what the model is: a digest.
    """

    name: str
    kind: str
    model: str
    threads: int
    identity: str
    ours: bool = False
    original: str = ""

    @property
    def key(self) -> str:
        return f"{self.name} @{self.threads}"


class ArmError(RuntimeError):
    """An arm could not do what it was asked."""


class Process:
    """An arm that runs. `ready` is the seconds from its start to being loaded, Python's own start included.

    `cache` is a folder in place of the user's own for what Vivace keeps from one load to the next.
    """

    def __init__(self, arm: Arm, cache: str = "", command: list[str] | None = None) -> None:
        self.arm = arm
        begun = time.perf_counter()
        self._child = subprocess.Popen(
            command or [sys.executable, str(PROGRAM), arm.kind, arm.model, str(arm.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | ({"XDG_CACHE_HOME": cache} if cache else {}),
            text=True,
            encoding="utf-8",
        )
        try:
            self.loaded = self.ask("load")
        except BaseException:
            self.close()
            raise
        self.ready = time.perf_counter() - begun

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Raises ArmError with the arm's own words if it fails, or if its process ended."""
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write(json.dumps({"do": what, **details}) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ArmError(f"{self.arm.key}: its process ended (exit code {self._child.wait()}) at {what!r}")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise ArmError(f"{self.arm.key}: {told['error']}")
        return told

    @property
    def proportional_mb(self) -> float:
        """Proportional set size in MB of 10^6 bytes: a page that n processes share counts 1/n in each of them."""
        found = re.search(
            r"^Pss:\s*(\d+) kB", Path(f"/proc/{self._child.pid}/smaps_rollup").read_text(encoding="utf-8"), re.M
        )
        assert found
        return int(found[1]) * 1024 / 1e6

    def speak(self, text: str, *, rested: bool = True, **details: Any) -> dict[str, Any]:
        """`rested` waits first until what ran before has come to rest."""
        if rested:
            time.sleep(SETTLE)
        return self.ask("speak", text=text, **details)

    def close(self) -> None:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write('{"do": "quit"}\n')
            self._child.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
