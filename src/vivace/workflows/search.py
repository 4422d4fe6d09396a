"""Finds by measurement what each part of a model should compute in, for this machine and an objective, and lets the
gate judge what was found: the best candidate first, then safer ones, until one is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import UsageError
from vivace.core.machine import cores
from vivace.core.settings import flag, option
from vivace.workflows import _judge, gate, texts
from vivace.workflows._explore import Explored, Explorer, as_json
from vivace.workflows._judge import Result, Run
from vivace.workflows._outcome import shares
from vivace.workflows._probe import Prober
from vivace.workflows._space import Choice
from vivace.workflows._task import CALIBRATION_TEXTS, Task, listens
from vivace.workflows.benchmark import measure
from vivace.workflows.clips import Store
from vivace.workflows.recipe import Recipe

OBJECTIVES = ("latency", "throughput", "size")
PROBE_TEXTS, SEARCH_CALIBRATION = 20, 16
ATTRIBUTION_ROUNDS = 5
CANDIDATES, STEPS = 2, 6  # judged, and passes of the one kept: what the progress bar reckons with
SAFER = (0.75, 0.5)  # shares of the best one's loss that those behind it may have


@dataclass(frozen=True)
class Settings:
    """What is searched for, and for how long; command-line flags are made from this."""

    objective: str = option("latency", "what to improve", OBJECTIVES)
    minutes: float = option(10.0, "for trying; the verdict comes after that, and takes what it takes")

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 24 * 60:
            raise UsageError(f"{flag('minutes')} is {self.minutes:g}; it must lie above 0, up to 1440")


def search(
    bundle: Bundle,
    out: Path,
    wanted: Settings | None = None,
    settings: gate.Settings | None = None,
    *,
    metrics: Sequence[str] = (),
    evaluation: Sequence[str] = (),
    calibration: Sequence[str] = (),
    latency: dict[str, str] | None = None,
    overwrite: bool = False,
    keep_work: bool = False,
    store: Store | None = None,
    command: str = "",
    task: Task | None = None,
    progress: Progress = lambda message, share: None,
) -> Result:
    """Searches for at most `wanted.minutes`, then judges at most four candidates against the original.

    Interrupted, it goes on where it was. Raises UsageError as `optimize` does, and MissingDependency without optuna.
    """
    out, wanted, settings = Path(out), wanted or Settings(), settings or gate.Settings()
    _judge.check_output(bundle, out, overwrite)
    if listens(bundle):
        raise UsageError("--search is for voices; give a model that listens a --recipe or a --pass")
    seconds = 60 * wanted.minutes
    run = _judge.prepare(
        out,
        CANDIDATES,
        settings,
        progress,
        metrics=metrics,
        evaluation=evaluation,
        calibration=calibration,
        latency=latency,
        store=store,
        before=seconds + 2.0 * ATTRIBUTION_ROUNDS * STEPS,
        task=task,
    )
    explored = _explore(run, bundle, wanted, run.plan.phase("search", seconds))
    kind = "size" if wanted.objective == "size" else "speed"
    original = _judge.original(run, bundle)
    trusted = _judge.trust(run, original)
    variants, trials, final = [original], [], original
    chosen, recipe = None, Recipe(f"search for {wanted.objective}", "", kind, ())
    for number, choice in enumerate(_candidates(explored, wanted.objective), 1):
        recipe = replace(recipe, summary=choice.words(), passes=choice.entries(kind, explored.before))
        trial, child = _judge.trial(
            run, original, original, recipe.passes, number, trusted[2], f"candidate {number}: {choice.words()}"
        )
        trials.append(trial)
        if child:
            variants.append(child)
            if child.kept:
                final, chosen = child, choice
                break
    if not chosen:
        recipe = Recipe(recipe.name, "nothing was kept", kind, ())
    extra: dict[str, Any] = {"search": as_json(explored, wanted.objective, chosen) | {"minutes": wanted.minutes}}
    if chosen:
        extra["attribution"] = _attribution(run, bundle, recipe, len(trials))
    return _judge.finish(
        run,
        out,
        recipe,
        variants,
        trials,
        final,
        trusted,
        command=command,
        source="given" if evaluation or (task and task.given) else "built in",
        overwrite=overwrite,
        keep_work=keep_work,
        extra=extra,
    )


def _explore(run: Run, bundle: Bundle, wanted: Settings, tell: Progress) -> Explored:
    threads = {"latency": (run.settings.threads,), "throughput": (1,), "size": tuple(sorted({1, cores()}))}
    # Neither the verdict's sentences nor those that ranges are calibrated on.
    spare = [t for t in texts.calibration()[CALIBRATION_TEXTS:] if t not in {*run.sentences, *run.calibration_texts}]
    prober = Prober(
        bundle,
        run.store,
        spare[:PROBE_TEXTS],
        run.latency,
        run.calibration_texts[:SEARCH_CALIBRATION],
        threads[wanted.objective],
    )
    tell("the original", 0.0)
    margin = run.settings.mos_margin * prober.mean().mean
    return Explorer(bundle, prober, wanted.objective, margin, wanted.minutes, tell).run()


def _candidates(explored: Explored, objective: str) -> list[Choice]:
    """The best that was tried, the best of those that lose less by a quarter and by half, and the exact one."""
    ranked = explored.ranked(objective)
    found = [choice for choice, _ in ranked[:1]]
    for share in SAFER:
        found += [c for c, f in ranked[1:] if f.loss <= share * max(ranked[0][1].loss, 0.0)][:1]
    distinct = {choice.words(): choice for choice in (*found, explored.exact)}
    return [c for c in distinct.values() if c.entries("speed", explored.before)]


def _attribution(run: Run, bundle: Bundle, recipe: Recipe, number: int) -> list[dict[str, Any]]:
    """Each pass's own share of the gain: the steps to the result timed side by side."""
    steps = {"original": bundle}
    for entry in recipe.passes:
        steps[entry.label] = _judge.apply(run, list(steps.values())[-1], entry, number)
    tell = run.plan.phase("attribution", 2.0 * ATTRIBUTION_ROUNDS * len(steps))
    timings = measure(
        steps,
        threads=run.settings.threads,
        rounds=ATTRIBUTION_ROUNDS,
        spoken_texts=run.latency,
        first_audio=False,
        progress=tell,
    )
    names = list(steps)
    return shares(
        [
            (name, timings.overall(before, name).mean, (steps[before].size - steps[name].size) / 1e6)
            for before, name in pairwise(names)
        ]
    )
