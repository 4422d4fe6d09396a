"""Only evidence of the gate, about this very bundle, lets a variant jump the chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from vivace.core.bundle import open_bundle
from vivace.core.errors import UsageError
from vivace.core.report import Report
from vivace.server.service import Service, Settings
from vivace.server.shedding import fastest, proven_speed


def prove(folder: Path, speed: float, **changes: Any) -> Path:
    digest = changes.get("digest", open_bundle(folder).digest)
    variants = [
        {"id": "v0", "digest": "x", "overall": None},
        {"id": "v1", "digest": digest, "overall": {"value": speed}},
    ]
    report = Report(
        changes.get("kind", "optimize"), (), details={"variants": variants, "final": changes.get("final", "v1")}
    )
    (folder / "evidence").mkdir(exist_ok=True)
    (folder / "evidence" / "report.json").write_text(report.to_json(), encoding="utf-8")
    return folder


def test_the_fastest_by_evidence(make_variant: Callable[..., Path]) -> None:
    folders = [make_variant("none"), prove(make_variant("slow"), 1.2), prove(make_variant("fast"), 1.9)]
    assert fastest("toy", [open_bundle(folder, verify=False) for folder in folders]) == 2


@pytest.mark.parametrize("change", [{"digest": "another"}, {"kind": "evaluate"}, {"final": "v0"}, {"final": "v9"}])
def test_evidence_of_something_else_is_none(make_variant: Callable[..., Path], change: dict[str, str]) -> None:
    assert proven_speed(open_bundle(prove(make_variant("fast"), 1.9, **change), verify=False)) == 0


def test_without_evidence_nothing_is_shed(make_variant: Callable[..., Path]) -> None:
    folder = make_variant("one")
    with pytest.raises(UsageError, match="no variant of toy has passed the gate"):
        Service(Settings({"toy": [folder]}, shed_above=4))
    (folder / "evidence").mkdir()
    (folder / "evidence" / "report.json").write_text("{", encoding="utf-8")
    assert proven_speed(open_bundle(folder, verify=False)) == 0
