"""What every gated workflow shares: the settings and store of a run, trials judged against their parent and the
original, and the result with its evidence.

Resumable: every bundle, clip, score and timing is kept in a work folder beside the result until the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vivace.core import machine, registry
from vivace.core.bundle import Bundle, check_free, open_bundle
from vivace.core.contracts import Context, Progress
from vivace.core.errors import BundleError, UsageError, VivaceError
from vivace.core.report import Report
from vivace.workflows import _outcome, gate, texts
from vivace.workflows._outcome import Variant
from vivace.workflows._plan import Plan
from vivace.workflows._report_tables import megabytes
from vivace.workflows._task import Speech, Task
from vivace.workflows.benchmark import Timings
from vivace.workflows.clips import Clips, Scores, Store
from vivace.workflows.recipe import Entry, Recipe

# Rough seconds, by which the progress bar shares itself out.
SPEAK_COST, SCORE_COST, ROUND_COST, APPLY_COST = 0.3, 0.9, 2.0, 20.0


@dataclass(frozen=True)
class Result:
    """`bundle` is the last one kept (the original if none was), written with its evidence; `met` says whether
    the asked-for budget was."""

    bundle: Bundle
    report: Report
    met: bool


@dataclass
class Run:
    """What all steps of one optimization share."""

    settings: gate.Settings
    metrics: tuple[str, ...]
    sentences: list[str]
    calibration_texts: list[str]
    work: Path
    store: Store
    plan: Plan
    task: Task
    custom: Sequence[str] = ()
    resumed: bool = False  # goes on with the work of an interrupted one
    begun: float = field(default_factory=time.perf_counter)
    recorded: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def speak(self, bundle: Bundle, what: str, sentences: Sequence[str], seed: int) -> Clips:
        tell = self.plan.phase(what, SPEAK_COST * len(sentences))
        return self.task.answers(bundle, sentences, seed, self.store, tell)

    def score(self, clips: Clips, what: str, reference: Clips) -> Scores:
        tell = self.plan.phase(what, SCORE_COST * len(clips.texts))
        return self.task.scores(clips, self.metrics, reference, self.store, tell)

    @property
    def latency(self) -> dict[str, str]:
        return self.task.latency

    def rules(self) -> dict[str, gate.Rule]:
        return gate.rules(self.settings, self.metrics)

    def calibration(self, bundle: Bundle, stage: str) -> list[dict[str, Any]]:
        if bundle.digest not in self.recorded:
            self.recorded = {bundle.digest: self.task.record(bundle, self.calibration_texts)}
        return self.recorded[bundle.digest][stage]


def check_output(bundle: Bundle, out: Path, overwrite: bool) -> None:
    """Raises BundleError if `out` may not be written, before anything is measured."""
    if out.resolve() == bundle.path.resolve():
        raise BundleError(f"{out} is the model itself, which stays as it is; choose another name")
    check_free(out, overwrite)


def check_stages(bundle: Bundle, recipe: Recipe) -> None:
    """Raises UsageError for a stage that the bundle does not have, and for a pass, if it is the only one, that has no
    work in this bundle, before anything is measured."""
    known = [stage.name for stage in bundle.stages]
    for entry in recipe.passes:
        for name in getattr(entry.settings, "stages", ()):
            if name not in known:
                raise UsageError(f"{entry.name}: the model has no stage {name!r}; it has {', '.join(known)}")
    if len(recipe.passes) == 1:
        module = registry.load("passes", entry.name)
        reasons = {stage.name: module.accepts(stage, entry.settings) for stage in bundle.stages}
        if all(reasons.values()):
            told = "; ".join(f"{stage}: {reason}" for stage, reason in reasons.items())
            raise UsageError(f"{entry.name} has nothing to do: {told}")


def prepare(
    out: Path,
    steps: int,
    settings: gate.Settings,
    progress: Progress,
    *,
    metrics: Sequence[str] = (),
    evaluation: Sequence[str] = (),
    calibration: Sequence[str] = (),
    latency: dict[str, str] | None = None,
    store: Store | None = None,
    before: float = 0.0,
    task: Task | None = None,
    custom: Sequence[str] = (),
) -> Run:
    """A run of about `steps` trials, after `before` seconds of other work. Raises UsageError for texts that serve
    both calibration and evaluation, and for an unknown metric."""
    asked: Task = task or Speech(evaluation, calibration, latency or texts.latency())
    sentences, calibration_texts = asked.items(settings.texts), asked.calibration_items()
    if len(sentences) < gate.LEAST["texts"]:
        raise UsageError(f"there is {len(sentences)} evaluation text; the gate needs at least {gate.LEAST['texts']}")
    if set(sentences) & set(calibration_texts):
        raise UsageError("a text is both for calibration and for evaluation; quality must be judged on unseen text")
    names = asked.metrics(metrics)
    clip = SPEAK_COST + SCORE_COST
    judged = clip * len(sentences)
    damaged = min(settings.damage_texts, len(sentences))
    trust = (SPEAK_COST + SCORE_COST * (1 + len(asked.damages))) * damaged
    each = APPLY_COST + judged + 3 * ROUND_COST * settings.rounds
    plan = Plan(progress, judged + trust + each * steps + 5.0 + before)
    work = work_folder(out)
    store = store or Store(work)
    return Run(settings, names, sentences, calibration_texts, work, store, plan, asked, custom, resumed=work.exists())


def work_folder(out: Path) -> Path:
    """Where a run into `out` keeps its work until the end. If it is there before, the run goes on with it."""
    return out.with_name(f".{out.name}.work")


def original(run: Run, bundle: Bundle) -> Variant:
    clips = run.speak(bundle, "original", run.sentences, run.settings.seed)
    return Variant("v0", "original", bundle, clips, run.score(clips, "original", clips), kept=True)


def trust(run: Run, original: Variant) -> tuple[list[Any], list[Any], list[str]]:
    """(noise floor, sensitivity proof, damages that the gate did not see)."""
    count = min(run.settings.damage_texts, len(run.sentences))
    few = original.clips.head(count)
    before = {name: values[:count] for name, values in original.scores.items()}
    other = run.speak(original.bundle, "noise floor", few.texts, run.settings.seed + 1)
    floor = gate.compare(before, run.score(other, "noise floor", few), few.texts, run.rules(), few.groups)[0]
    proofs, blind = [], []
    for name in run.task.damages:
        after = run.score(run.task.damaged(few, name, count), "sensitivity proof", few)
        rows, reasons = gate.compare(before, after, few.texts, run.rules(), few.groups)
        seen = [row["metric"] for row in rows if row["ok"] is False]
        missed = [row["metric"] for row in rows if row["ok"]]
        proofs.append({"damage": name, "refused": bool(reasons), "seen_by": seen, "missed_by": missed, "quality": rows})
        if not reasons:
            blind.append(name)
    return floor, proofs, blind


def trial(
    run: Run, first: Variant, parent: Variant, entries: Sequence[Entry], number: int, blind: list[str], label: str = ""
) -> tuple[dict[str, Any], Variant | None]:
    """Applies passes one after the other and judges what they came to as one; `first` is the original.

    The second value is None if there is no child to judge.
    """
    begun = time.perf_counter()
    label = label or entries[0].label
    what = f"pass {number} {label.split(' ')[0]}"
    objective = "size" if any(entry.objective == "size" for entry in entries) else "speed"
    found: dict[str, Any] = {
        "pass": "+".join(entry.name for entry in entries),
        "label": label,
        "settings": asdict(entries[0].settings) if len(entries) == 1 else {"passes": [e.label for e in entries]},
        "objective": objective,
        "parent": parent.id,
        "child": None,
        "kept": False,
        "reasons": [],
        "speed": [],
        "size": None,
        "quality": [],
    }
    try:
        candidate = parent.bundle
        for entry in entries:
            candidate = apply(run, candidate, entry, number)
        clips = run.speak(candidate, what, run.sentences, run.settings.seed)
        # Judged against the original's clips, like the parent, so that the two can be compared.
        scores = run.score(clips, what, first.clips)
    except VivaceError as error:
        reasons = [f"could not be applied or judged: {error}"]
        return found | {"reasons": reasons, "seconds": time.perf_counter() - begun}, None
    needed = 1.0 - run.settings.slower_margin * (objective == "size")
    timings = timed(run, {"original": first.bundle, "parent": parent.bundle, "child": candidate}, what, needed)
    quality, reasons = gate.compare(parent.scores, scores, clips.texts, run.rules(), clips.groups)
    if parent is not first:  # small losses must not add up unseen
        total = gate.compare(first.scores, scores, clips.texts, run.rules(), clips.groups)[1]
        reasons += [f"against the original: {reason}" for reason in total]
    sizes = (parent.bundle.size / 1e6, candidate.size / 1e6)
    if objective == "size":
        speed, against = gate.not_slower(timings, "parent", "child", run.settings.slower_margin)
        if sizes[1] >= sizes[0]:
            against.append(f"not smaller: {megabytes(sizes[0])} -> {megabytes(sizes[1])} MB")
    else:
        speed, against = gate.faster(timings, "parent", "child")
    more = "more sentences or clips may show it: --damage-texts"
    reasons = against + reasons + [f"the gate did not see a planted damage: {name} ({more})" for name in blind]
    child = Variant(f"v{number}", f"+ {label}", candidate, clips, scores, not reasons, timings)
    return found | {
        "child": child.id,
        "kept": child.kept,
        "reasons": reasons,
        "speed": speed,
        "size": {"parent_mb": sizes[0], "child_mb": sizes[1], "ok": sizes[1] < sizes[0]},
        "quality": quality,
        "seconds": time.perf_counter() - begun,
    }, child


def apply(run: Run, bundle: Bundle, entry: Entry, number: int) -> Bundle:
    module = registry.load("passes", entry.name)
    tell = run.plan.phase(f"pass {number} {entry.name}", APPLY_COST)
    asked = json.dumps(asdict(entry.settings), sort_keys=True)
    mark = hashlib.sha256(asked.encode()).hexdigest()[:8]
    folder = run.work / f"{number:02d}-{entry.name}-{mark}-{bundle.digest[:12]}"
    if folder.exists():
        try:
            made = open_bundle(folder)
            if made.history and json.dumps(dict(made.history[-1].settings), sort_keys=True) == asked:
                return made
        except BundleError as error:  # a damaged leftover of an earlier run is made again
            tell(f"{error}", 0.0)
        shutil.rmtree(folder)
    training = run.task.training(bundle)
    context = Context(
        lambda stage: run.calibration(bundle, stage), tell, machine.cores(), training=training, custom=run.custom
    )
    applied: Bundle = module.apply(bundle, folder, entry.settings, context)
    return applied


def memory(run: Run, bundle: Bundle) -> float:
    def compute() -> float:
        return run.task.memory(bundle, run.settings.threads)

    key = f"memory {bundle.digest} {run.settings.threads} {run.latency} {machine.timing_key()}"
    return float(run.store.json(key, compute))


def timed(run: Run, arms: dict[str, Bundle], name: str, needed: float = 0.0) -> Timings:
    """Timings of the arms. If so few rounds leave it open whether the child is `needed` times as fast as its parent,
    twice as many follow, once."""
    tell = run.plan.phase(name, ROUND_COST * run.settings.rounds * len(arms))
    key = f"timing {[b.digest for b in arms.values()]} {run.settings.rounds} {run.settings.threads} {run.latency}"
    key += f" {needed} {machine.timing_key()}"
    unique: dict[str, str] = {}  # digest -> arm: a parent that is the original is not timed twice
    for arm, bundle in arms.items():
        unique.setdefault(bundle.digest, arm)

    def compute() -> dict[str, Any]:
        own = {arm: arms[arm] for arm in unique.values()}
        asked: dict[str, Any] = {"threads": run.settings.threads, "progress": tell}
        found = run.task.measure(own, rounds=run.settings.rounds, **asked)
        if {"parent", "child"} <= set(arms) and unique[arms["child"].digest] == "child":
            ratio = found.overall(unique[arms["parent"].digest], "child")
            if ratio.low <= needed < ratio.high:
                more = 2 * run.settings.rounds
                found = found.joined(run.task.measure(own, rounds=more, first_seed=run.settings.rounds + 1, **asked))
        return asdict(found)

    timings = Timings(**run.store.json(key, compute))
    for arm, bundle in arms.items():
        twin = unique[bundle.digest]
        timings.whole[arm], timings.first[arm] = timings.whole[twin], timings.first[twin]
        timings.audio[arm], timings.load[arm] = timings.audio[twin], timings.load[twin]
    return timings


def finish(
    run: Run,
    out: Path,
    recipe: Recipe,
    variants: list[Variant],
    trials: list[dict[str, Any]],
    final: Variant,
    trusted: tuple[list[Any], list[Any], list[str]],
    *,
    command: str,
    source: str,
    overwrite: bool,
    keep_work: bool,
    extra: dict[str, Any] | None = None,
) -> Result:
    """Writes the final bundle at `out` with the report; `variants` begin with the original."""
    floor, sensitivity, blind = trusted
    bundle = variants[0].bundle
    first = next((v.timings for v in variants if v.timings), None) or timed(run, {"original": bundle}, "original")
    rows = {v.id: _outcome.row(v, first, memory(run, v.bundle)) for v in variants}
    met, verdict = _outcome.verdict(rows["v0"], rows[final.id], trials, run.settings, blind)
    details: dict[str, Any] = {
        "command": command,
        "texts": {"evaluation": len(run.sentences), "source": source},
        "recipe": _outcome.recipe_json(recipe),
        "budget": {"speed": run.settings.min_speedup or None, "size_mb": run.settings.max_mb or None},
        "margins": {name: {"margin": r.margin, "rule": r.words} for name, r in run.rules().items()},
        "variants": list(rows.values()),
        "trials": trials,
        "noise_floor": floor,
        "sensitivity": sensitivity,
        "attribution": _outcome.attribution(trials),
        "imported": _outcome.imported(bundle),
        "budget_met": met,
        "verdict": verdict,
        "final": final.id,
        "waited_share": max((v.timings.waited for v in variants if v.timings), default=first.waited),
        "seconds": time.perf_counter() - run.begun,
        "resumed": run.resumed,
    }
    report = Report(
        "optimize",
        _outcome.measurements(rows[final.id]),
        bundles={"original": bundle.digest, "final": final.bundle.digest},
        machine=machine.describe(),
        settings=asdict(run.settings) | {"texts": len(run.sentences), "metrics": list(run.metrics)},
        details=details | run.task.details({"original": variants[0].clips, "final": final.clips}) | (extra or {}),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    run.plan.phase("writing the report", 5.0)
    written = final.bundle.derive(
        out, None, lambda folder: _outcome.evidence(folder, report, variants, recipe), overwrite=overwrite
    )
    if not keep_work:
        shutil.rmtree(run.work, ignore_errors=True)
    run.plan.done()
    return Result(written, report, met)
