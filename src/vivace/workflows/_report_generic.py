"""What every report has, whatever its kind: measurements, machine, settings, and details of unknown shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from vivace.core.report import Measurement, Report
from vivace.workflows._report_tables import (
    NONE,
    Cell,
    Group,
    Json,
    Row,
    Scale,
    Table,
    arrow,
    bounds,
    label,
    megabytes,
    milliseconds,
    number,
    plain,
    ratio,
    scale,
    short,
    table,
)

MAX_ROWS = 500
_MACHINE = {"cpu": "CPU", "flags": "CPU features", "memory_gb": "Memory, GB"}


def measurements(report: Report) -> tuple[Table, ...]:
    """One table of all figures; where names read "arm/figure" (a benchmark), the arms side by side."""
    if not report.measurements:
        return ()
    if all("/" in m.name for m in report.measurements):
        return (_side_by_side(report.measurements),)
    rows = [
        (
            Cell(_title(m) + arrow(m.better)),
            Cell(m.scope or NONE),
            Cell(write(m, m.value), _interval(m), order=m.value),
            Cell(str(m.n)),
        )
        for m in report.measurements
    ]
    columns = ("Measure", "Taken on", "Value", "n")
    return (Table("Measurements", columns, (Group(tuple(rows)),), (0, 1), sortable=True),)


def _side_by_side(found: Sequence[Measurement]) -> Table:
    arms = list(dict.fromkeys(m.name.partition("/")[0] for m in found))
    cells: dict[tuple[str, str], dict[str, Measurement]] = {}
    for m in found:
        arm, _, name = m.name.partition("/")
        cells.setdefault((m.scope, name), {})[arm] = m
    groups: dict[str, list[Row]] = {}
    for (scope, name), of in cells.items():
        one = next(iter(of.values()))
        row = [Cell(_title(one, name) + arrow(one.better))]
        row += [Cell(write(of[arm], of[arm].value), _interval(of[arm])) if arm in of else Cell(NONE) for arm in arms]
        groups.setdefault(scope, []).append(tuple(row))
    told = tuple(Group(tuple(rows), scope[:1].upper() + scope[1:]) for scope, rows in groups.items())
    return Table("Measurements, side by side", ("Measure", *arms), told)


def _title(m: Measurement, name: str = "") -> str:
    name = name or m.name
    unit = "" if m.unit in ("", "x") else scale(name, m.unit).unit
    return label(name) + (f", {unit}" if unit not in ("", "%") else "")


def write(m: Measurement, figure: float) -> str:
    """A measured figure in the manner of its unit, which the title names."""
    if m.unit == "x":
        return ratio(figure)
    if m.unit in ("MB", "ms"):
        return megabytes(figure) if m.unit == "MB" else milliseconds(figure)
    how: Scale = scale(m.name.rpartition("/")[2], m.unit)
    return how.score(figure)


def _interval(m: Measurement) -> str:
    return bounds({"low": m.low, "high": m.high}, partial(write, m))


def machine(report: Report) -> Table | None:
    packages = report.machine.get("packages")
    facts = [(_MACHINE.get(key, _words(key)), plain(v)) for key, v in report.machine.items() if key != "packages"]
    if isinstance(packages, Mapping):
        facts += [(f"{name} (package)", plain(v)) for name, v in packages.items()]
    return _pairs("Machine and package versions", facts)


def settings(report: Report) -> Table | None:
    facts = [(_words(str(key)), plain(v)) for key, v in report.settings.items()]
    facts += [(f"Digest of {role}", digest) for role, digest in report.bundles.items()]
    return _pairs("Settings and bundles", facts)


def _pairs(caption: str, facts: Iterable[tuple[str, str]]) -> Table | None:
    rows = [(Cell(key), Cell(v)) for key, v in facts]
    return table(caption, ("Name", "Value"), rows, (0, 1)) if rows else None


def details(found: Json) -> tuple[Table, ...]:
    """Tables for details of any shape: scalars together, a list of records each on its own.

    Texts with a list of scores beside them (an evaluation) become one row for each text.
    """
    tables = []
    rest = dict(found)
    texts, scores = rest.get("texts"), rest.get("scores")
    if isinstance(texts, list) and isinstance(scores, Mapping):
        tables.append(_by_text([str(text) for text in rest.pop("texts")], rest.pop("scores")))
    facts: list[tuple[str, str]] = []
    for key, entry in rest.items():
        if isinstance(entry, list) and entry and all(isinstance(item, Mapping) for item in entry):
            tables.append(_records(_words(key), entry))
        elif isinstance(entry, Mapping) and entry and all(isinstance(item, Mapping) for item in entry.values()):
            tables.append(_records(_words(key), [{"name": name, **item} for name, item in entry.items()]))
        else:
            facts.append((_words(key), plain(entry)))
    scalars = _pairs("Details", facts)
    return (*([scalars] if scalars else []), *tables)


def _by_text(texts: list[str], scores: Mapping[str, list[float]]) -> Table:
    names = [name for name in scores if len(scores[name]) == len(texts)]
    how = {name: scale(name, "predicted MOS" if "mos" in name else "") for name in names}
    rows = [
        (Cell(text), *(Cell(how[m].score(scores[m][k]), order=scores[m][k]) for m in names))
        for k, text in enumerate(texts[:MAX_ROWS])
    ]
    return Table(_shown("Every text", len(texts)), ("Text", *map(short, names)), (Group(tuple(rows)),), sortable=True)


def _records(caption: str, entries: list[Any]) -> Table:
    columns = list(dict.fromkeys(key for entry in entries for key in entry))
    rows = [tuple(_cell(entry.get(column)) for column in columns) for entry in entries[:MAX_ROWS]]
    words = tuple(
        k
        for k, column in enumerate(columns)
        if not all(isinstance(entry.get(column), int | float | None) for entry in entries)
    )
    titles = tuple(map(_words, columns))
    return Table(_shown(caption, len(entries)), titles, (Group(tuple(rows)),), words, sortable=True)


def _cell(entry: Any) -> Cell:
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        return Cell(str(entry) if isinstance(entry, int) else number(entry), order=entry)
    return Cell(plain(entry))


def _shown(caption: str, count: int) -> str:
    return caption if count <= MAX_ROWS else f"{caption} (the first {MAX_ROWS} of {count}; report.json has all)"


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()
