"""The page of the spoken commands: figures with their intervals, and which step each gain came from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivace.workflows import stats


def write_page(found: dict[str, Any], path: Path) -> str:
    """Writes the page, and `found` as JSON beside it; returns the page."""
    import json

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
        *_table(("model", "accuracy", "95% interval, by speaker"), _accuracy(found["accuracy"])),
        "",
        *_change(found["accuracy"]["ONNX, INT8"]),
        "",
        "## Size, and what it comes from",
        "",
        *_table(("step", "MB", "times smaller than before"), _sizes(found["sizes"])),
        "",
        "## Time of a run, features made before",
        "",
    ]
    for batch in ("1", "32"):
        lines += [f"### Batch {batch}", "", *_times(found["seconds"][batch]), ""]
    lines += [f"{arm}: not measured ({why})." for arm, why in found["seconds"]["missing"].items()]
    lines += ["", "## What the gate said", ""]
    lines += [
        f"- {t['pass']}: {'kept' if t['kept'] else 'refused: ' + '; '.join(t['reasons'])}" for t in found["trials"]
    ]
    if not found["int8_kept"]:
        lines += ["", "No INT8 was kept. The rows named INT8 show the static one that was refused."]
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return text


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]


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


def _sizes(found: dict[str, int]) -> list[list[str]]:
    names = {
        "saved": "Keras file, optimizer state within",
        "without optimizer": "optimizer state left out",
        "fp32": "format: ONNX, fp32",
        "int8": "INT8",
    }
    rows, before = [], 0
    for key, name in names.items():
        size = found[key]
        rows.append([name, f"{size / 1e6:.2f}", f"{before / size:.2f}" if before else "–"])
        before = size
    whole = found["int8"] / found["saved"]
    return [*rows, ["altogether", f"{100 * whole:.1f}% of the file", f"{1 / whole:.2f}"]]


def _times(seconds: dict[str, list[float]]) -> list[str]:
    last = list(seconds)[-1]
    rows, before = [], ""
    for name, runs in seconds.items():
        step = stats.median_ratio(seconds[before], runs) if before else None
        whole = stats.median_ratio(runs, seconds[last])
        rows.append(
            [
                name,
                f"{1000 * statistics.median(runs):.2f}",
                f"{step.mean:.2f} ({step.low:.2f} to {step.high:.2f})" if step else "–",
                f"{whole.mean:.2f} ({whole.low:.2f} to {whole.high:.2f})" if name != last else "–",
            ]
        )
        before = name
    return _table(("arm", "median ms", "times as fast as the row above", "times slower than INT8"), rows)
