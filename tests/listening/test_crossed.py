from __future__ import annotations

from math import inf

import numpy as np
import pytest

from vivace.listening.crossed import components, estimate, student


def panel(draw: np.random.Generator, sd: tuple[float, float, float], people: int, texts: int) -> tuple[np.ndarray, ...]:
    who, what = np.indices((people, texts))
    values = draw.normal(0, sd[0], people)[:, None] + draw.normal(0, sd[1], texts) + draw.normal(0, sd[2], who.shape)
    return values.ravel(), who.ravel(), what.ravel()


@pytest.mark.parametrize("sd", [(0.25, 0.2, 1.0), (0.5, 0.1, 0.5), (0.1, 0.5, 0.5), (0, 0, 1)])
def test_the_interval_holds_the_truth_in_95_of_100_panels(sd: tuple[float, float, float]) -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        e = estimate(*panel(draw, sd, 12, 15))
        held += e.low <= 0 <= e.high
    assert 0.925 <= held / 400 <= 0.995


def test_what_plain_statistics_would_claim_is_too_narrow() -> None:
    values, who, what = panel(np.random.default_rng(2), (0.6, 0.1, 0.5), 8, 30)
    e = estimate(values, who, what)
    assert e.high - e.low > 2 * 2 * 1.96 * values.std() / np.sqrt(len(values))


def test_two_equal_clusters_of_one_are_the_plain_interval() -> None:
    """Every listener one text of their own: nothing is clustered."""
    values = np.random.default_rng(3).normal(4, 1, 50)
    e = estimate(values, range(50), range(50))
    assert e.high - e.mean == pytest.approx(student(0.975, 49) * values.std(ddof=1) / np.sqrt(50))


def test_few() -> None:
    assert estimate([3, 4], [1, 1], [1, 2]).low == -inf
    for values in ([], [float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            estimate(values, values, values)
    with pytest.raises(ValueError, match="length"):
        estimate([1, 2], [1], [1, 2])


@pytest.mark.parametrize(("free", "quantile"), [(1, 12.706), (2, 4.3027), (3, 3.1824), (5, 2.5706), (19, 2.0930)])
def test_student(free: int, quantile: float) -> None:
    assert student(0.975, free) == pytest.approx(quantile, rel=2e-3)


def test_components_are_found_again() -> None:
    found = components(*panel(np.random.default_rng(4), (0.3, 0.6, 1.0), 60, 60))
    assert found == pytest.approx((0.3, 0.6, 1.0), rel=0.25)
    with pytest.raises(ValueError, match="two listeners"):
        components([1, 2], [1, 1], [1, 2])
