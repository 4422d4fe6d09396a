"""What a listening test asks, and which trials one listener gets, in which order.

`acr`: one clip at a time on the scale of ITU-T P.800 (absolute category rating), whose mean is a mean opinion score.
`preference`: the same text twice, which one is better, or neither.
Both are blind: a listener hears of no system, no file and no order; sides and order are drawn for each listener.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vivace.core.errors import UsageError

Kind = Literal["acr", "preference"]
ANSWERS: dict[Kind, tuple[int, ...]] = {"acr": (1, 2, 3, 4, 5), "preference": (-1, 0, 1)}
Expected = Literal["", "low", "first", "second"]  # what an attentive listener says of a check


@dataclass(frozen=True)
class Design:
    """`margin`: how much worse still counts as equal, fixed before anybody listens: points of MOS, or for preferences a
    share (0.1: preferred by 40% at least). `per_listener`: texts that one hears (0: all). `checks`: trials with a
    clip that was badly damaged on purpose."""

    kind: Kind
    title: str
    margin: float
    per_listener: int = 0
    checks: int = 6

    def __post_init__(self) -> None:
        if self.kind not in ANSWERS:
            raise UsageError(f"unknown kind {self.kind!r} of listening test; choose {' or '.join(ANSWERS)}")
        most = 4.0 if self.kind == "acr" else 0.5
        if not 0 < self.margin < most:
            raise UsageError(f"the margin is {self.margin:g}; it must lie between 0 and {most:g}")
        if self.per_listener < 0:
            raise UsageError(f"{self.per_listener} texts for each listener are not possible; 0 means all")
        if self.checks < 2:
            raise UsageError(f"{self.checks} checks cannot tell who listens; take 2 at least (6 is usual)")


@dataclass(frozen=True)
class Clip:
    """`damaged` clips are the checks'. Systems and texts are numbers, from 0."""

    id: int
    system: int
    text: int
    damaged: bool


@dataclass(frozen=True)
class Trial:
    """What is played: one clip, or two in this order."""

    first: int
    second: int | None = None
    expected: Expected = ""


def plan(design: Design, clips: Sequence[Clip], listener: int, seed: int) -> list[Trial]:
    """The trials of the listener with this number (from 0), the same for the same seed.

    Where one hears only some of the texts, the next listener goes on where this one stopped, so that every text is
    heard about equally often. A check comes within the first five trials, the others are spread over the rest.
    """
    draw = random.Random(f"{seed} {listener}")  # noqa: S311 - an order, not a secret
    plain = {(c.system, c.text): c.id for c in clips if not c.damaged}
    damaged = {c.text: c.id for c in clips if c.damaged}
    texts = sorted({text for _, text in plain})
    count = min(design.per_listener or len(texts), len(texts))
    mine = [texts[(listener * count + k) % len(texts)] for k in range(count)]
    if design.kind == "acr":
        systems = sorted({system for system, _ in plain})
        trials = [(text, Trial(plain[system, text])) for text in mine for system in systems]
    else:
        trials = [(text, _pair(draw, plain[0, text], plain[1, text])) for text in mine]
    order = _apart(draw, trials)
    bad = draw.sample(sorted(damaged), min(design.checks, len(damaged)))
    checks = [_check(draw, design.kind, damaged[text], plain[0, text]) for text in bad]
    return _spread(draw, order, checks)


def _pair(draw: random.Random, a: int, b: int) -> Trial:
    return Trial(a, b) if draw.random() < 0.5 else Trial(b, a)


def _check(draw: random.Random, kind: Kind, damaged: int, good: int) -> Trial:
    if kind == "acr":
        return Trial(damaged, expected="low")
    return Trial(good, damaged, "first") if draw.random() < 0.5 else Trial(damaged, good, "second")


def _apart(draw: random.Random, trials: list[tuple[int, Trial]]) -> list[Trial]:
    """In random order; the same text twice in a row only where there is no other left."""
    left, made, last = list(trials), list[Trial](), -1
    draw.shuffle(left)
    while left:
        at = next((k for k, (text, _) in enumerate(left) if text != last), 0)
        last, trial = left.pop(at)
        made.append(trial)
    return made


def _spread(draw: random.Random, order: list[Trial], checks: list[Trial]) -> list[Trial]:
    """One check in each of equal parts of the order, the first within the first five trials."""
    made, size = list(order), len(order) / max(1, len(checks))
    for k in reversed(range(len(checks))):
        low, high = int(k * size), max(int(k * size), int((k + 1) * size) - 1)
        made.insert(draw.randint(low, min(high, 4) if k == 0 else high), checks[k])
    return made
