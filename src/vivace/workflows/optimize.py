"""Applies a recipe pass by pass; every pass goes through the gate, and what it does not prove is not kept.

Resumable: every bundle, clip, score and timing is kept in a work folder beside the result until the end.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vivace.core import machine, registry
from vivace.core.bundle import EVIDENCE, Bundle, open_bundle
from vivace.core.contracts import Context, Progress
from vivace.core.errors import BundleError, UsageError, VivaceError
from vivace.core.report import Measurement, Report
from vivace.workflows import gate, texts
from vivace.workflows._memory import peak_memory
from vivace.workflows.benchmark import Timings, latency_rows, measure
from vivace.workflows.calibration import record
from vivace.workflows.clips import Clips, Scores, Store, scored, spoken
from vivace.workflows.evaluate import summary, worst
from vivace.workflows.recipe import Entry, Recipe

CALIBRATION_TEXTS = 32
SHOWN_CLIPS = 3  # texts whose audio goes into the report


@dataclass(frozen=True)
class Result:
    """`bundle` is the last one kept (the original if none was), written with its evidence; `met` says whether
    the asked-for budget was."""

    bundle: Bundle
    report: Report
    met: bool


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


@dataclass
class Run:
    """What all steps of one optimization share."""

    settings: gate.Settings
    metrics: tuple[str, ...]
    sentences: list[str]
    work: Path
    store: Store
    progress: Progress
    latency: dict[str, str]
    calibration_texts: list[str]
    recorded: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def calibration(self, bundle: Bundle, stage: str) -> list[dict[str, Any]]:
        if bundle.digest not in self.recorded:
            self.recorded = {bundle.digest: record(bundle, self.calibration_texts, progress=self.progress)}
        return self.recorded[bundle.digest][stage]


def optimize(
    bundle: Bundle,
    out: Path,
    recipe: Recipe,
    settings: gate.Settings | None = None,
    *,
    metrics: Sequence[str] = (),
    evaluation: Sequence[str] = (),
    calibration: Sequence[str] = (),
    latency: dict[str, str] | None = None,
    overwrite: bool = False,
    keep_work: bool = False,
    command: str = "",
    progress: Progress = lambda message, share: None,
) -> Result:
    """Optimizes `bundle` by `recipe` into `out`.

    `evaluation` and `calibration` texts default to the built-in sets, which are disjoint; `metrics` to all.
    Raises UsageError for texts that serve both, BundleError if `out` exists or cannot be written.
    """
    settings = settings or gate.Settings()
    out = Path(out)
    if out.exists() and not overwrite:
        raise BundleError(f"{out} exists; choose another name or pass --force")
    sentences = list(evaluation)[: settings.texts] or texts.evaluation(settings.texts)
    calibration_texts = list(calibration) or texts.calibration(CALIBRATION_TEXTS)
    if set(sentences) & set(calibration_texts):
        raise UsageError("a text is both for calibration and for evaluation; quality must be judged on unseen text")
    work = out.with_name(f".{out.name}.work")
    begun = time.perf_counter()
    steps = _Steps(progress, len(recipe.passes))
    names = tuple(metrics) or tuple(registry.names("metrics"))
    run = Run(settings, names, sentences, work, Store(work), steps.inner, latency or texts.latency(), calibration_texts)
    original = _original(run, bundle)
    steps.done("original")
    floor, sensitivity, blind = _trust(run, original)
    steps.done("trust")
    variants, trials, parent = [original], [], original
    for number, entry in enumerate(recipe.passes, 1):
        steps.name = f"pass {number}/{len(recipe.passes)} {entry.name}"
        trial, child = _trial(run, original, parent, entry, number, blind)
        trials.append(trial)
        if child:
            variants.append(child)
            parent = child if child.kept else parent
        steps.done("pass")
    steps.name = "final comparison"
    details: dict[str, Any] = {
        "command": command,
        "texts": {"evaluation": len(sentences), "source": "given" if evaluation else "built in"},
        "recipe": {
            "name": recipe.name,
            "summary": recipe.summary,
            "objective": recipe.objective,
            "passes": [
                {"name": e.name, "settings": asdict(e.settings), "objective": e.objective} for e in recipe.passes
            ],
        },
        "budget": {"speed": settings.min_speedup or None, "size_mb": settings.max_mb or None},
        "margins": {n: {"margin": r.margin, "rule": r.words} for n, r in gate.rules(settings, names).items()},
        "trials": trials,
        "noise_floor": floor,
        "sensitivity": sensitivity,
        "attribution": _attribution(trials),
        "final": parent.id,
    }
    rows = {v.id: _row(run, v) for v in variants}
    met, verdict = _verdict(rows[original.id], rows[parent.id], trials, settings, blind)
    details |= {
        "variants": list(rows.values()),
        "budget_met": met,
        "verdict": verdict,
        "seconds": time.perf_counter() - begun,
    }
    report = Report(
        "optimize",
        _measurements(rows[parent.id]),
        bundles={"original": bundle.digest, "final": parent.bundle.digest},
        machine=machine.describe(),
        settings=asdict(settings) | {"metrics": list(names)},
        details=details,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    steps.inner("writing the report", 0.5)
    final = parent.bundle.derive(out, None, lambda folder: _evidence(folder, report, variants), overwrite=overwrite)
    if not keep_work:
        shutil.rmtree(work, ignore_errors=True)
    progress("done", 1.0)
    return Result(final, report, met)


COST = {"original": 2.0, "trust": 3.0, "pass": 4.0, "end": 1.0}  # of the steps, relative


class _Steps:
    """Turns the progress of a step into that of the whole, by what each kind of step usually costs."""

    def __init__(self, progress: Progress, passes: int) -> None:
        self._progress = progress
        self._total = COST["original"] + COST["trust"] + COST["pass"] * passes + COST["end"]
        self._behind = 0.0
        self._best = 0.0
        self.name = "original"
        self._cost = COST["original"]

    def inner(self, message: str, share: float) -> None:
        # A step reports several rounds of 0 to 1: the bar never goes back.
        self._best = max(self._best, (self._behind + self._cost * 0.9 * share * 0.5) / self._total)
        self._progress(f"{self.name}: {message}", self._best)

    def done(self, kind: str) -> None:
        self._behind += COST[kind]
        self._cost = COST["trust" if kind == "original" else "pass"]
        self.name = {"original": "noise floor and sensitivity", "trust": "passes"}.get(kind, self.name)
        self._best = max(self._best, self._behind / self._total)
        self._progress(self.name, self._best)


def _original(run: Run, bundle: Bundle) -> Variant:
    clips = spoken(bundle, run.sentences, seed=run.settings.seed, store=run.store, progress=run.progress)
    scores = scored(clips, run.metrics, reference=clips, store=run.store, progress=run.progress)
    return Variant("v0", "original", bundle, clips, scores, kept=True)


def _trust(run: Run, original: Variant) -> tuple[list[Any], list[Any], list[str]]:
    """(noise floor, sensitivity proof, damages that the gate did not see)."""
    allowed = gate.rules(run.settings, run.metrics)
    count = min(run.settings.damage_texts, len(run.sentences))
    few = original.clips.head(count)
    before = {name: values[:count] for name, values in original.scores.items()}
    other = spoken(original.bundle, few.texts, seed=run.settings.seed + 1, store=run.store, progress=run.progress)
    again = scored(other, run.metrics, reference=few, store=run.store, progress=run.progress)
    floor = gate.compare(before, again, few.texts, allowed)[0]
    proofs, blind = [], []
    for name in gate.DAMAGES:
        clips = gate.damaged(few, name, count)
        scores = scored(clips, run.metrics, reference=few, store=run.store, progress=run.progress)
        rows, reasons = gate.compare(before, scores, few.texts, allowed)
        seen = [row["metric"] for row in rows if row["ok"] is False]
        missed = [row["metric"] for row in rows if row["ok"]]
        proofs.append({"damage": name, "refused": bool(reasons), "seen_by": seen, "missed_by": missed, "quality": rows})
        if not reasons:
            blind.append(name)
    return floor, proofs, blind


def _trial(
    run: Run, original: Variant, parent: Variant, entry: Entry, number: int, blind: list[str]
) -> tuple[dict[str, Any], Variant | None]:
    """Applies one pass and judges it. The second value is None if there is no child to judge."""
    begun = time.perf_counter()
    trial: dict[str, Any] = {
        "pass": entry.name,
        "label": entry.label,
        "settings": asdict(entry.settings),
        "objective": entry.objective,
        "parent": parent.id,
        "child": None,
        "kept": False,
        "speed": [],
        "size": None,
        "quality": [],
    }

    def ended(reasons: list[str], child: Variant | None = None) -> tuple[dict[str, Any], Variant | None]:
        return trial | {"reasons": reasons, "seconds": time.perf_counter() - begun}, child

    try:
        candidate = _apply(run, parent.bundle, entry, number)
        clips = spoken(candidate, run.sentences, seed=run.settings.seed, store=run.store, progress=run.progress)
        scores = scored(clips, run.metrics, reference=original.clips, store=run.store, progress=run.progress)
    except UsageError:
        raise
    except VivaceError as error:
        return ended([f"could not be applied: {error}"])
    child = Variant(f"v{number}", f"+ {entry.label}", candidate, clips, scores, kept=False)
    arms = {"original": original.bundle, "parent": parent.bundle, "child": candidate}
    timings = _timed(run, arms, f"timing {number}")
    child.timings = timings
    trial["child"] = child.id
    # The parent's scores against itself are not asked: both are judged against the original's clips.
    reference_scores = parent.scores
    trial["quality"], reasons = gate.compare(
        reference_scores, scores, clips.texts, gate.rules(run.settings, run.metrics)
    )
    if parent is not original:  # small losses must not add up unseen
        total = gate.compare(original.scores, scores, clips.texts, gate.rules(run.settings, run.metrics))[1]
        reasons += [f"against the original: {reason}" for reason in total if reason not in reasons]
    sizes = (parent.bundle.size / 1e6, candidate.size / 1e6)
    trial["size"] = {"parent_mb": sizes[0], "child_mb": sizes[1], "ok": sizes[1] < sizes[0]}
    if entry.objective == "size":
        trial["speed"], against = gate.not_slower(timings, "parent", "child", run.settings.slower_margin)
        if not trial["size"]["ok"]:
            against.append(f"not smaller: {sizes[0]:.1f} -> {sizes[1]:.1f} MB")
    else:
        trial["speed"], against = gate.faster(timings, "parent", "child")
    reasons = against + reasons + [f"the gate did not see a planted damage: {name}" for name in blind]
    child.kept = not reasons
    trial["kept"] = child.kept
    return ended(reasons, child)


def _apply(run: Run, bundle: Bundle, entry: Entry, number: int) -> Bundle:
    module = registry.load("passes", entry.name)
    folder = run.work / f"{number:02d}-{entry.name}-{bundle.digest[:12]}"
    if folder.exists():
        try:
            made = open_bundle(folder)
            if made.history and dict(made.history[-1].settings) == _plain(asdict(entry.settings)):
                return made
        except BundleError:
            pass  # a damaged leftover of an earlier run is made again
        shutil.rmtree(folder)
    context = Context(lambda stage: run.calibration(bundle, stage), run.progress, machine.cores())
    applied: Bundle = module.apply(bundle, folder, entry.settings, context)
    return applied


def _plain(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))


def _timed(run: Run, arms: dict[str, Bundle], name: str) -> Timings:
    key = f"{name} {[b.digest for b in arms.values()]} {run.settings.rounds} {run.settings.threads} {run.latency}"
    unique: dict[str, str] = {}  # digest -> arm: a parent that is the original is not timed twice
    for arm, bundle in arms.items():
        unique.setdefault(bundle.digest, arm)

    def compute() -> dict[str, Any]:
        found = measure(
            {arm: arms[arm] for arm in unique.values()},
            threads=run.settings.threads,
            rounds=run.settings.rounds,
            spoken_texts=run.latency,
            progress=run.progress,
        )
        return asdict(found)

    timings = Timings(**run.store.json(key, compute))
    for arm, bundle in arms.items():
        twin = unique[bundle.digest]
        timings.whole[arm], timings.first[arm] = timings.whole[twin], timings.first[twin]
        timings.audio[arm], timings.load[arm] = timings.audio[twin], timings.load[twin]
    return timings


def _attribution(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each kept pass's own part of the gain: speed in logarithms (factors multiply), size in megabytes."""
    kept = [t for t in trials if t["kept"]]
    factors = {id(t): t["speed"][-1]["ratio"]["value"] for t in kept}
    saved = {id(t): t["size"]["parent_mb"] - t["size"]["child_mb"] for t in kept}
    speed, size = sum(math.log(f) for f in factors.values()), sum(saved.values())
    return [
        {
            "pass": t["label"],
            "kept": t["kept"],
            "speed_factor": factors[id(t)] if t["kept"] else None,
            "speed_share": math.log(factors[id(t)]) / speed if t["kept"] and abs(speed) > 0.005 else None,
            "size_saved_mb": saved[id(t)] if t["kept"] else None,
            "size_share": saved[id(t)] / size if t["kept"] and abs(size) > 0.01 else None,
            "note": "" if t["kept"] else "refused",
        }
        for t in trials
    ]


