"""What a search tried, for its report: every composition with its place on the Pareto front, INT8 part by part, and
the ways of each stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vivace.workflows import _report_plots as draw
from vivace.workflows._report_tables import (
    NONE,
    Cell,
    Group,
    Json,
    Row,
    Table,
    Tone,
    megabytes,
    milliseconds,
    named,
    number,
    ratio,
    table,
)

# What became of a trial: the glyph of its verdict and the words.
VERDICTS: dict[str, tuple[str, Tone]] = {
    "chosen": ("final", "good"),
    "refused by the gate": ("refused", "bad"),
    "on the front": ("kept", ""),
    "moved the speech": ("", "quiet"),
    "": ("", "quiet"),
}
AREA = (34.0, 170.0)  # of the smallest and the largest marker, in points squared


@dataclass(frozen=True)
class Tried:
    """One composition; `number` is its rank by speed. `time` is a share of the original's, `error` a standard error."""

    number: int
    what: str
    verdict: str
    time: float
    loss: float
    error: float
    mb: float


def tried(details: Json) -> tuple[Tried, ...]:
    """All trials of a search, the fastest first; nothing for other reports."""
    judged = {named(t.get("label") or "")[1]: bool(t.get("kept")) for t in details.get("trials") or ()}
    found = [t for t in (details.get("search") or {}).get("trials") or () if t.get("time")]
    found.sort(key=lambda t: float(t["time"]))
    return tuple(
        Tried(
            k,
            str(t.get("what") or ""),
            _verdict(t, judged),
            t["time"],
            t.get("loss") or 0.0,
            t.get("error") or 0.0,
            t.get("mb") or 0.0,
        )
        for k, t in enumerate(found, 1)
    )


def _verdict(trial: Json, judged: Mapping[str, bool]) -> str:
    if trial.get("chosen"):
        return "chosen"
    if judged.get(trial.get("what") or "") is False:
        return "refused by the gate"
    if trial.get("moved"):
        return "moved the speech"
    return "on the front" if trial.get("front") else ""


def lead(details: Json) -> str:
    """What was searched for, and how to read the plot. Empty for other reports."""
    search = details.get("search")
    if not search:
        return ""
    count = len(tried(details))
    asked = f"Searched for {search.get('objective') or 'speed'}"
    asked += f", {number(search['minutes'])} minutes" if search.get("minutes") is not None else ""
    return (
        f"{asked}: {count} composition{'s' * (count != 1)} built and measured, on sentences that the verdict does not "
        "use. Lower left is best; the line joins what nothing else beats in time and predicted MOS, larger marks are "
        "larger files, whiskers are standard errors, the shaded band is what the quality gate allows."
    )


def tables(details: Json) -> tuple[Table, ...]:
    search = details.get("search") or {}
    made = (_trials(tried(details)), _parts(search.get("parts") or ()), _ways(search.get("stages") or ()))
    return tuple(t for t in made if t)


def _trials(found: Sequence[Tried]) -> Table | None:
    rows = []
    for t in found:
        mark, tone = VERDICTS[t.verdict]
        rows.append(
            (
                Cell(str(t.number)),
                Cell(t.what),
                Cell(t.verdict or NONE, tone=tone, mark=mark),
                Cell(f"{100 * t.time:.1f}%", order=t.time),
                Cell(ratio(1 / t.time), order=1 / t.time),
                Cell(number(t.loss, 3), f"± {number(t.error, 3)}", order=t.loss),
                Cell(megabytes(t.mb), order=t.mb),
            )
        )
    columns = ("No.", "Composition", "Verdict", "Time", "Speed", "Predicted MOS lost", "Size, MB")
    caption = "Every composition that was tried, the fastest first"
    return Table(caption, columns, (Group(tuple(rows)),), (1, 2), sortable=True) if rows else None


