"""The benchmark runs through with a tiny model, after it has seen that all arms speak alike."""

from __future__ import annotations

import pytest

import speecht5


def test_quick_runs_through(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert speecht5.main(["--quick", "--threads", "1", "--arms", "fp32", "int8"]) == 0
    said = capsys.readouterr().out
    assert said.count("| Vivace, fp32 | 1 |") == 3
    assert "differ by" in said
    assert "8 requests at once, of 20 to 110 characters" in said