def _row(run: Run, variant: Variant) -> dict[str, Any]:
    """A variant as the report shows it."""
    if variant.timings is None:  # the original, beside nothing but itself
        timings = _timed(run, {"original": variant.bundle}, "timing original")
        latency = latency_rows(timings, "original", "original")
        load = timings.load["original"][0]
    else:
        latency = latency_rows(variant.timings, "child", "original")
        load = variant.timings.load["child"][0]

    def memory() -> float:
        return peak_memory(variant.bundle, run.latency["long"], run.settings.threads)[1]

    shown = enumerate(variant.clips.texts[:SHOWN_CLIPS])
    return {
        "id": variant.id,
        "label": variant.label,
        "digest": variant.bundle.digest,
        "kept": variant.kept,
        "size_mb": variant.bundle.size / 1e6,
        "load_s": {"value": load, "low": None, "high": None, "n": 1},
        "peak_mb": run.store.json(f"memory {variant.bundle.digest} {run.settings.threads}", memory),
        "latency": latency,
        "overall": None
        if variant.timings is None
        else gate.faster(variant.timings, "original", "child")[0][-1]["ratio"],
        "scores": summary(variant.scores, variant.clips),
        "worst_decile": worst(variant.scores),
        "clips": [{"text": text, "file": f"audio/{variant.id}-{k}.flac"} for k, text in shown],
    }


