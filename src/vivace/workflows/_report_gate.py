"""The gate of an optimize report: each trial with its reasons, the margins, and the proof that it can say no."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vivace.workflows._report_story import Story, far_end, quotient
from vivace.workflows._report_tables import (
    NONE,
    Cell,
    Json,
    Table,
    arrow,
    bounds,
    kind,
    label,
    megabytes,
    named,
    number,
    plain,
    ranked,
    ratio,
    short,
    table,
    value,
)


@dataclass(frozen=True)
class Trial:
    """One pass, or candidate of a search, that was tried. `facts` are the three figures that the decision hangs on,
    `words` what the name of a candidate leaves out."""

    number: int
    name: str
    detail: str
    kept: bool
    variant: int | None
    reasons: tuple[str, ...]
    facts: tuple[tuple[str, str, str], ...]
    settings: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    words: str = ""


def trials(story: Story) -> tuple[Trial, ...]:
    return tuple(_trial(story, k, t) for k, t in enumerate(story.trials, 1))


def _trial(story: Story, k: int, data: Json) -> Trial:
    told, words = named(str(data.get("label") or ""))
    name = told if words else str(data.get("pass") or told)
    detail = "" if told == name else told.removeprefix(name).strip()
    given = dict(data.get("settings") or {})
    settings = [(f"step {k}", plain(step)) for k, step in enumerate(given.pop("passes", None) or (), 1)]
    settings += [(str(key), plain(v)) for key, v in given.items() if plain(v) != NONE]
    settings += [("objective", data["objective"])] if data.get("objective") else []
    settings += [("time taken", f"{number(data['seconds'])} s")] if data.get("seconds") is not None else []
    reasons = tuple(str(r) for r in data.get("reasons") or ())
    tables = tuple(t for t in (_speed_table(data), _quality_table(story, data.get("quality") or ())) if t)
    return Trial(
        k,
        name,
        detail,
        bool(data.get("kept")),
        story.number_of(data.get("child")),
        reasons,
        tuple(_facts(story, data)),
        tuple(settings),
        tables,
        words,
    )


def _facts(story: Story, data: Json) -> Iterable[tuple[str, str, str]]:
    speed = data.get("speed") or ()
    preferred = [s for text in ("all", story.typical) for s in speed if s.get("text") == text]
    row = next(iter([*preferred, *speed]), None)
    if row:
        yield f"Speed, {_on(row)}", ratio(value(row.get("ratio"))), bounds(row.get("ratio"), ratio)
    size = data.get("size") or {}
    if size.get("child_mb") is not None:
        yield "Size", f"{megabytes(size.get('parent_mb'))} → {megabytes(size['child_mb'])} MB", ""
    for q in data.get("quality") or ():
        if q.get("metric") in ("predicted_mos", "wer", "accuracy"):
            how = story.scale(q["metric"])
            difference = q.get("difference")
            yield short(q["metric"]), how.change(value(difference)), bounds(difference, how.change)


def _on(row: Json) -> str:
    return "all texts" if row.get("text") == "all" else kind(str(row.get("text", "")))


def _speed_table(data: Json) -> Table | None:
    rows = [
        (
            Cell(_on(s)),
            Cell(str(s.get("threads", NONE))),
            Cell(ratio(value(s.get("ratio"))), bounds(s.get("ratio"), ratio)),
            _judged(s.get("ok"), "passes", "fails"),
        )
        for s in data.get("speed") or ()
    ]
    size = data.get("size") or {}
    if size:
        figure = quotient(size.get("parent_mb"), size.get("child_mb"))
        told = f"{megabytes(size.get('parent_mb'))} → {megabytes(size.get('child_mb'))} MB"
        rows.append((Cell("size"), Cell(NONE), Cell(figure, told), _judged(size.get("ok"), "passes", "fails")))
    columns = ("Measure", "Threads", "Ratio", "Gate")
    return table("Speed and size against the parent", columns, rows, (0, 3)) if rows else None


def _quality_table(story: Story, entries: Sequence[Json]) -> Table | None:
    rows = []
    order = ranked(q.get("metric", "") for q in entries)
    for q in sorted(entries, key=lambda q: order.index(q.get("metric", ""))):
        how = story.scale(q.get("metric", ""))
        margin = q.get("margin")
        rows.append(
            (
                Cell(how.title + arrow(how.better)),
                Cell(how.score(value(q.get("parent"))), bounds(q.get("parent"), how.score)),
                Cell(how.score(value(q.get("child"))), bounds(q.get("child"), how.score)),
                Cell(how.change(value(q.get("difference"))), bounds(q.get("difference"), how.change)),
                Cell(how.limit(margin)),
                _judged(q.get("ok"), "within margin", "beyond margin"),
            )
        )
    columns = ("Metric", "Parent", "Child", "Difference", "Margin", "Gate")
    return table("Quality against the parent", columns, rows, (0, 5)) if rows else None


def _judged(ok: bool | None, yes: str, no: str) -> Cell:
    if ok is None:
        return Cell("reported only", tone="quiet")
    return Cell(f"✓ {yes}", tone="good") if ok else Cell(f"✕ {no}", tone="bad")


def noise_floor(story: Story) -> Table | None:
    """How far the original is from itself with another seed, and how many times that the margins are."""
    rows = []
    entries = story.details.get("noise_floor") or ()
    order = ranked(entry.get("metric", "") for entry in entries)
    for entry in sorted(entries, key=lambda entry: order.index(entry.get("metric", ""))):
        how, difference, margin = story.scale(entry.get("metric", "")), entry.get("difference"), entry.get("margin")
        reach = far_end(difference)
        room = margin / reach if margin and reach else None
        rows.append(
            (
                Cell(how.title),
                Cell(how.change(value(difference)), bounds(difference, how.change)),
                Cell(how.limit(margin)),
                Cell(ratio(room), tone="bad" if room is not None and room < 1 else ""),
            )
        )
    columns = ("Metric", "Another seed", "Margin of the gate", "Margin ÷ far end of the interval")
    return table("Noise floor: the original against itself with another seed", columns, rows) if rows else None


def sensitivity(story: Story) -> Table | None:
    """Metrics down, damages across: which metric saw which damage, and whether the gate refused it."""
    damages: Sequence[Json] = story.details.get("sensitivity") or ()
    if not damages:
        return None
    metrics = ranked(m for d in damages for m in (*(d.get("seen_by") or ()), *(d.get("missed_by") or ())))
    verdicts = [
        Cell("✓ refused", tone="good") if d.get("refused") else Cell("✕ let through", tone="bad") for d in damages
    ]
    rows = [(Cell("The gate"), *verdicts)]
    rows += [(Cell(story.scale(m).title), *(_seen(story, d, m) for d in damages)) for m in metrics]
    columns = ("Judge", *(str(d.get("damage", "")) for d in damages))
    return table("Sensitivity: deliberate damage must be refused", columns, rows, tuple(range(len(columns))))


def _seen(story: Story, damage: Json, metric: str) -> Cell:
    quality = next((q for q in damage.get("quality") or () if q.get("metric") == metric), None)
    change = story.scale(metric).change(value(quality.get("difference"))) if quality else ""
    if metric in (damage.get("seen_by") or ()):
        return Cell("● seen", change)
    if metric in (damage.get("missed_by") or ()):
        return Cell("○ missed", change, tone="quiet")
    return Cell(NONE, tone="quiet")


def margins(story: Story) -> Table | None:
    rows = []
    asked = story.details.get("margins") or {}
    for metric in ranked(asked):
        how, rule = story.scale(metric), str(asked[metric].get("rule") or plain(asked[metric].get("margin")))
        rows.append((Cell(label(metric)), Cell(rule), Cell(how.limit(story.margin(metric)))))
    return table("What the gate demands", ("Metric", "Rule", "Here"), rows, (0, 1)) if rows else None
