"""What the listeners said: a mean for every system, and how each differs from the first, with 95% intervals.

Only the answers of listeners who passed the screening count, and no checks. MOS here is what people said (ITU-T P.800);
nothing predicted is ever mixed in.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any

from vivace.listening.crossed import Estimate, estimate
from vivace.listening.design import Clip
from vivace.listening.screening import Verdict, screen
from vivace.listening.store import Answer, Store

SCALE = {"acr": (1.0, 5.0), "preference": (0.0, 1.0)}
CHANGE = {"acr": (-4.0, 4.0), "preference": (0.0, 1.0)}


@dataclass(frozen=True)
class Scored:
    """The MOS of one system."""

    name: str
    digest: str
    mos: Estimate | None


@dataclass(frozen=True)
class Compared:
    """`difference`: points of MOS of `system` above `reference`, the same listener and text; or for preferences the
    share that preferred `system`, ties as halves. `ties`: their share. `holds`: whether the interval proves that
    `system` is not worse by the margin."""

    system: str
    reference: str
    difference: Estimate | None
    ties: float
    holds: bool


@dataclass(frozen=True)
class Results:
    kind: str
    title: str
    margin: float
    systems: tuple[Scored, ...]
    comparisons: tuple[Compared, ...]
    verdicts: tuple[Verdict, ...]
    names: tuple[str, ...]
    ratings: int
    comments: tuple[tuple[int, str], ...]

    @property
    def counted(self) -> int:
        return sum(v.counted for v in self.verdicts)

    @property
    def screened_out(self) -> int:
        """Listeners who answered something and are not counted."""
        return sum(v.answered > 0 and not v.counted for v in self.verdicts)

    @property
    def not_begun(self) -> int:
        return sum(v.answered == 0 for v in self.verdicts)

    def plain(self) -> dict[str, Any]:
        """As JSON: bounds that are not known are null."""
        counts = {"counted": self.counted, "screened_out": self.screened_out, "not_begun": self.not_begun}
        data = asdict(self) | counts
        return dict(_finite(data))


def results(store: Store) -> Results:
    answers = store.answers()
    verdicts = screen(answers)
    names = store.listeners()
    good = [
        a for a in answers if a.answer is not None and not a.expected and verdicts[a.listener].counted
    ]  # fmt: skip
    kind = store.design.kind
    compared = _preferences(store, good) if kind == "preference" else _differences(store, good)
    scored = tuple(_mos(store, k, good) for k in range(len(store.systems))) if kind == "acr" else ()
    return Results(
        kind, store.design.title, store.design.margin, scored, compared,
        tuple(verdicts[who] for who in sorted(verdicts)), tuple(names[who] for who in sorted(verdicts)), len(good),
        tuple(store.comments()),
    )  # fmt: skip


def mos_of(store: Store, digest: str) -> dict[str, Any] | None:
    """The MOS that listeners gave to the bundle with this digest, as plain JSON for a report; None if it was not
    rated on the scale of five by anybody who counts."""
    found = results(store)
    for one in found.systems:
        if one.digest == digest and one.mos:
            return dict(_finite({
                "system": one.name, "mos": one.mos.mean, "low": one.mos.low, "high": one.mos.high,
                "ratings": one.mos.n, "listeners": one.mos.listeners, "clips": one.mos.texts,
                "screened_out": found.screened_out, "test": found.title,
            }))  # fmt: skip
    return None


def export(store: Store) -> str:
    """Every trial of every listener as CSV, checks and those who were screened out included."""
    verdicts, names = screen(store.answers()), store.listeners()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([
        "listener", "name", "trial", "text", "first", "second", "check", "answer", "preferred", "at", "seconds",
        "clip_seconds", "times_answered", "counted", "why_not",
    ])  # fmt: skip
    for a in store.answers():
        sides = [_named(store, a.first), _named(store, a.second) if a.second else ""]
        preferred = "" if a.second is None or a.answer is None else {-1: sides[0], 0: "neither", 1: sides[1]}[a.answer]
        at = "" if a.at is None else datetime.fromtimestamp(a.at, UTC).isoformat(timespec="seconds")
        verdict = verdicts[a.listener]
        row = [
            a.listener, names[a.listener], a.position + 1, store.texts[a.first.text], *sides, a.expected,
            "" if a.answer is None else a.answer, preferred, at, "" if a.seconds is None else round(a.seconds, 2),
            round(a.length, 2), a.times, "yes" if verdict.counted else "no", verdict.reason,
        ]  # fmt: skip
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: object) -> object:
    """Spreadsheets run what begins like a formula (CWE-1236): such text gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _named(store: Store, clip: Clip) -> str:
    return store.systems[clip.system].name + (" (damaged)" if clip.damaged else "")


def _mos(store: Store, system: int, good: Sequence[Answer]) -> Scored:
    mine = [a for a in good if a.first.system == system]
    return Scored(store.systems[system].name, store.systems[system].digest, _estimate(
        [(float(a.answer or 0), a.listener, a.first.text) for a in mine], SCALE["acr"]
    ))  # fmt: skip


def paired(good: Sequence[Answer], system: int) -> list[tuple[float, int, int]]:
    """The rating of a system less that of the first one, for each listener and text that has both."""
    said: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for a in good:
        said[a.listener, a.first.text][a.first.system] = float(a.answer or 0)
    return [(of[system] - of[0], who, text) for (who, text), of in said.items() if system in of and 0 in of]


def preferred(good: Sequence[Answer]) -> list[tuple[float, int, int]]:
    """1 where the second system was preferred, 0 where the first, a half for neither."""
    found = []
    for a in good:
        toward = float(a.answer or 0) if a.first.system == 0 else -float(a.answer or 0)
        found.append(((1 + toward) / 2, a.listener, a.first.text))
    return found


def _differences(store: Store, good: Sequence[Answer]) -> tuple[Compared, ...]:
    made = []
    for k, system in enumerate(store.systems[1:], 1):
        rows = paired(good, k)
        found = _estimate(rows, CHANGE["acr"])
        ties = sum(value == 0 for value, _, _ in rows) / max(1, len(rows))
        holds = found is not None and found.low > -store.design.margin
        made.append(Compared(system.name, store.systems[0].name, found, ties, holds))
    return tuple(made)


def _preferences(store: Store, good: Sequence[Answer]) -> tuple[Compared, ...]:
    rows = preferred(good)
    found = _estimate(rows, SCALE["preference"])
    ties = sum(value == 0.5 for value, _, _ in rows) / max(1, len(rows))
    holds = found is not None and found.low > 0.5 - store.design.margin
    return (Compared(store.systems[1].name, store.systems[0].name, found, ties, holds),)


def _estimate(rows: Sequence[tuple[float, int, int]], scale: tuple[float, float]) -> Estimate | None:
    """Within the scale: no mean lies beyond its ends."""
    if not rows:
        return None
    values, listeners, texts = zip(*rows, strict=True)
    e = estimate(values, listeners, texts)
    low, high = (bound if abs(bound) == inf else min(max(bound, scale[0]), scale[1]) for bound in (e.low, e.high))
    return Estimate(e.mean, low, high, e.n, e.listeners, e.texts)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and abs(value) == inf else value
