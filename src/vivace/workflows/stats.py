"""Intervals and verdicts from few, paired, clustered observations. NumPy and the standard library only.

Bootstrap: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13. Percentile
intervals of few values are too narrow; they are widened as in T. Hesterberg, "What Teachers Should Know About the
Bootstrap" (The American Statistician 69, 2015), section 3.2, so that they agree with Student's t for normal data.
Everything is seeded: equal values give equal intervals.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vivace.core.report import Better

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate (`mean`) between `low` and `high`, from `n` independent units: values, pairs or clusters.

    One unit says nothing about its spread: the bounds are then infinite (for a ratio, 0 and infinity).
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """The mean of `values` with its bootstrap interval.

    `clusters` names for each value what it belongs to (its sentence, say): values of one cluster are not independent,
    so whole clusters are resampled. Raises ValueError for no values, or one that is not finite.
    """
    found = _checked(values)
    sums, sizes = _by_cluster(found, clusters)
    mean = float(found.mean())
    units = len(sums)
    if units == 1:
        return Interval(mean, -inf, inf, 1)
    drawn = _resamples(units, draws, seed)
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = _tail(units, level)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), units)


def paired_difference(
    child: ArrayLike,
    parent: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """The mean of child - parent, value by value, with its interval.

    Value k of both must come from the same text, seed and noise: what is hard in a sentence then cancels out.
    Raises ValueError as `mean_interval` does, and for lists of different length.
    """
    after, before = _paired(child, parent)
    return mean_interval(after - before, clusters, seed=seed, level=level, draws=draws)


def median_ratio(
    parent_seconds: ArrayLike,
    child_seconds: ArrayLike,
    *,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """How many times faster the child is: median parent time over median child time, with its interval.

    Position k of both lists belongs to the same round of an interleaved run; rounds are resampled as pairs, so that
    a slow moment of the machine, which slows both, does not count. Medians, since delays only ever add.
    Raises ValueError for lists that are empty or of different length, and for a time that is not above 0.
    """
    before, after = _paired(parent_seconds, child_seconds)
    if min(before.min(), after.min()) <= 0:
        raise ValueError("a time must be above 0")
    ratio = float(np.median(before) / np.median(after))
    if len(before) == 1:
        return Interval(ratio, 0.0, inf, 1)
    drawn = _resamples(len(before), draws, seed)
    ratios = np.median(before[drawn], axis=1) / np.median(after[drawn], axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(ratio, float(low), float(high), len(before))


def non_inferior(difference: Interval, margin: float, better: Literal["up", "down"]) -> bool:
    """Whether child - parent proves the child not worse by `margin` or more.

    The whole interval must clear the margin: low > -margin where more is better, high < margin where less is. Too few
    observations make a wide interval and thus a refusal: not to have found harm is no proof that there is none.
    The margin has to be fixed before measuring. Rule: G. Piaggio et al., "Reporting of Noninferiority and Equivalence
    Randomized Trials: Extension of the CONSORT 2010 Statement", JAMA 308 (2012). Raises ValueError for margin <= 0.
    """
    if not margin > 0:
        raise ValueError(f"the margin is {margin}; it must be above 0")
    return difference.low > -margin if better == "up" else difference.high < margin


def worst_decile(values: ArrayLike, better: Better) -> float:
    """The mean of the worst tenth of the values (at least one): what the mean of all would hide.

    Raises ValueError for no values, one that is not finite, or a metric without a better end.
    """
    if better == "none":
        raise ValueError("a metric that is neither better up nor down has no worst end")
    ranked = np.sort(_checked(values))
    count = ceil(len(ranked) / 10)
    return float(ranked[:count].mean() if better == "up" else ranked[-count:].mean())


def _checked(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64).ravel()
    if found.size == 0:
        raise ValueError("there are no values")
    if not np.isfinite(found).all():
        raise ValueError("there is a value that is not finite")
    return found


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired")
    return first, second


def _by_cluster(values: Floats, clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """The sum and the number of the values of each cluster."""
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} cluster names for {len(values)} values")
    index = {name: k for k, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([index[name] for name in clusters])
    return np.bincount(member, values).astype(np.float64), np.bincount(member).astype(np.float64)


def _resamples(units: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Indices [draws, units], drawn with replacement."""
    return np.random.default_rng(seed).integers(0, units, (draws, units))


def _tail(units: int, level: float) -> float:
    """The share to cut off at each end, smaller for few units (Hesterberg 2015).

    The quantile of Student's t is its Cornish-Fisher expansion, good to 1% from 5 degrees of freedom.
    """
    normal, free = NormalDist(), units - 1
    z = normal.inv_cdf((1 + level) / 2)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return normal.cdf(-sqrt(units / free) * t)
