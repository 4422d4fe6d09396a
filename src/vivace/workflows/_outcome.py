"""What an optimization came to, as the report shows it: rows, attribution, verdict, evidence files."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivace.core.audio import Audio
from vivace.core.bundle import EVIDENCE, Bundle
from vivace.core.report import Measurement, Report
from vivace.workflows import gate
from vivace.workflows._labels import metric
from vivace.workflows._report_tables import megabytes, named
from vivace.workflows.benchmark import Timings, latency_rows, threads_words
from vivace.workflows.clips import Clips, Scores
from vivace.workflows.evaluate import summary, worst
from vivace.workflows.recipe import Recipe, to_toml

SHOWN_CLIPS = 3  # texts whose audio goes into the report


@dataclass
class Variant:
    """A bundle on its way through the gate."""

    id: str
    label: str
    bundle: Bundle
    clips: Clips
    scores: Scores
    kept: bool
    timings: Timings | None = None  # arms: original, parent, child


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    passes = [{"name": e.name, "settings": asdict(e.settings), "objective": e.objective} for e in recipe.passes]
    return {"name": recipe.name, "summary": recipe.summary, "objective": recipe.objective, "passes": passes}


def attribution(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each kept pass's own part of the gain, and the refused ones without any."""
    kept = [t for t in trials if t["kept"]]
    gains = [
        (t["label"], t["speed"][-1]["ratio"]["value"], t["size"]["parent_mb"] - t["size"]["child_mb"]) for t in kept
    ]
    found = iter(shares(gains))
    empty = dict.fromkeys(("speed_factor", "speed_share", "size_saved_mb", "size_share"))
    return [
        next(found) if t["kept"] else {"pass": t["label"], "kept": False, **empty, "note": "refused"} for t in trials
    ]


def imported(bundle: Bundle) -> dict[str, float] | None:
    """MB of the file that a bundle was imported from, and of the optimizer's state in it; None if it held none."""
    saved = bundle.defaults.get("saved") or {}
    if not saved.get("optimizer"):
        return None
    return {"file_mb": saved["file"] / 1e6, "optimizer_mb": saved["optimizer"] / 1e6}


def shares(gains: list[tuple[str, float, float]]) -> list[dict[str, Any]]:
    """(pass, times as fast, MB saved) as shares of the whole: speed in logarithms (factors multiply), size in MB."""
    speed, size = sum(math.log(factor) for _, factor, _ in gains), sum(saved for _, _, saved in gains)
    return [
        {
            "pass": label,
            "kept": True,
            "speed_factor": factor,
            "speed_share": math.log(factor) / speed if abs(speed) > 0.005 else None,
            "size_saved_mb": saved,
            "size_share": saved / size if abs(size) > 0.01 else None,
            "note": "",
        }
        for label, factor, saved in gains
    ]


def row(variant: Variant, first: Timings, peak_mb: float) -> dict[str, Any]:
    """A variant as the report shows it; `first` are timings that hold the original."""
    timings, arm = (first, "original") if variant.timings is None else (variant.timings, "child")
    shown = [(k, variant.clips.texts[k]) for k, _ in sounds(variant)]
    return {
        "id": variant.id,
        "label": variant.label,
        "digest": variant.bundle.digest,
        "kept": variant.kept,
        "size_mb": variant.bundle.size / 1e6,
        "load_s": {"value": timings.load[arm][0], "low": None, "high": None, "n": 1},
        "peak_mb": peak_mb,
        "latency": _on_one_clock(latency_rows(timings, arm, "original"), timings, first),
        "overall": None if variant.timings is None else gate.speed_rows(timings, "original", arm)[-1]["ratio"],
        "scores": summary(variant.scores, variant.clips),
        "worst_decile": worst(variant.scores),
        "clips": [{"text": text, "file": f"audio/{variant.id}-{k}.flac"} for k, text in shown],
    }