def _verdict(
    first: dict[str, Any], last: dict[str, Any], trials: list[dict[str, Any]], settings: gate.Settings, blind: list[str]
) -> tuple[bool, str]:
    kept = [t["label"] for t in trials if t["kept"]]
    if not kept:
        why = "; ".join(f"{t['pass']}: {t['reasons'][0]}" for t in trials)
        return False, f"Nothing was kept, the voice is as it was ({why})."
    speed = last["overall"]["value"]
    missed = []
    if settings.min_speedup and speed < settings.min_speedup:
        missed.append(f"{speed:.2f}x is below the asked {settings.min_speedup:g}x")
    if settings.max_mb and last["size_mb"] > settings.max_mb:
        missed.append(f"{last['size_mb']:.1f} MB is above the asked {settings.max_mb:g} MB")
    told = (
        f"{len(kept)} of {len(trials)} passes kept: {first['size_mb']:.1f} -> {last['size_mb']:.1f} MB, "
        f"{speed:.2f}x as fast at {settings.threads} thread{'s' * (settings.threads != 1)}"
    )
    if "predicted_mos" in last["scores"]:
        told += (
            f", predicted MOS {first['scores']['predicted_mos']['value']:.2f} -> "
            f"{last['scores']['predicted_mos']['value']:.2f}"
        )
    return not missed and not blind, told + (f". Budget not met: {'; '.join(missed)}." if missed else ".")


