from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from passes.stage_maker import model, rows, vocoder
from vivace.core.errors import ModelError, UsageError
from vivace.passes._calibration import BINS, Histogram, by_entropy, by_percentile, ranges


def histogram(values) -> Histogram:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0].astype(float))


def test_minmax_over_rows_of_different_lengths():
    data = rows("decoder")
    found = ranges(vocoder(), ["x", "l0"], data, "minmax", 100)
    everything = np.concatenate([row["x"].ravel() for row in data])
    assert found["x"] == (everything.min(), everything.max())
    assert found["l0"][0] < 0 < found["l0"][1]
    assert abs(found["l0"][0]) < 0.5 * found["l0"][1]  # LeakyRelu leaves a tenth of what is below zero


def test_the_range_always_holds_zero():
    made = model([helper.make_node("Exp", ["x"], ["y"], name="/Exp")], {}, {"x": [1, 16, "n"]}, {"y": [1, 16, "n"]})
    for method in ("minmax", "percentile", "entropy"):
        low, high = ranges(made, ["y"], rows("decoder"), method, 99.9)["y"]
        assert low == 0 < high


def test_percentile_cuts_off_that_share_at_both_ends():
    data = rows("decoder")
    everything = np.sort(np.concatenate([row["x"].ravel() for row in data]))
    cut = len(everything) // 200  # half a per cent
    low, high = ranges(vocoder(), ["x"], data, "percentile", 99)["x"]
    step = float(everything[-1] - everything[0]) / BINS
    assert everything[cut - 1] - step <= low <= everything[cut] + step
    assert everything[-cut - 1] - step <= high <= everything[-cut] + step


def test_outliers_move_minmax_but_not_percentile_or_entropy():
    rng = np.random.default_rng(0)
    values = np.append(rng.standard_normal(100_000), 100.0)
    h = histogram(values)
    assert h.high == 100.0
    assert by_percentile(h, 99.99)[1] < 5
    assert by_entropy(h)[1] < 20
    assert by_entropy(h)[0] == h.low  # nothing lies beyond the threshold on that side


def test_a_uniform_signal_is_not_clipped_by_entropy():
    low, high = by_entropy(histogram(np.linspace(-1, 1, 100_000)))
    assert -low == pytest.approx(1, abs=0.05)
    assert high == pytest.approx(1, abs=0.05)


def test_a_silent_tensor():
    silent = Histogram(0.0, 0.0, np.zeros(BINS))
    assert by_percentile(silent, 99.9) == (0, 0)
    assert by_entropy(silent) == (0, 0)
    zeros = [{"x": np.zeros((1, 16, 9), np.float32)}]
    assert ranges(vocoder(), ["x"], zeros, "percentile", 99.9) == {"x": (0, 0)}


@given(st.integers(0, 2**32 - 1), st.floats(60, 100), st.floats(60, 100))
def test_a_larger_share_needs_a_wider_range(seed, one, other):
    h = histogram(np.random.default_rng(seed).standard_normal(500))
    small, large = (by_percentile(h, p) for p in sorted((one, other)))
    assert h.low <= large[0] <= small[0] <= 0 <= small[1] <= large[1] <= h.high + 1e-9


def test_errors():
    with pytest.raises(UsageError, match="at least one text"):
        ranges(vocoder(), ["x"], [], "minmax", 100)
    broken = vocoder()
    broken.graph.node[0].op_type = "Konv"
    with pytest.raises(ModelError, match="cannot load the stage for calibration"):
        ranges(broken, ["l0"], rows("decoder"), "minmax", 100)