def _parts(parts: Iterable[Json]) -> Table | None:
    rows = [
        (
            Cell(str(p.get("part") or "")),
            Cell(str(p.get("stage") or "")),
            Cell(str(p.get("method") or "")),
            Cell(number(p.get("predicted_mos_lost"), 3), f"± {number(p.get('standard_error'), 3)}"),
            Cell("; ".join(f"{milliseconds(ms)} in {way}" for way, ms in (p.get("ms_won") or {}).items()) or NONE),
        )
        for p in parts
    ]
    columns = ("Part", "Stage", "Method", "Predicted MOS lost", "Milliseconds saved")
    return table("INT8 in one part alone", columns, rows, (0, 1, 2, 4)) if rows else None


def _ways(ways: Iterable[Json]) -> Table | None:
    stages: dict[str, list[Json]] = {}
    for way in ways:
        if way.get("ms"):
            stages.setdefault(str(way.get("stage") or ""), []).append(way)
    groups = []
    for name, found in stages.items():
        best = min(way["ms"] for way in found)
        rows: list[Row] = [
            (Cell(str(way.get("way") or "")), Cell(milliseconds(way["ms"])), Cell(ratio(way["ms"] / best)))
            for way in found
        ]
        groups.append(Group(tuple(rows), name))
    caption = "Ways to run each stage that stayed in the search"
    return Table(caption, ("Way", "Time, ms", "÷ the fastest"), tuple(groups)) if groups else None


def front(found: Sequence[Tried]) -> list[Tried]:
    """Those that no other beats in time and predicted MOS, by time: what the line joins."""
    best: list[Tried] = []
    for t in sorted(found, key=lambda t: (t.time, t.loss)):
        if t.verdict != "moved the speech" and (not best or t.loss < best[-1].loss):
            best.append(t)
    return best


def plot(found: Sequence[Tried], margin: float | None, alt: str) -> str:
    """The trials in the plane of time (a share of the original's) and predicted MOS lost, as `<svg>`.

    `margin` is the predicted MOS that may be lost. Raises MissingDependency without matplotlib.
    """
    made = draw.figure(10.4, 4.4)
    ax = draw.axes(made)
    if margin is not None:
        ax.axhspan(0, margin, color=draw.PALETTE[5], alpha=0.16, linewidth=0, zorder=0)
    line = front(found)
    ax.plot([t.time for t in line], [t.loss for t in line], color=draw.PALETTE[0], linewidth=1.2, alpha=0.55, zorder=2)
    grey, square = draw.MARKS["original"]
    ax.scatter([1.0], [0.0], s=62, marker=square, color=grey, linewidths=0, zorder=3)
    ax.annotate("original", (1.0, 0.0), (-9, 0), textcoords="offset points", ha="right", va="center", color=draw.MUTED)
    sizes = [t.mb for t in found]
    for t in found:
        colour, shape = draw.MARKS.get(VERDICTS[t.verdict][0], (grey, "o"))
        faint = 0.85 if VERDICTS[t.verdict][0] else 0.4
        ax.errorbar(t.time, t.loss, yerr=t.error, fmt="none", ecolor=colour, elinewidth=1.2, alpha=faint / 2, zorder=3)
        area = _area(t.mb, min(sizes), max(sizes))
        ax.scatter([t.time], [t.loss], s=area, marker=shape, color=colour, alpha=faint, linewidths=0, zorder=4)
    ax.set_xlabel("Time, as a share of the original's (less is better)", color=draw.MUTED, fontsize=9.5)
    ax.set_ylabel("Predicted MOS lost (less is better)", color=draw.MUTED, fontsize=9.5)
    ax.margins(0.06, 0.12)
    told = [t for t in found if t in line or VERDICTS[t.verdict][0] in ("final", "refused")]
    draw.number_apart(made, ax, [draw.Point(t.number, "kept", t.time, t.loss) for t in told])
    return draw.svg(made, alt)


def _area(mb: float, least: float, most: float) -> float:
    share = (mb - least) / (most - least) if most > least else 0.4
    return AREA[0] + share * (AREA[1] - AREA[0])