def _measurements(row: dict[str, Any]) -> tuple[Measurement, ...]:
    found = [
        Measurement("size", row["size_mb"], "MB", "down"),
        Measurement("peak_memory", row["peak_mb"], "MB", "down"),
    ]
    for r in row["latency"]:
        scope, up = f"{r['text']} text, {r['threads']} threads", r["speedup"]
        found.append(Measurement("latency_p50", r["p50_ms"], "ms", "down", r["n"], scope=scope))
        found.append(Measurement("speedup", up["value"], "x", "up", r["n"], up["low"], up["high"], scope))
    for name, s in row["scores"].items():
        module = registry.load("metrics", name)
        found.append(Measurement(name, s["value"], module.UNIT, module.BETTER, s["n"], s["low"], s["high"]))
    return tuple(found)


def _evidence(folder: Path, report: Report, variants: list[Variant]) -> None:
    import soundfile

    from vivace.workflows.report import write_report

    evidence = folder / EVIDENCE
    (evidence / "audio").mkdir(parents=True)
    for variant in variants:
        for k, audio in enumerate(variant.clips.audio[:SHOWN_CLIPS]):
            soundfile.write(evidence / "audio" / f"{variant.id}-{k}.flac", audio.samples, audio.rate, subtype="PCM_16")
    write_report(report, evidence)
