from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from vivace.core.errors import UsageError
from vivace.listening.design import Clip, Design, plan

CLIPS = [Clip(k, k // 12, k % 12, False) for k in range(24)] + [Clip(24 + k, 0, k, True) for k in range(12)]
OF = {clip.id: clip for clip in CLIPS}


@pytest.mark.parametrize("listener", range(5))
def test_everybody_rates_every_clip_once(listener: int) -> None:
    trials = plan(Design("acr", "x", 0.2), CLIPS, listener, seed=1)
    assert Counter(t.first for t in trials if not t.expected) == Counter(range(24))
    checks = [k for k, t in enumerate(trials) if t.expected]
    assert len(checks) == 6 and checks[0] < 5 and all(OF[trials[k].first].damaged for k in checks)
    assert trials == plan(Design("acr", "x", 0.2), CLIPS, listener, seed=1)
    assert trials != plan(Design("acr", "x", 0.2), CLIPS, listener + 1, seed=1)


def test_a_text_seldom_follows_itself() -> None:
    twice = 0
    for listener in range(50):
        trials = [t for t in plan(Design("acr", "x", 0.2), CLIPS, listener, seed=1) if not t.expected]
        twice += sum(OF[a.first].text == OF[b.first].text for a, b in pairwise(trials))
    assert twice < 10


def test_sides_are_drawn() -> None:
    firsts: Counter[int] = Counter()
    for listener in range(40):
        for trial in plan(Design("preference", "x", 0.1), CLIPS, listener, seed=1):
            assert trial.second is not None and OF[trial.first].text == OF[trial.second].text
            if trial.expected:
                assert OF[trial.first if trial.expected == "second" else trial.second].damaged
            else:
                firsts[OF[trial.first].system] += 1
    assert 190 < firsts[0] < 290 and sum(firsts.values()) == 480


def test_with_a_part_of_the_texts_each_is_heard_equally_often() -> None:
    heard: Counter[int] = Counter()
    for listener in range(12):
        trials = plan(Design("acr", "x", 0.2, per_listener=5), CLIPS, listener, seed=1)
        heard.update(OF[t.first].text for t in trials if not t.expected)
    assert set(heard.values()) == {10} and len(heard) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mushra"}, "choose acr or preference"),
        ({"margin": 0}, "between 0 and 4"),
        ({"kind": "preference", "margin": 0.6}, "between 0 and 0.5"),
        ({"checks": 1}, "take 2 at least"),
        ({"per_listener": -1}, "0 means all"),
    ],
)
def test_designs_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Design(**({"kind": "acr", "title": "x", "margin": 0.2} | change))  # type: ignore[arg-type]
