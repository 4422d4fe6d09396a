"""The page of the spoken commands: figures with their intervals, and which step each gain came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_steps import gate_said, size_table, table, time_table, written


def write_page(found: dict[str, Any], path: Path) -> str:
    """Writes the page, and `found` as JSON beside it; returns the page."""
    facts = found["machine"]
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    lines = [
        "# Spoken commands: a Keras classifier to INT8",
        "",
        "Written by `examples/spoken_commands/run.py`. Speakers and speeds of the test are not in the training set.",
        "",
        f"{found['created']}; {facts['cpu']}, {facts['cores']} cores, Python {facts['python']}; {settings}.",
        "",
        f"## Accuracy on {found['test_clips']:,} held-out clips",
        "",
        *table(("model", "accuracy", "95% interval, by speaker"), _accuracy(found["accuracy"])),
        "",
        *_change(found["accuracy"]["ONNX, INT8"]),
        "",
        "## Size, and what it comes from",
        "",
        *size_table(found["sizes"], "MB", 1_000_000),
        "",
        "## Time of a run, features made before",
        "",
    ]
    for batch in ("1", "32"):
        lines += [f"### Batch {batch}", "", *time_table(found["seconds"][batch]), ""]
    lines += [f"{arm}: not measured ({why})." for arm, why in found["seconds"]["missing"].items()]
    lines += ["", *gate_said(found)]
    return written(lines, found, path)


def _accuracy(found: dict[str, Any]) -> list[list[str]]:
    return [
        [name, f"{100 * a['value']:.2f}%", f"{100 * a['low']:.2f} to {100 * a['high']:.2f}"]
        for name, a in ((name, one["accuracy"]) for name, one in found.items())
    ]


def _change(int8: dict[str, Any]) -> list[str]:
    moved, test = int8["accuracy_change"], int8["mcnemar"]
    return [
        f"INT8 against fp32, the same clips: {100 * moved['value']:+.2f} points "
        f"({100 * moved['low']:+.2f} to {100 * moved['high']:+.2f}); {test['only_child_right']} clips only now right, "
        f"{test['only_parent_right']} no longer (McNemar p = {test['p']:.2g})."
    ]
