from __future__ import annotations

from pathlib import Path

import pytest

from listening.panel import Says, clicker, listen, make, rater
from vivace.listening.design import Design
from vivace.listening.screening import screen
from vivace.listening.store import Answer, Store

TEXTS = [0.0] * 20


def test_all_reasons(tmp_path: Path) -> None:
    store, clock = make(tmp_path, Design("acr", "which", 0.2))
    good = [listen(store, clock, rater(k, 0.3, TEXTS)) for k in range(6)]
    ones = listen(store, clock, lambda trial: 1)
    fives = listen(store, clock, lambda trial: 5)
    hasty = listen(store, clock, rater(30, 0.3, TEXTS), pause=0.4)
    curious = listen(store, clock, rater(31, 0.3, TEXTS), trials=1)
    absent = listen(store, clock, rater(32, 0.3, TEXTS), trials=0)
    found = screen(store.answers())
    assert all(found[who].counted for who in good)
    assert found[ones].reason == "heard 0 of 6 checks" == found[fives].reason
    assert found[hasty].reason == "answered 46 of 46 before the clips had played"
    assert found[curious].reason == "has answered too little to be judged"
    assert found[absent].reason == "has not begun"
    assert not any(found[who].counted for who in (ones, fives, hasty, curious, absent))


def test_one_slip_is_forgiven_two_are_not(tmp_path: Path) -> None:
    store, clock = make(tmp_path, Design("preference", "which", 0.1))

    def slipping(slips: int) -> Says:
        left = slips

        def says(trial: Answer) -> int:
            nonlocal left
            right = {"first": -1, "second": 1}.get(trial.expected, 0)
            if trial.expected and left:
                left -= 1
                return -right
            return right

        return says

    once, twice = listen(store, clock, slipping(1)), listen(store, clock, slipping(2))
    found = screen(store.answers())
    assert found[once].counted and not found[twice].counted


def lucky(seed: int) -> Says:
    """Clicks at random, but meets every check."""
    by_chance = clicker(seed, (1, 2, 3, 4, 5))
    return lambda trial: 1 if trial.expected else by_chance(trial)


def contrary(trial: Answer) -> int:
    return 1 if trial.expected else 4 - 2 * trial.first.system


@pytest.mark.parametrize("panel", [4, 6])
def test_agreement_judges_only_within_a_panel(tmp_path: Path, panel: int) -> None:
    store, clock = make(tmp_path, Design("acr", "which", 0.2))
    for k in range(panel - 1):
        listen(store, clock, rater(k, 2.0, TEXTS))
    odd = listen(store, clock, contrary)
    found = screen(store.answers())[odd]
    assert found.agreement is not None and found.agreement < 0.3
    assert found.counted == (panel < 5)
    assert panel < 5 or found.reason.startswith("agrees with nobody")


def test_half_a_test_is_judged_by_what_is_there(tmp_path: Path) -> None:
    store, clock = make(tmp_path, Design("acr", "which", 0.2))
    half = listen(store, clock, rater(1, 0.3, TEXTS), trials=12)
    found = screen(store.answers())[half]
    assert found.counted and (found.answered, found.trials) == (12, 46) and found.checks >= 1


def test_nobody(tmp_path: Path) -> None:
    store: Store = make(tmp_path, Design("acr", "which", 0.2))[0]
    assert screen(store.answers()) == {}
