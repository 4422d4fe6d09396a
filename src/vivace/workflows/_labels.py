"""Figures of a model that names what it hears: per clip for the gate, and over a set for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.report import Better
from vivace.workflows import stats

LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Figure:
    """What a report needs to know of a metric that no clip of sound has."""

    SUMMARY: str
    UNIT: str
    BETTER: Better


FIGURES = {
    "accuracy": Figure("share of clips whose label is named", "share", "up"),
    "log_loss": Figure("surprise at the true label (cross-entropy)", "nats", "down"),
    "agreement": Figure("share of clips named as the reference names them", "share", "up"),
}


def metric(name: str) -> Any:
    """UNIT, BETTER and SUMMARY of a metric: one of `FIGURES`, or one that is registered. Raises UsageError."""
    return FIGURES[name] if name in FIGURES else registry.load("metrics", name)


def by_clip(scores: np.ndarray, classes: np.ndarray, reference: np.ndarray | None) -> dict[str, list[float]]:
    """Each figure of `FIGURES` for each clip, from the model's scores [clips, labels]."""
    named = scores.argmax(axis=1)
    true = np.maximum(probabilities(scores)[np.arange(len(classes)), classes], LEAST_PROBABILITY)
    found = {"accuracy": named == classes, "log_loss": -np.log(true)}
    if reference is not None:
        found["agreement"] = named == reference.argmax(axis=1)
    return {name: [float(value) for value in values] for name, values in found.items()}


def probabilities(scores: np.ndarray) -> np.ndarray:
    """The scores as they are if they are probabilities already, else their softmax."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def confusion(named: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """int64[true, named]: how many clips of each label were named what."""
    return np.bincount(classes * count + named, minlength=count * count).reshape(count, count)


def f1(matrix: np.ndarray) -> np.ndarray:
    """F1 of each label; 0 for one that was never named rightly."""
    right, true, named = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    found: np.ndarray = 2 * right / np.maximum(true + named, 1)
    return found


def macro_f1(named: np.ndarray, classes: np.ndarray, count: int, groups: list[str]) -> stats.Interval:
    """The mean F1 over the labels, with its interval: groups of clips are resampled."""
    present = np.unique(classes)
    centre = float(f1(confusion(named, classes, count))[present].mean())
    places: dict[str, list[int]] = {}
    for k, group in enumerate(groups):
        places.setdefault(group, []).append(k)
    clusters = [np.array(one) for one in places.values()]
    if len(clusters) < 2:
        return stats.Interval(centre, -math.inf, math.inf, len(clusters))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        chosen = np.concatenate([clusters[k] for k in rng.integers(0, len(clusters), len(clusters))])
        drawn.append(f1(confusion(named[chosen], classes[chosen], count))[present].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return stats.Interval(centre, float(low), float(high), len(clusters))


def by_label(named: np.ndarray, classes: np.ndarray, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for each label: clips, precision, recall, F1, and what it is most often taken for."""
    matrix = confusion(named, classes, len(labels))
    score = f1(matrix)
    rows = []
    for k, label in enumerate(labels):
        wrong = np.where(np.arange(len(labels)) == k, 0, matrix[k])
        rows.append(
            {
                "label": label,
                "clips": int(matrix[k].sum()),
                "precision": float(matrix[k, k] / max(1, matrix[:, k].sum())),
                "recall": float(matrix[k, k] / max(1, matrix[k].sum())),
                "f1": float(score[k]),
                "taken_for": labels[int(wrong.argmax())] if wrong.any() else "",
            }
        )
    return rows


def mcnemar(child: np.ndarray, parent: np.ndarray) -> dict[str, Any]:
    """The exact test of McNemar (1947) on two models' hits (bool[clips]): how often only one is right, and how
    likely so uneven a split is where neither is better and clips are independent (for clips of few speakers, trust the
    interval by group)."""
    gained, lost = int(np.sum(child & ~parent)), int(np.sum(parent & ~child))
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1))
    return {"only_child_right": gained, "only_parent_right": lost, "p": min(1.0, 2 * tail / 2**total)}
