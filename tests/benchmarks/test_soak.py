"""The soak benchmark: what it calls growth, whom it weighs, and its page."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
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
