"""What is printed: figures on the right, words on the left, and a share that never goes back."""

from __future__ import annotations

import argparse

import pytest

from vivace.cli import _common


def test_figures_are_right_aligned_and_words_left(capsys: pytest.CaptureFixture[str]) -> None:
    _common.table("T", ["name", "size", "meaning"], [["a", "1.5", "short"], ["b", "12.25", "somewhat longer"]])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [row.strip("│").split("│") for row in rows]
    assert cells[0][1].endswith(" 1.5 ") and cells[1][1].endswith(" 12.25 ")
    assert cells[0][2].startswith(" short ") and cells[1][2].startswith(" somewhat longer")


def test_progress_never_goes_back(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(_common.time, "monotonic", lambda: next(now))
    with _common.progress(argparse.Namespace(quiet=False)) as tell:
        tell("first part", 0.6)
        tell("second part", 0.1)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition("%")[0] for line in told] == ["[ 60", "[ 60"]
    assert told[1].endswith("second part")
