"""Under pressure the fastest variant speaks first: one whose evidence says that its quality passed the gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.errors import UsageError
from vivace.core.report import Report


def proven_speed(bundle: Bundle) -> float:
    """How many times as fast as its original the bundle was measured, 0 if no evidence of the gate is about it."""
    try:
        report = Report.from_json((bundle.path / "evidence" / "report.json").read_text(encoding="utf-8"))
        details: Any = report.details
        final = next(v for v in details["variants"] if v["id"] == details["final"])
        about = report.kind == "optimize" and final["digest"] == bundle.digest and final["overall"]
        return float(final["overall"]["value"]) if about else 0.0
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return 0.0


def fastest(name: str, bundles: Sequence[Bundle]) -> int:
    """Which of a model's bundles is the fastest by its evidence. Raises UsageError if none has any."""
    speeds = [proven_speed(bundle) for bundle in bundles]
    if not any(speeds):
        raise UsageError(
            f"no variant of {name} has passed the gate; --shed-above needs one that `vivace optimize` has written"
        )
    return speeds.index(max(speeds))
