"""How many listeners and texts the margin needs, before anybody is asked.

A difference of `sd_listener`, `sd_text` and `sd_rest` (standard deviations of the paired difference between listeners,
between texts, and of one pair of ratings) is known after R listeners with n texts each, of T, with a variance of
`sd_listener^2 / R + sd_text^2 / T + sd_rest^2 / (R n)`. Two systems that are truly equal are found to be so, with the
wanted power, where the margin is at least `(t(0.975) + z(power)) * sqrt(variance)`: the rule for non-inferiority of
S. A. Julious, "Sample sizes for clinical trials with Normal data" (Statistics in Medicine 23, 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from vivace.core.errors import UsageError
from vivace.listening.crossed import components, student
from vivace.listening.design import Kind

LISTENERS = (6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
MOST_TEXTS = 120


@dataclass(frozen=True)
class Spread:
    """Of one paired difference: points of MOS, or shares."""

    listener: float
    text: float
    rest: float


# To assume while there is no pilot. Two near-equal versions of one voice differ little between listeners and texts; one
# rating on the scale of five varies by about 0.75, so a difference of two by about 1.05. A choice among two varies by
# half at most, less with ties.
USUAL: dict[Kind, Spread] = {"acr": Spread(0.25, 0.2, 1.05), "preference": Spread(0.08, 0.08, 0.45)}


@dataclass(frozen=True)
class Need:
    """One way to reach the power: so many listeners, each with so many texts. `pairs` of ratings in all; `detects`: the
    margin that it proves with that power."""

    listeners: int
    texts: int
    pairs: int
    detects: float


def needs(margin: float, spread: Spread, power: float = 0.8) -> list[Need]:
    """For each number of listeners the fewest texts that are enough; empty where even 120 texts are not, for the most
    listeners. Raises UsageError for a margin or power that cannot be."""
    if margin <= 0:
        raise UsageError(f"the margin is {margin:g}; it must be above 0")
    if not 0.5 <= power < 1:
        raise UsageError(f"the power is {power:g}; it must lie between 0.5 and 1")
    found = []
    for listeners in LISTENERS:
        enough = next((n for n in range(4, MOST_TEXTS + 1) if provable(spread, listeners, n, power) <= margin), 0)
        if enough:
            found.append(Need(listeners, enough, listeners * enough, provable(spread, listeners, enough, power)))
            if enough == 4:
                break
    return found


def provable(spread: Spread, listeners: int, texts: int, power: float = 0.8) -> float:
    """The smallest margin that so many listeners with as many texts each prove with this power."""
    variance = spread.listener**2 / listeners + (spread.text**2 + spread.rest**2 / listeners) / texts
    return (student(0.975, min(listeners, texts) - 1) + NormalDist().inv_cdf(power)) * sqrt(variance)


def outlook(kind: Kind, margin: float, texts: int, power: float = 0.8) -> str:
    """What a test with so many texts can prove, in a line, from the usual spread."""
    spread, per = USUAL[kind], "of MOS" if kind == "acr" else "as a share"
    enough = next((r for r in LISTENERS if provable(spread, r, max(texts, 2), power) <= margin), 0)
    if enough:
        chance = f"({power:.0%} power, usual spread)"
        return f"with {texts} texts, {enough} listeners prove a margin of {margin:g} {per} {chance}"
    best, least = provable(spread, LISTENERS[-1], max(texts, 2), power), needs(margin, spread, power)
    more = f"take {least[-1].texts} texts or more" if least else "widen the margin"
    return f"{texts} texts prove {best:.2f} {per} at best, with {LISTENERS[-1]} listeners; for {margin:g}, {more}"


def measured(rows: Sequence[tuple[float, int, int]]) -> Spread:
    """The spread in a pilot: differences with their listener and text. Raises UsageError if there are too few."""
    if not rows:
        raise UsageError("the pilot is too small to say anything: nobody who counts has rated both systems yet")
    try:
        values, listeners, texts = zip(*rows, strict=True)
        return Spread(*components(values, listeners, texts))
    except ValueError as error:
        raise UsageError(f"the pilot is too small to say anything: {error}") from None
