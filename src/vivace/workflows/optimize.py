"""Applies a recipe pass by pass; every pass goes through the gate, and what it does not prove is not kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.workflows import _judge, gate
from vivace.workflows._judge import Result, work_folder
from vivace.workflows._task import Task
from vivace.workflows.clips import Store
from vivace.workflows.recipe import Recipe

__all__ = ["Result", "optimize", "work_folder"]


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
    store: Store | None = None,
    command: str = "",
    task: Task | None = None,
    custom: Sequence[str] = (),
    progress: Progress = lambda message, share: None,
) -> Result:
    """Optimizes `bundle` by `recipe` into `out`.

    `evaluation` and `calibration` texts default to the built-in sets, which are disjoint; `metrics` to all.
    `task` says how the model is asked, where it does not speak (see _task.of). `custom` are classes of the user's own,
    "module:Class", that a Keras bundle needs to be trained on. `store` keeps clips, scores and timings
    beyond this run, so that several recipes share the original's.
    Raises UsageError for texts that serve both, BundleError if `out` exists or cannot be written.
    """
    out = Path(out)
    _judge.check_output(bundle, out, overwrite)
    _judge.check_stages(bundle, recipe)
    run = _judge.prepare(
        out,
        len(recipe.passes),
        settings or gate.Settings(),
        progress,
        metrics=metrics,
        evaluation=evaluation,
        calibration=calibration,
        latency=latency,
        store=store,
        task=task,
        custom=custom,
    )
    original = _judge.original(run, bundle)
    trusted = _judge.trust(run, original)
    variants, trials, parent = [original], [], original
    for number, entry in enumerate(recipe.passes, 1):
        trial, child = _judge.trial(run, original, parent, [entry], number, trusted[2])
        trials.append(trial)
        if child:
            variants.append(child)
            parent = child if child.kept else parent
    return _judge.finish(
        run,
        out,
        recipe,
        variants,
        trials,
        parent,
        trusted,
        command=command,
        source="given" if evaluation or (task and task.given) else "built in",
        overwrite=overwrite,
        keep_work=keep_work,
    )
