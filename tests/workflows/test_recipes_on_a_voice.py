"""The shipped recipes on a real voice, without the gate: that every pattern in them still meets its layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vivace
from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.workflows import recipe
from vivace.workflows.calibration import record

TEXTS = ["The tide turned before noon.", "Bring three lemons and a knife."]


def applied(bundle: Bundle, name: str, folder: Path) -> Bundle:
    for number, entry in enumerate(recipe.load(name).passes):
        parent = bundle
        context = Context(lambda stage, parent=parent: record(parent, TEXTS)[stage])  # type: ignore[misc]
        bundle = registry.load("passes", entry.name).apply(parent, folder / str(number), entry.settings, context)
    return bundle


@pytest.mark.voice
@pytest.mark.parametrize(
    ("name", "megabytes", "labels"),
    [
        ("usual", 19, ("int8", "int8", "mixed int8")),
        ("balanced", 39, ("fp32", "int8", "mixed int8")),
        ("small", 17, ("fp32, int8 weights", "int8", "mixed int8, int8 weights")),
    ],
)
def test_a_recipe(real_voice: Bundle, tmp_path: Path, name: str, megabytes: int, labels: tuple[str, ...]) -> None:
    child = applied(real_voice, name, tmp_path)
    assert child.size < megabytes * 1e6 < real_voice.size
    assert tuple(stage.precision for stage in child.stages) == labels
    before, after = (vivace.synthesize(b, "One clear sentence.", seed=3).samples for b in (real_voice, child))
    assert len(after) == pytest.approx(len(before), rel=0.05)
    assert np.sqrt(np.mean(after**2)) == pytest.approx(np.sqrt(np.mean(before**2)), rel=0.1)
    assert vivace.export(child, tmp_path / "voices")[0].stat().st_size < megabytes * 1e6
