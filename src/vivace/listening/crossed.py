"""The mean of ratings that listeners gave to texts, with an interval that holds for other listeners and other texts.

Ratings of one listener resemble each other, those of one text too: neither the number of ratings nor the number of
texts alone says how much is known. The variance of the mean is estimated with both kinds of clusters (A. C. Cameron,
J. B. Gelbach and D. L. Miller, "Robust Inference With Multiway Clustering", Journal of Business and Economic
Statistics 29, 2011), with Student's t on the smaller number of clusters less one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """`mean` between `low` and `high` (95%), from `n` values of so many `listeners` and `texts`."""

    mean: float
    low: float
    high: float
    n: int
    listeners: int
    texts: int


def estimate(values: ArrayLike, listeners: ArrayLike, texts: ArrayLike) -> Estimate:
    """Value k was given by `listeners[k]` to `texts[k]`. The bounds are infinite with fewer than two listeners or two
    texts. Raises ValueError for no values, lists of different length, or a value that is not finite."""
    found = np.asarray(values, float).ravel()
    (who, people), (what, sentences) = _numbered(listeners), _numbered(texts)
    if not len(found) or not np.isfinite(found).all() or not len(found) == len(who) == len(what):
        raise ValueError("values, listeners and texts must be of one length, above 0, and finite")
    mean = float(found.mean())
    if min(people, sentences) < 2:
        return Estimate(mean, -inf, inf, len(found), people, sentences)
    rest = (found - mean) / len(found)
    cells = len(np.unique(who * sentences + what))
    by_listener = _variance(rest, who, people)
    by_text = _variance(rest, what, sentences)
    both = _variance(rest, np.unique(who * sentences + what, return_inverse=True)[1], cells)
    # Both clusters count what they share twice; where that correction takes too much, the larger of the two holds.
    variance = max(by_listener + by_text - both, by_listener, by_text)
    reach = student(0.975, min(people, sentences) - 1) * sqrt(variance)
    return Estimate(mean, mean - reach, mean + reach, len(found), people, sentences)


def components(values: ArrayLike, listeners: ArrayLike, texts: ArrayLike) -> tuple[float, float, float]:
    """Standard deviations between listeners, between texts, and of what is left: the moments of a two-way layout
    (C. R. Henderson, Biometrics 9, 1953, method 1 for nearly balanced data). Raises ValueError for fewer than two of
    either."""
    found = np.asarray(values, float).ravel()
    (who, people), (what, sentences) = _numbered(listeners), _numbered(texts)
    free = len(found) - people - sentences + 1
    if min(people, sentences) < 2 or free < 1:
        raise ValueError("two listeners and two texts, and more ratings than both together, are the least")
    design = np.zeros((len(found), people + sentences))
    design[np.arange(len(found)), who] = 1
    design[np.arange(len(found)), people + what] = 1
    left = found - design @ np.linalg.lstsq(design, found, rcond=None)[0]
    noise = float(left @ left) / free
    return (
        sqrt(max(0.0, _between(found, who, people) - noise * people / len(found))),
        sqrt(max(0.0, _between(found, what, sentences) - noise * sentences / len(found))),
        sqrt(noise),
    )


def student(share: float, free: int) -> float:
    """The quantile of Student's t for a share above a half; exact for 1 and 2 degrees of freedom, from there its
    Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5), within 0.5%."""
    if free == 1:
        return float(np.tan(np.pi * (share - 0.5)))
    if free == 2:
        a = 4 * share * (1 - share)
        return float(2 * (share - 0.5) * sqrt(2 / a))
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return float(z + sum(term / free ** (k + 1) for k, term in enumerate(terms)))


def _numbered(names: ArrayLike) -> tuple[NDArray[np.int64], int]:
    found, numbers = np.unique(np.asarray(names).ravel(), return_inverse=True)
    return numbers.astype(np.int64), len(found)


def _variance(rest: NDArray[np.float64], cluster: NDArray[np.int64], count: int) -> float:
    sums = np.bincount(cluster, rest, count)
    return float(sums @ sums) * count / max(1, count - 1)


def _between(found: NDArray[np.float64], cluster: NDArray[np.int64], count: int) -> float:
    """The variance of the clusters' means."""
    means = np.bincount(cluster, found, count) / np.bincount(cluster, minlength=count)
    return float(means.var(ddof=1))
