"""How well a model that listens names labelled clips: accuracy, F1, confusion; beside a reference, what changed."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vivace.core import machine
from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import UsageError
from vivace.core.report import Measurement, Report
from vivace.workflows import _labels, stats
from vivace.workflows._task import BATCH, listens, opened
from vivace.workflows.dataset import Dataset


def classify(
    bundle: Bundle,
    data: Dataset,
    *,
    reference: Bundle | None = None,
    progress: Progress = lambda message, share: None,
) -> Report:
    """Answers every clip. Intervals resample the groups of the set (its speakers), or its clips where it names none.

    Raises UsageError for a model that speaks, and for labels that the model does not know.
    """
    labels, scores = _answers(bundle, data, progress)
    classes, groups = data.classes(labels), [item.group or item.name for item in data.items]
    named = scores.argmax(axis=1)
    hits = named == classes
    scope = f"{len(hits)} clips, {len(set(groups))} groups"
    found = [
        _measurement("accuracy", stats.mean_interval(hits.astype(float), groups), "share", len(hits), scope),
        _measurement("macro_f1", _labels.macro_f1(named, classes, len(labels), groups), "share", len(hits), scope),
    ]
    details: dict[str, Any] = {
        "labels": _labels.by_label(named, classes, labels),
        "confusion": {"true, named": list(labels), "clips": _labels.confusion(named, classes, len(labels)).tolist()},
        "answers": {item.name: labels[k] for item, k in zip(data.items, named, strict=True)},
    }
    bundles = {"bundle": bundle.digest}
    if reference is not None:
        known, said = _answers(reference, data, progress)
        before = said.argmax(axis=1) == data.classes(known)  # its labels may stand in another order
        moved = stats.paired_difference(hits.astype(float), before.astype(float), groups)
        found.append(_measurement("accuracy_change", moved, "share", len(hits), scope))
        details["mcnemar"] = _labels.mcnemar(hits, before) | {"reference_accuracy": float(before.mean())}
        bundles["reference"] = reference.digest
    return Report(
        "evaluate",
        tuple(found),
        bundles=bundles,
        machine=machine.describe(),
        settings={"dataset": str(data.path), "clips": len(hits), "dataset_digest": data.digest},
        details=details,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _answers(bundle: Bundle, data: Dataset, progress: Progress) -> tuple[tuple[str, ...], np.ndarray]:
    if not listens(bundle):
        raise UsageError(f"{bundle.path} speaks, it does not name clips; leave --dataset out")
    clips = data.clips(bundle.sample_rate)
    found = []
    with opened(bundle) as model:
        for first in range(0, len(clips), BATCH):
            found.append(model.answer(clips[first : first + BATCH]))
            progress(f"listening ({bundle.name}) {first}/{len(clips)}", first / len(clips))
        return model.labels, np.concatenate(found)


def _measurement(name: str, found: stats.Interval, unit: str, count: int, scope: str) -> Measurement:
    low, high = (x if math.isfinite(x) else None for x in (found.low, found.high))
    return Measurement(name, found.mean, unit, "up", count, low, high, scope)
