"""Intervals against known cases and simulated truth: they must hold what their level promises."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.workflows import stats

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


def coverage(draw: Callable[[np.random.Generator], stats.Interval], truth: float, times: int = 400) -> float:
    rng = np.random.default_rng(1)
    found = [draw(rng) for _ in range(times)]
    return float(np.mean([i.low <= truth <= i.high for i in found]))


@pytest.mark.parametrize("n", [8, 25, 100])
def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says(n: int) -> None:
    """Binomial standard error at 400 draws: 0.011."""
    assert 0.92 <= coverage(lambda r: stats.mean_interval(r.normal(4, 1, n), draws=1000), 4.0) <= 0.985


def test_a_lower_level_covers_less() -> None:
    share = coverage(lambda r: stats.mean_interval(r.normal(4, 1, 30), level=0.8, draws=1000), 4.0)
    assert 0.74 <= share <= 0.86


def test_skewed_scores_are_covered_too() -> None:
    """Error rates: mostly zero, seldom large."""
    share = coverage(lambda r: stats.mean_interval(r.exponential(0.05, 60), draws=1000), 0.05)
    assert share >= 0.9


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    sentences = np.repeat(np.arange(20), 5)
    return rng.normal(0, 1, 20)[sentences] + rng.normal(0, 0.2, 100), sentences.tolist()


def test_clusters_are_what_is_resampled() -> None:
    """Five readings of one sentence are nearly one observation: to count them as five promises too much."""

    def by_cluster(rng: np.random.Generator) -> stats.Interval:
        values, names = clustered(rng)
        return stats.mean_interval(values, names, draws=1000)

    assert coverage(by_cluster, 0.0) >= 0.92
    assert coverage(lambda r: stats.mean_interval(clustered(r)[0], draws=1000), 0.0) < 0.75


def test_clusters_of_any_name_and_size() -> None:
    interval = stats.mean_interval([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"])
    assert (interval.mean, interval.n) == (2.0, 2)
    assert (interval.low, interval.high) == (1.0, 5.0)


def test_it_agrees_with_students_t_for_normal_data() -> None:
    values = np.random.default_rng(0).normal(10, 2, 24)
    half = 2.069 * values.std(ddof=1) / np.sqrt(24)
    interval = stats.mean_interval(values, draws=20000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_equal_seeds_give_equal_intervals() -> None:
    values = list(range(20))
    assert stats.mean_interval(values, seed=3) == stats.mean_interval(values, seed=3)
    assert stats.mean_interval(values, seed=3) != stats.mean_interval(values, seed=4)


def test_one_observation_proves_nothing() -> None:
    assert stats.mean_interval([4.2]) == stats.Interval(4.2, -inf, inf, 1)
    assert stats.mean_interval([4.0, 4.4], ["same", "same"]).low == -inf
    assert stats.median_ratio([2.0], [1.0]) == stats.Interval(2.0, 0.0, inf, 1)
    assert not stats.non_inferior(stats.paired_difference([4.2], [4.2]), 1.0, "up")


@settings(deadline=None, max_examples=50)
@given(NUMBERS)
def test_bounds_lie_within_the_data_and_around_the_mean(values: list[float]) -> None:
    interval = stats.mean_interval(values, draws=200)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack
    assert interval.n == len(values)
    assert interval.mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [float("inf")]])
def test_values_that_mean_nothing_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="value"):
        stats.mean_interval(wrong)
    with pytest.raises(ValueError, match="value"):
        stats.worst_decile(wrong, "up")


def test_lists_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        stats.paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="cluster"):
        stats.mean_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="above 0"):
        stats.median_ratio([1.0, 0.0], [1.0, 1.0])


def test_pairing_takes_the_difficulty_of_the_sentences_out() -> None:
    rng = np.random.default_rng(0)
    parent = rng.normal(4, 0.5, 40)
    child = parent - 0.1 + rng.normal(0, 0.05, 40)
    interval = stats.paired_difference(child, parent)
    assert interval.mean == pytest.approx(-0.1, abs=0.02)
    assert interval.high - interval.low < 0.05
    unpaired = stats.mean_interval(child)
    assert unpaired.high - unpaired.low > 0.2


MARGIN = 0.2  # 5% of a predicted MOS of 4


def accepted(loss: float, n: int, times: int = 200) -> float:
    """How often a child whose true loss is `loss` passes the gate with `n` sentences."""
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(times):
        parent = rng.normal(4, 0.4, n)
        child = parent - loss + rng.normal(0, 0.3, n)
        passed += stats.non_inferior(stats.paired_difference(child, parent, draws=500), MARGIN, "up")
    return passed / times


def test_a_worse_child_is_refused_and_an_equal_one_accepted() -> None:
    assert accepted(loss=0.4, n=40) == 0
    assert accepted(loss=0.0, n=100) > 0.99


def test_a_child_right_at_the_margin_passes_no_more_often_than_the_level_allows() -> None:
    assert accepted(loss=MARGIN, n=40) <= 0.06


def test_few_sentences_refuse_rather_than_accept() -> None:
    assert accepted(loss=0.0, n=4) < accepted(loss=0.0, n=15) < accepted(loss=0.0, n=60)


@pytest.mark.parametrize(
    ("low", "high", "better", "passes"),
    [
        (-0.09, 0.5, "up", True),
        (-0.1, 0.5, "up", False),
        (-0.5, 0.5, "up", False),
        (0.2, 0.3, "up", True),
        (-0.5, 0.09, "down", True),
        (-0.5, 0.1, "down", False),
        (-0.3, -0.2, "down", True),
    ],
)
def test_the_worse_bound_must_clear_the_margin(low: float, high: float, better: str, passes: bool) -> None:
    assert stats.non_inferior(stats.Interval((low + high) / 2, low, high, 9), 0.1, better) is passes


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
def test_a_margin_must_be_above_zero(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        stats.non_inferior(stats.Interval(0, 0, 0, 9), margin, "up")


def test_a_speedup_is_the_ratio_of_medians() -> None:
    interval = stats.median_ratio([2.0, 2.2, 100.0], [1.0, 1.1, 1.2])
    assert interval.mean == pytest.approx(2.0)
    assert interval.n == 3


def test_the_interval_of_a_speedup_covers_the_truth() -> None:
    def drifting(rng: np.random.Generator) -> stats.Interval:
        machine = np.exp(np.cumsum(rng.normal(0, 0.05, 15)))  # slow moments slow both arms
        parent, child = (machine * np.exp(rng.normal(0, 0.03, 15)) for _ in range(2))
        return stats.median_ratio(1.7 * parent, child, draws=500)

    assert coverage(drifting, 1.7, times=200) >= 0.92


def test_rounds_are_resampled_as_pairs() -> None:
    """The machine may swing tenfold: if both arms swing alike, their ratio is known exactly."""
    seconds = np.geomspace(0.1, 1, 9)
    interval = stats.median_ratio(seconds * 1.5, seconds)
    assert (interval.low, interval.high) == pytest.approx((1.5, 1.5))


def test_the_worst_tenth() -> None:
    values = [float(k) for k in range(1, 21)]
    assert stats.worst_decile(values, "up") == 1.5
    assert stats.worst_decile(values, "down") == 19.5
    assert stats.worst_decile([3.0, 1.0], "up") == 1.0
    assert stats.worst_decile(list(range(11)), "down") == 9.5
    with pytest.raises(ValueError, match="worst"):
        stats.worst_decile(values, "none")