def sounds(variant: Variant) -> list[tuple[int, Audio]]:
    """What the report lets people hear; nothing of a model that listens."""
    return [(k, found) for k, found in enumerate(variant.clips.audio[:SHOWN_CLIPS]) if isinstance(found, Audio)]


def _on_one_clock(rows: list[dict[str, Any]], timings: Timings, first: Timings) -> list[dict[str, Any]]:
    """Times of another run, scaled by what the original took there: the ratio is what was measured."""
    for found in rows:
        there, here = (statistics.median(t.whole["original"][found["text"]]) for t in (timings, first))
        found |= {name: found[name] * here / there for name in ("p50_ms", "p95_ms", "ttfa_ms", "rtf")}
    return rows


def verdict(
    first: dict[str, Any], last: dict[str, Any], trials: list[dict[str, Any]], settings: gate.Settings, blind: list[str]
) -> tuple[bool, str]:
    kept = [t["label"] for t in trials if t["kept"]]
    if not kept:
        why = "; ".join(f"{_name(t)}: {t['reasons'][0]}" for t in trials) or "there was nothing to try"
        return False, f"Nothing was kept, the model is as it was ({why})."
    speed = last["overall"]["value"]
    missed = []
    if settings.min_speedup and speed < settings.min_speedup:
        missed.append(f"{speed:.2f}x is below the asked {settings.min_speedup:g}x")
    if settings.max_mb and last["size_mb"] > settings.max_mb:
        missed.append(f"{megabytes(last['size_mb'])} MB is above the asked {settings.max_mb:g} MB")
    what = "candidates" if any(named(t["label"])[1] for t in trials) else "passes"
    told = (
        f"{len(kept)} of {len(trials)} {what} kept: {megabytes(first['size_mb'])} -> {megabytes(last['size_mb'])} MB, "
        f"{speed:.2f}x as fast at {threads_words(settings.threads)}"
    )
    if "predicted_mos" in last["scores"]:
        told += (
            f", predicted MOS {first['scores']['predicted_mos']['value']:.2f} -> "
            f"{last['scores']['predicted_mos']['value']:.2f}"
        )
    if "accuracy" in last["scores"]:
        before, after = (row["scores"]["accuracy"]["value"] for row in (first, last))
        told += f", accuracy {100 * before:.2f}% -> {100 * after:.2f}%"
    return not missed and not blind, told + (f". Budget not met: {'; '.join(missed)}." if missed else ".")


def _name(trial: dict[str, Any]) -> str:
    name, words = named(trial["label"])
    return name if words else str(trial["pass"])


def measurements(row: dict[str, Any]) -> tuple[Measurement, ...]:
    found = [
        Measurement("size", row["size_mb"], "MB", "down"),
        Measurement("peak_memory", row["peak_mb"], "MB", "down"),
    ]
    for r in row["latency"]:
        scope, up = f"{r['text']} text, {threads_words(r['threads'])}", r["speedup"]
        found.append(Measurement("latency_p50", r["p50_ms"], "ms", "down", r["n"], scope=scope))
        found.append(Measurement("speedup", up["value"], "x", "up", r["n"], up["low"], up["high"], scope))
    for name, s in row["scores"].items():
        module = metric(name)
        found.append(Measurement(name, s["value"], module.UNIT, module.BETTER, s["n"], s["low"], s["high"]))
    return tuple(found)


def evidence(folder: Path, report: Report, variants: list[Variant], recipe: Recipe) -> None:
    import soundfile

    from vivace.workflows.report import write_report

    target = folder / EVIDENCE
    target.mkdir(parents=True)
    for variant in variants:
        for k, audio in sounds(variant):  # none of a model that listens
            (target / "audio").mkdir(exist_ok=True)
            soundfile.write(target / "audio" / f"{variant.id}-{k}.flac", audio.samples, audio.rate, subtype="PCM_16")
    (target / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    write_report(report, target)
