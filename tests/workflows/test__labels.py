"""Figures of models that listen, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.workflows import _labels


def test_per_clip_figures() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])
    reference = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    found = _labels.by_clip(scores, np.array([0, 1, 2]), reference)
    assert found["accuracy"] == [1, 1, 0]
    assert found["log_loss"] == pytest.approx([-np.log(0.7), -np.log(0.6), -np.log(0.3)])
    assert found["agreement"] == [1, 0, 1]
    assert "agreement" not in _labels.by_clip(scores, np.array([0, 1, 2]), None)


def test_scores_that_are_no_probabilities_go_through_softmax() -> None:
    logits = np.array([[2.0, 0.0], [-1.0, 3.0]])
    made = _labels.probabilities(logits)
    assert made.sum(axis=1) == pytest.approx([1, 1])
    assert made[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert np.array_equal(_labels.probabilities(made), made)


def test_confusion_and_f1() -> None:
    classes, named = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    assert _labels.confusion(named, classes, 3).tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert _labels.f1(_labels.confusion(named, classes, 3)) == pytest.approx([4 / 6, 4 / 5, 0])
    rows = _labels.by_label(named, classes, ("a", "b", "c"))
    assert [row["recall"] for row in rows] == pytest.approx([2 / 3, 1, 0])
    assert [row["precision"] for row in rows] == pytest.approx([2 / 3, 2 / 3, 0])
    assert [row["taken_for"] for row in rows] == ["b", "", "a"]
    interval = _labels.macro_f1(named, classes, 3, list("uvwxyz"))
    assert interval.mean == pytest.approx((4 / 6 + 4 / 5) / 3)
    assert interval.low <= interval.mean <= interval.high
    assert interval.low < interval.high


def test_mcnemar_is_the_sign_test_of_what_changed() -> None:
    parent = np.array([True] * 8 + [False] * 2)
    child = np.array([False] * 5 + [True] * 3 + [True, False])
    found = _labels.mcnemar(child, parent)
    assert (found["only_child_right"], found["only_parent_right"]) == (1, 5)
    assert found["p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert _labels.mcnemar(parent, parent)["p"] == 1
