"""The report as Markdown: the same words and figures as the page, without plots and sound."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vivace.workflows._report_gate import Trial
from vivace.workflows._report_tables import Cell, Table
from vivace.workflows._report_view import View


def markdown(view: View) -> str:
    return "\n".join(_lines(view)).rstrip() + "\n"


def _lines(view: View) -> Iterator[str]:
    yield from (f"# {text(view.title)}", "")
    if view.outcome:
        yield from (f"**{view.outcome.word}.** {text(view.outcome.sentence)}", "")
        if view.outcome.recorded:
            yield from (text(view.outcome.recorded), "")
        yield from (f"> Caution: {text(caution)}\n" for caution in view.outcome.cautions)
    yield from (f"- {name}: {text(fact)}" for name, fact in view.facts)
    if view.created:
        yield f"- Date: {text(view.created)}"
    yield ""
    if view.command:
        yield from ("Made by:", "", *(f"    {line}" for line in view.command.splitlines()), "")
    yield from _section("Original against final", view.comparison)
    if view.search:
        yield from ("## What the search tried", "", text(view.search_lead), "")
        for table in view.search:
            yield from _table(table)
    if view.trials:
        yield from (f"## {view.trials_title}", "")
        for trial in view.trials:
            yield from _trial(trial)
    yield from _section("Every variant", (view.variants,))
    if view.listeners:
        yield from ("## What people said", "", text(view.listeners_lead), "")
        yield from _table(view.listeners)
    yield from _section("Where the gain comes from", (view.attribution, view.sizes))
    yield from _section("How far to trust the gate", view.proofs)
    yield from _section("Measurements", view.measurements)
    yield from _section("Details", view.details)
    yield from _section("Machine and settings", (view.machine, view.settings))
    yield from ("## Words", "")
    yield from (f"- **{text(word)}**: {text(meaning)}" for word, meaning in view.glossary)


def _section(title: str, tables: tuple[Table | None, ...]) -> Iterator[str]:
    shown = [t for t in tables if t]
    if shown:
        yield from (f"## {title}", "")
        for table in shown:
            yield from _table(table)


def _trial(trial: Trial) -> Iterator[str]:
    name = f"{trial.name} {trial.detail}".strip()
    yield from (f"### {trial.number}. {text(name)}: {'kept' if trial.kept else 'refused'}", "")
    if trial.words:
        yield from (text(trial.words), "")
    yield from (f"- {text(reason)}" for reason in trial.reasons)
    yield from (f"- {text(name)}: {text(setting)}" for name, setting in trial.settings)
    yield ""
    for table in trial.tables:
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    yield from (f"**{text(table.caption)}**", "")
    yield _row([text(column) for column in table.columns])
    yield _row(["---" if k in table.left else "---:" for k in range(len(table.columns))])
    for group in table.groups:
        if group.title:
            yield _row([f"**{text(group.title)}**", *[""] * (len(table.columns) - 1)])
        yield from (_row([_cell(cell) for cell in row]) for row in group.rows)
    yield ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    return text(cell.text) + (f" ({text(cell.note)})" if cell.note else "")


def text(raw: str) -> str:
    """Text that is read as itself: no markup, no table border, no line break."""
    safe = raw.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = re.sub(r"([\\`*|\[\]])", r"\\\1", safe)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", " ".join(safe.split()))
