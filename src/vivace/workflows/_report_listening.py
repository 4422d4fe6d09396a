"""What people said in a listening test, in a report: a table and a column of their own, apart from all predictions."""

from __future__ import annotations

from collections.abc import Mapping

from vivace.workflows._report_tables import Cell, Json, Table, bounds, number, table

LEAD = (
    "Mean opinion scores by people who heard the clips blind, from 1 (bad) to 5 (excellent). Not a prediction. The "
    "interval holds for other listeners and other texts; who failed the screening is not counted."
)
SAME = "People heard the same sentences that the metrics were taken on."
OTHER = (
    "People heard other sentences than the metrics were taken on: compare voices by the one or by the other, never the "
    "two."
)
COLUMNS = ("System", "MOS by listeners ↑", "Listeners", "Clips", "Ratings", "Screened out", "Test")


def lead(details: Json) -> str:
    return f"{LEAD} {SAME if _same(details) else OTHER}"


def column(details: Json) -> str:
    """Its head in a table of other figures."""
    return "MOS by listeners" if _same(details) else "MOS by listeners (other sentences)"


def _same(details: Json) -> bool:
    """Whether people heard the sentences that the other figures were taken on."""
    return all(one.get("same_sentences") for one in by_digest(details).values())


def two(value: float) -> str:
    return number(value, 2)


def listeners(details: Json) -> Table | None:
    """One row for each bundle that people heard; None where nobody was asked."""
    found = [one for one in details.get("listening") or () if isinstance(one, Mapping) and one.get("mos") is not None]
    rows = [
        (
            Cell(str(one.get("system", ""))),
            score(one),
            *(Cell(str(one.get(key, 0))) for key in ("listeners", "clips", "ratings", "screened_out")),
            Cell(str(one.get("test", ""))),
        )
        for one in found
    ]
    return table("MOS by listeners", COLUMNS, rows, (0, 6)) if rows else None


def by_digest(details: Json) -> dict[str, Json]:
    """What was said of each bundle, by its digest."""
    return {str(one.get("digest")): one for one in details.get("listening") or () if isinstance(one, Mapping)}


def score(one: Json | None) -> Cell:
    if not one or one.get("mos") is None:
        return Cell("–", tone="quiet")
    return Cell(two(one["mos"]), bounds(one, two), order=one["mos"])
