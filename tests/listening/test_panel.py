"""Twenty scripted listeners: their known preference is found, with an interval that is right, and those who click
without listening are found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from listening.panel import chooser, clicker, listen, make, rater
from vivace.listening.design import ANSWERS, Design
from vivace.listening.results import results

BETTER, SHARE = 0.5, 0.7


def quality(seed: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(0, 0.3) for _ in range(20)]


def test_twenty_listeners_and_a_random_clicker_rate(tmp_path: Path) -> None:
    store, clock = make(tmp_path, Design("acr", "which", 0.2))
    texts = quality(0)
    for k in range(20):
        listen(store, clock, rater(k, BETTER, texts))
    before = results(store)
    random_one = listen(store, clock, clicker(5, ANSWERS["acr"]))
    found = results(store)
    (difference,) = [c.difference for c in found.comparisons]
    assert difference and difference.low < BETTER < difference.high
    assert difference.low > 0 and difference.high - difference.low < 0.6, "and it says something"
    assert (difference.listeners, difference.texts, difference.n) == (20, 20, 400)
    assert {v.listener for v in found.verdicts if not v.counted} == {random_one}
    assert found.screened_out == 1 and found.counted == 20
    assert found.systems == before.systems, "whoever is screened out changes nothing"
    assert found.comparisons[0].holds


def test_twenty_listeners_and_a_random_clicker_choose(tmp_path: Path) -> None:
    store, clock = make(tmp_path, Design("preference", "which", 0.1))
    for k in range(20):
        listen(store, clock, chooser(k, SHARE))
    random_one = listen(store, clock, clicker(3, ANSWERS["preference"]))
    found = results(store)
    share = found.comparisons[0].difference
    truth = 0.9 * SHARE + 0.1 * 0.5
    assert share and share.low < truth < share.high and share.low > 0.5
    assert [v.listener for v in found.verdicts if not v.counted] == [random_one]
    assert not found.systems, "a preference is no MOS"


@pytest.mark.parametrize("kind", ["acr", "preference"])
def test_over_many_panels(tmp_path: Path, kind: str) -> None:
    """The interval holds the truth in about 95 of 100 panels; few honest listeners are lost, few clickers stay."""
    held = honest_lost = clickers_kept = 0
    panels = 15
    for panel in range(panels):
        (tmp_path / str(panel)).mkdir()
        store, clock = make(tmp_path / str(panel), Design(kind, "which", 0.1))  # type: ignore[arg-type]
        texts = quality(panel)
        for k in range(8):
            seed = 100 * panel + k
            listen(store, clock, rater(seed, BETTER, texts) if kind == "acr" else chooser(seed, SHARE))
        bad = {listen(store, clock, clicker(7 + panel * 10 + k, ANSWERS[kind])) for k in range(2)}
        found = results(store)
        kept = {v.listener for v in found.verdicts if v.counted}
        clickers_kept += len(kept & bad)
        honest_lost += 8 - len(kept - bad)
        e = found.comparisons[0].difference
        truth = BETTER if kind == "acr" else 0.9 * SHARE + 0.05
        held += bool(e and e.low <= truth <= e.high)
    assert held >= 13, f"{held} of {panels}"
    assert honest_lost <= 2 and clickers_kept <= 4, (honest_lost, clickers_kept)  # of 120 and 30


def test_a_panel_of_equals_is_not_told_apart(tmp_path: Path) -> None:
    store, clock = make(tmp_path, Design("acr", "which", 0.3))
    for k in range(20):
        listen(store, clock, rater(50 + k, 0.0, quality(1)))
    (found,) = results(store).comparisons
    assert found.difference and found.difference.low < 0 < found.difference.high and found.holds
