"""Who listened: every listener is judged by the same rules, and by nothing that favours a system.

1. Checks. Clips that were damaged on purpose are among the others. An attentive listener calls 95% of them bad; someone
   who clicks without listening does so by chance. Whichever explains the answers better is believed.
2. Speed. An answer that came before its clips could have been played to half was given without hearing them; more
   than a fifth of such answers are too many.
3. Agreement. The correlation of the answers, checks included, with what the others said of the same clips (after
   ITU-R BT.500 and ITU-T P.913). Someone whose correlation lies for certain (one-sided 95%, Fisher 1915) below half
   of the panel's median is not believed, if there are five listeners or more.
A listener who has answered no check yet is not judged, and not counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atanh, log, sqrt, tanh
from statistics import median

import numpy as np

from vivace.listening.store import Answer

ATTENTIVE = 0.95
BY_CHANCE = {"low": 0.4, "first": 0.5, "second": 0.5}  # 1 or 2 of 5; one of the two sides
LOW = 2  # on the scale of five
HASTY_SHARE, HEARD_SHARE = 0.2, 0.5
FEWEST_LISTENERS, FEWEST_TRIALS = 5, 8
CERTAIN = 1.645


@dataclass(frozen=True)
class Verdict:
    """`counted`: whether the answers are part of the results; `reason`: why not. `agreement` is None where it cannot
    be computed."""

    listener: int
    answered: int
    trials: int
    checks_passed: int
    checks: int
    hasty: int
    agreement: float | None
    counted: bool
    reason: str = ""


def screen(answers: Sequence[Answer]) -> dict[int, Verdict]:
    """A verdict for every listener of a test."""
    by: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by[answer.listener].append(answer)
    agreement = _agreement(answers)
    typical = median(agreement[who][0] for who in agreement) if agreement else 0.0
    return {who: _judge(who, all_, agreement.get(who), typical, len(agreement)) for who, all_ in by.items()}


def passed(answer: Answer, usual: float) -> bool:
    """Whether a check was heard for what it is. `usual`: the middle of the listener's other answers, so that one who
    says 1 to everything passes nothing."""
    if answer.expected == "low":
        return answer.answer is not None and answer.answer <= LOW and answer.answer < usual
    return answer.answer == (-1 if answer.expected == "first" else 1)


def _judge(
    who: int, trials: Sequence[Answer], agreement: tuple[float, int] | None, typical: float, panel: int
) -> Verdict:
    done = [a for a in trials if a.answer is not None]
    checks = [a for a in done if a.expected]
    plain = [float(a.answer or 0) for a in done if not a.expected]
    usual = median(plain) if plain else 0.0
    good = [passed(a, usual) for a in checks]
    hasty = sum(a.seconds is None or a.seconds < HEARD_SHARE * a.length for a in done)
    reason = ""
    if not done:
        reason = "has not begun"
    elif not checks or not plain:
        reason = "has answered too little to be judged"
    elif _log_odds(checks, good) < 0:
        reason = f"heard {sum(good)} of {len(good)} checks"
    elif hasty > HASTY_SHARE * len(done):
        reason = f"answered {hasty} of {len(done)} before the clips had played"
    elif agreement and panel >= FEWEST_LISTENERS and _upper(*agreement) < typical / 2:
        reason = f"agrees with nobody (correlation {agreement[0]:.2f}, the panel's median {typical:.2f})"
    return Verdict(
        who, len(done), len(trials), sum(good), len(checks), hasty, agreement[0] if agreement else None,
        not reason, reason,
    )  # fmt: skip


def _log_odds(checks: Sequence[Answer], good: Sequence[bool]) -> float:
    """Attentive against clicking: above 0 the listener is believed."""
    return sum(
        log(ATTENTIVE / BY_CHANCE[a.expected]) if ok else log((1 - ATTENTIVE) / (1 - BY_CHANCE[a.expected]))
        for a, ok in zip(checks, good, strict=True)
    )


def _agreement(answers: Sequence[Answer]) -> dict[int, tuple[float, int]]:
    """For each listener the correlation with the others' mean over the same clips, and over how many trials."""
    said: dict[object, dict[int, float]] = defaultdict(dict)
    for a in answers:
        if a.answer is not None:
            said[_what(a)][a.listener] = _towards(a)
    found = {}
    for who in {a.listener for a in answers}:
        own, others = [], []
        for by in said.values():
            if who in by and len(by) > 1:
                own.append(by[who])
                others.append((sum(by.values()) - by[who]) / (len(by) - 1))
        if len(own) >= FEWEST_TRIALS:
            found[who] = (_correlation(own, others), len(own))
    return found


def _what(a: Answer) -> object:
    """The clip, or the pair whichever way round it was played."""
    return a.first.id if a.second is None else tuple(sorted((a.first.id, a.second.id)))


def _towards(a: Answer) -> float:
    """The rating; of a pair, how far the clip with the lower number was preferred."""
    assert a.answer is not None
    return float(a.answer if a.second is None or a.first.id > a.second.id else -a.answer)


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    if np.std(a) == 0 or np.std(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _upper(correlation: float, n: int) -> float:
    return tanh(atanh(min(0.999, max(-0.999, correlation))) + CERTAIN / sqrt(max(1, n - 3)))


def counted(verdicts: Mapping[int, Verdict]) -> set[int]:
    return {who for who, verdict in verdicts.items() if verdict.counted}
