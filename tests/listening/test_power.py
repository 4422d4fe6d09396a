from __future__ import annotations

import numpy as np
import pytest

from vivace.core.errors import UsageError
from vivace.listening.crossed import estimate
from vivace.listening.power import LISTENERS, USUAL, Spread, measured, needs, outlook, provable


@pytest.mark.parametrize("power", [0.8, 0.9])
def test_the_promise_is_kept(power: float) -> None:
    """What is truly equal is proven so in about that share of simulated tests."""
    need = needs(0.2, USUAL["acr"], power)[1]
    draw, spread, proven = np.random.default_rng(0), USUAL["acr"], 0
    who, what = np.indices((need.listeners, need.texts))
    for _ in range(300):
        values = draw.normal(0, spread.listener, need.listeners)[:, None] + draw.normal(0, spread.text, need.texts)
        values = values + draw.normal(0, spread.rest, who.shape)
        proven += estimate(values.ravel(), who.ravel(), what.ravel()).low > -0.2
    assert power - 0.08 < proven / 300 < power + 0.1


def test_more_listeners_need_fewer_texts() -> None:
    found = needs(0.25, USUAL["acr"])
    assert [n.texts for n in found] == sorted((n.texts for n in found), reverse=True)
    assert all(n.detects <= 0.25 < provable(USUAL["acr"], n.listeners, n.texts - 1) for n in found if n.texts > 4)
    assert all(n.pairs == n.listeners * n.texts for n in found)


def test_out_of_reach_and_impossible() -> None:
    assert needs(0.001, USUAL["acr"]) == []
    for margin, power in [(0, 0.8), (0.2, 1.0), (0.2, 0.1)]:
        with pytest.raises(UsageError):
            needs(margin, USUAL["acr"], power)


def test_a_pilot_says_its_own_spread() -> None:
    draw = np.random.default_rng(5)
    who, what = np.indices((40, 40))
    values = draw.normal(0, 0.5, 40)[:, None] + draw.normal(0, 1.0, who.shape)
    rows = list(zip(values.ravel(), who.ravel(), what.ravel(), strict=True))
    spread = measured([(float(v), int(a), int(b)) for v, a, b in rows])
    assert spread.listener == pytest.approx(0.5, rel=0.3) and spread.rest == pytest.approx(1.0, rel=0.1)
    assert isinstance(spread, Spread) and spread.text < 0.1
    with pytest.raises(UsageError, match="too small"):
        measured([])


def test_a_test_says_what_it_can_prove() -> None:
    enough = outlook("acr", 0.2, 27)
    assert enough.startswith("with 27 texts, 32 listeners prove a margin of 0.2 of MOS")
    few = outlook("acr", 0.2, 8)
    assert "at best" in few and "take" in few
    assert provable(USUAL["acr"], LISTENERS[-1], 8) > 0.2


def test_a_pilot_that_nobody_has_answered() -> None:
    with pytest.raises(UsageError, match="nobody who counts has rated both"):
        measured([])
