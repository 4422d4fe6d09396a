from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.workflows._prefix import BINS, by_prefix, figures, growth
from vivace.workflows._stopwatch import Reading


def reading(steps):
    return Reading(1.0, {}, {}, 1.0, 0.0, tuple(steps))


@given(st.integers(1, 700), st.floats(0.1, 50), st.floats(-0.01, 0.5), st.integers(1, 3))
def test_a_line_is_found_again(steps, start, slope, each):
    """Whatever the number of steps and of frames that each makes."""
    readings = [reading([(k * each, (start + slope * k * each) / 1000) for k in range(steps)]) for _ in range(6)]
    rows = by_prefix(readings)
    assert 1 <= len(rows) <= BINS
    assert sum(row["steps"] for row in rows) == steps
    assert all(row["ms"] == pytest.approx(start + slope * row["frames"], rel=1e-6, abs=1e-9) for row in rows)
    found = growth(rows)
    if len(rows) > 1:
        assert found["ms_per_100_frames"] == pytest.approx(100 * slope, rel=1e-6, abs=1e-6)
        assert found["ms_at_start"] == pytest.approx(start, rel=1e-6, abs=1e-6)
        assert found["ms_at_end"] == pytest.approx(start + slope * rows[-1]["frames"], rel=1e-6, abs=1e-6)


def test_one_slow_moment_bends_nothing():
    steps = [(k, 0.002) for k in range(160)]
    slow = [(k, 0.5 if k >= 150 else 0.002) for k in range(160)]
    found = growth(by_prefix([reading(slow)]))
    assert found["ms_per_100_frames"] == pytest.approx(0.0, abs=1e-9)
    assert not found["rises"]
    rows = by_prefix([reading(steps)] * 3 + [reading(slow)] * 3)
    assert rows[-1]["low"] == pytest.approx(2.0)
    assert rows[-1]["high"] == pytest.approx(500.0)
    assert by_prefix([reading(steps)] * 5)[0]["low"] is None  # too few readings for an interval


@pytest.mark.parametrize(("last", "rises"), [(2.0, False), (2.5, False), (3.0, True), (40.0, True)])
def test_growth_that_is_worth_naming(last, rises):
    steps = [(k, (2 + (last - 2) * k / 499) / 1000) for k in range(500)]
    assert growth(by_prefix([reading(steps)]))["rises"] is rises


def test_sentences_of_one_reading_count_together():
    (row,) = by_prefix([reading([(0, 0.001), (0, 0.003)])])
    assert (row["frames"], row["steps"], row["ms"]) == (0, 2, pytest.approx(2.0))
    assert growth([row]) | {"ms_at_start": 0, "ms_at_end": 0} == {
        "ms_at_start": 0, "ms_at_end": 0, "frames": 0, "ms_per_100_frames": 0.0, "rises": False,
    }  # fmt: skip


@pytest.mark.parametrize(("value", "words"), [(12.34, "12.3"), (1.234, "1.23"), (0.1, "0.10"), (-0.001, "0.00")])
def test_figures(value, words):
    assert figures(value) == words
