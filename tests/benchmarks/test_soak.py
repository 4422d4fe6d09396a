"""The soak benchmark: what it calls growth, whom it weighs, and its page."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import load
import soak


def test_growth_begins_after_the_warm_up() -> None:
    flat = [(float(k), 100.0 if k >= 10 else 50.0) for k in range(100)]
    assert soak.growth(flat) == 0
    assert soak.growth([(float(k), float(k)) for k in range(100)]) == pytest.approx(80)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists children")
def test_children_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "EVERY", 0.01)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert set(soak.family(os.getpid())) >= {os.getpid(), child.pid}
        scale = soak.Scale(os.getpid())
        while len(scale.seen) < 3:
            time.sleep(0.01)
        scale.close()
        assert all(mb > 10 for _, mb in scale.seen)
        child.communicate(b"\n")


def test_the_page() -> None:
    said: list[Any] = [load.Said(200, 0.1, 1.0, 2.0, 0.0)] * 3
    found = load.summary(said, 2.0) | {
        "bundle": "0123456789abcdef", "cpu": "a CPU", "carried": [4.0, 3.5], "growth_mb": 1.5, "first_mb": 100.0,
        "last_mb": 102.0, "rest_mb": [90.0, 89.5, 91.0],
    }  # fmt: skip
    told = "0123456789ab | a CPU | 3.0, 4.0, 3.5 | 3 x 200 | 0 | 100 / 100 | 90, 90, 91 | 100 to 102, +1.5 |"
    assert f"| 3 requests | {told}" in soak.page({"3 requests": found})


def test_memory_is_read_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    rested = []
    monkeypatch.setattr(soak.time, "sleep", rested.append)
    monkeypatch.setattr(soak.machine, "resident", lambda pid: 50.0)
    assert soak.at_rest(os.getpid()) >= 50.0 and rested == [soak.REST]


def test_turns_follow_each_other_in_one_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started, asked = [], []

    @contextlib.contextmanager
    def server(bundle: Path) -> Iterator[int]:
        started.append(bundle)
        yield os.getpid()

    def answered(texts: Sequence[str], *_: object) -> dict[str, Any]:
        asked.append(list(texts))
        return load.summary([load.Said(200, 0.1, 1.0, 2.0, 0.0)] * len(texts), 2.0)

    monkeypatch.setattr(soak, "PAGE", tmp_path / "soak.md")
    monkeypatch.setattr(soak, "open_bundle", lambda path: SimpleNamespace(digest="0123456789abcdef"))
    monkeypatch.setattr(soak, "at_rest", lambda pid: 50.0)
    monkeypatch.setattr(load, "server", server)
    monkeypatch.setattr(load, "closed", answered)
    monkeypatch.setattr(sys, "argv", ["soak.py", "voice", "--requests", "3", "--times", "2"])
    assert soak.main() == 0
    assert len(started) == 1
    first, second = (said for said in asked if len(said) == 3)
    assert first != second
    page = (tmp_path / "soak.md").read_text(encoding="utf-8")
    assert [row.split(" | ")[4] for row in page.splitlines() if "turn" in row and row[0] == "|"] == ["3 x 200"] * 2
    assert "turn 1 |" in page and "turn 2 |" in page
