"""The Python blocks of the pages on metrics run, and the example of a new metric keeps the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core import registry
from vivace.core.audio import Audio

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, "example", "exec"), names)
    return names


def test_the_page_on_metrics_runs_and_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("metrics.md"):
        run(block)
    assert capsys.readouterr().out.endswith(" dB\n")
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in registry.names("metrics") if f"`{name}`" not in page] == []


def test_the_example_of_a_new_metric_keeps_the_contract() -> None:
    (block,) = blocks("adding-a-metric.md")
    metric = run(block)
    assert metric["BETTER"] in ("up", "down", "none")
    assert metric["NEEDS"] <= {"text", "reference"}
    tone = np.sin(np.arange(22000) * 0.1).astype(np.float32)
    full, clipped = (metric["score"](Audio(x, 22050), "", None) for x in (tone, np.clip(tone, -0.3, 0.3)))
    assert full == pytest.approx(3.01, abs=0.02)
    assert clipped < full
    with pytest.raises(ValueError, match="audio"):
        metric["score"](Audio(tone[:0], 22050), "", None)
