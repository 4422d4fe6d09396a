"""Quality of a bundle's speech: every metric with its interval, and the figures that the gate compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import UsageError
from vivace.core.report import Measurement, Report
from vivace.workflows import stats
from vivace.workflows._labels import metric
from vivace.workflows.clips import Clips, Scores, Store, scored, spoken

WEIGHTED: dict[str, Callable[[str], list[str]]] = {
    "wer": str.split,
    "cer": list,
}  # error rates of a set are weighted by what could go wrong: words, letters


def evaluate(
    bundle: Bundle,
    sentences: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    reference: Bundle | None = None,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress = lambda message, share: None,
) -> Report:
    """Speaks the sentences and scores them. `metrics` empty means all that are registered.

    `reference` is a bundle that speaks the same sentences with the same seeds, for metrics that compare.
    """
    names = list(metrics) or registry.names("metrics")
    for name in names:
        registry.load("metrics", name)
    reference_clips = spoken(reference, sentences, seed=seed, store=store, progress=progress) if reference else None
    clips = spoken(bundle, sentences, seed=seed, store=store, progress=progress)
    scores = scored(clips, names, reference=reference_clips, store=store, progress=progress)
    if not scores:
        raise UsageError(f"nothing to measure: {', '.join(names)} compare with a reference; give one")
    audio_seconds = sum(a.seconds for a in clips.audio)
    measurements = tuple(_measurement(name, values, clips.texts) for name, values in scores.items())
    bundles = {"bundle": bundle.digest} | ({"reference": reference.digest} if reference else {})
    return Report(
        "evaluate",
        measurements,
        bundles=bundles,
        machine=machine.describe(),
        settings={"texts": len(sentences), "seed": seed, "metrics": list(scores)},
        details={
            "audio_seconds": audio_seconds,
            "skipped": [name for name in names if name not in scores],
            "worst_decile": worst(scores),
            "scores": scores,
            "texts": list(sentences),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _measurement(name: str, values: list[float], sentences: Sequence[str]) -> Measurement:
    module = metric(name)
    interval = mean(name, values, sentences)
    return Measurement(
        name,
        interval.mean,
        module.UNIT,
        module.BETTER,
        len(values),
        interval.low,
        interval.high,
        f"{len(values)} sentences",
    )


def mean(name: str, values: Sequence[float], sentences: Sequence[str], groups: Sequence[str] = ()) -> stats.Interval:
    """The mean over sentences with its interval; error rates are weighted to the rate of the whole set."""
    return stats.mean_interval(weighted(name, values, sentences), groups or None)


def difference(
    name: str, child: Sequence[float], parent: Sequence[float], texts: Sequence[str], groups: Sequence[str] = ()
) -> stats.Interval:
    """Paired difference child - parent, bootstrapped by sentence, or by group where there are groups."""
    return stats.paired_difference(weighted(name, child, texts), weighted(name, parent, texts), groups or None)


def weighted(name: str, values: Sequence[float], sentences: Sequence[str]) -> list[float]:
    """Values whose plain mean is the figure of the whole set."""
    if name not in WEIGHTED:
        return list(values)
    sizes = np.array([max(1, len(WEIGHTED[name](text))) for text in sentences], float)
    return [float(v) for v in np.asarray(values) * sizes / sizes.mean()]


def worst(scores: Scores) -> dict[str, float]:
    """The mean of the worst tenth of the clips, for each metric that has a better end."""
    found = {}
    for name, values in scores.items():
        better = metric(name).BETTER
        if better != "none":
            found[name] = stats.worst_decile(values, better)
    return found


def summary(scores: Mapping[str, Sequence[float]], clips: Clips) -> dict[str, dict[str, Any]]:
    """Plain intervals by metric, for reports."""
    from vivace.workflows.benchmark import plain

    return {name: plain(mean(name, values, clips.texts, clips.groups)) for name, values in scores.items()}
