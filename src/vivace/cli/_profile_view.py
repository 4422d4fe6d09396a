"""A profile as tables for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vivace.core.report import Report
from vivace.workflows._prefix import figures

NODES = 10
TYPES = 4
NAME = 11  # characters: longer words of a left column may break
NONE = "-"

Json = Mapping[str, Any]


def render_table(report: Report) -> list[Any]:
    """Rich renderables, in the order in which they are read: parts, operators, lengths, batches, findings."""
    found, threads = report.details, report.settings["threads"]
    text = found["text"]
    on = f"{report.machine['cpu']}, {threads} thread{'s' if threads > 1 else ''}"
    taken = f"{text['name']} text ({text['characters']} characters, {text['audio_seconds']:.2f} s of audio)"
    return [
        _parts(f"Time by part: {taken}\n{on}, {report.settings['runs']} runs", found["parts"], found["whole"]),
        *_operators(found["operators"]),
        _lengths(found["lengths"]),
        *([_steps(found["decode"]), _together(found["decode"])] if found["decode"] else [_batches(found["batches"])]),
        _text(found["batching"]),
        _text(_facts(found)),
        *_floor(found["whole"]),
        *(_text(f"{k}. {sentence}") for k, sentence in enumerate(found["bottlenecks"], 1)),
        *(_text(note) for note in found["notes"]),
    ]


def _parts(title: str, parts: Sequence[Json], whole: Json) -> Any:
    columns = (
        "part",
        "ms",
        "share",
        "GMAC\nper\naudio s",
        "GMAC/s",
        "limit",
        "floor\nms",
        "of\nroof",
        "gain\nat roof",
    )
    rows = [
        (
            part["name"],
            _ms(part["ms"]),
            f"{100 * part['share']:.1f}%",
            _number(part.get("macs_per_audio_second"), "{:.2f}", 1e-9) + ("+" if part.get("uncounted") else ""),
            _number(part.get("gmacs_per_s"), "{:.0f}"),
            _limit(part),
            *_reached(part),
        )
        for part in parts
    ]
    macs = sum(part.get("macs_per_audio_second", 0.0) for part in parts)
    rate = _rate(parts, whole["ms"])
    total = ("whole", _ms(whole["ms"]), "100.0%", f"{macs / 1e9:.2f}", f"{rate:.0f}", "", *_reached(whole))
    return _table(title, columns, [*rows, total], footer=True)


def _limit(part: Json) -> str:
    """The roof that a part is held against: the memory, or the precisions that it multiplies in."""
    if part.get("bound") != "compute":
        return part.get("bound") or NONE
    return "+".join(sorted(part["macs_by_precision"], key=lambda p: -int(part["macs_by_precision"][p]))) or NONE


def _reached(row: Json) -> tuple[str, str, str]:
    """What the roof alone would need, what share of it is reached, and what would be left to gain."""
    return (
        NONE if row.get("floor_ms") is None else _ms(row["floor_ms"]),
        _number(row.get("ceiling_share"), "{:.0f}%", 100),
        _number(row.get("gain_at_ceiling"), "{:.2f}x"),
    )


def _rate(parts: Sequence[Json], whole_ms: float) -> float:
    return float(sum(part.get("macs", 0) for part in parts) / whole_ms / 1e6)


def _operators(operators: Mapping[str, Json]) -> list[Any]:
    """By type for each stage, and the slowest nodes of all stages; nothing where no runtime wrote a trace."""
    if not operators:
        return []
    types = [
        (stage, ", ".join(f"{kind['op']} {100 * kind['share']:.0f}%" for kind in view["types"][:TYPES]))
        for stage, view in operators.items()
    ]
    nodes = [(stage, node) for stage, view in operators.items() for node in view["nodes"]]
    slowest = sorted(nodes, key=lambda item: -float(item[1]["ms"]))[:NODES]
    rows = [
        (node["node"] or NONE, stage, node["op"], f"{node['ms']:.2f}", _number(node["gmacs_per_s"], "{:.0f}"))
        for stage, node in slowest
    ]
    return [
        _table("Operators, by their share of the stage", ("stage", "operators"), types, left=2),
        _table("The slowest nodes", ("node", "stage", "operator", "ms", "GMAC/s"), rows, left=3),
    ]


def _lengths(lengths: Sequence[Json]) -> Any:
    rows = [
        (
            row["text"],
            f"{row['characters']}",
            f"{row['audio_seconds']:.2f}",
            f"{row['ms']:.1f}",
            NONE if row["low"] is None else f"{row['low']:.1f} to {row['high']:.1f}",
            f"{row['rtf']:.4f}",
        )
        for row in lengths
    ]
    return _table("Text length", ("text", "characters", "audio s", "ms", "95% interval", "RTF"), rows)


def _batches(batches: Sequence[Json]) -> Any:
    rows = [
        (f"{row['batch']}", f"{row['ms']:.1f}", f"{row['throughput']:.1f}", f"{row['gain']['value']:.2f}x")
        for row in batches
    ]
    return _table("Texts together", ("batch", "ms", "audio s per s", f"times {batches[0]['batch']}"), rows, left=0)


def _steps(decode: Json) -> Any:
    rows = [
        (
            f"{row['frames']:.0f}",
            f"{row['steps']}",
            f"{row['ms']:.2f}",
            NONE if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}",
        )
        for row in decode["by_prefix"]
    ]
    grows = f"grows by {figures(decode['ms_per_100_frames'])} ms every 100 frames"
    title = f"A step of decode ({decode['stage']}) against the frames before it: {grows}"
    return _table(title, ("frames before", "steps", "ms a step", "95% interval"), rows, left=0)


def _together(decode: Json) -> Any:
    """The memory of a batch is measured on one text only."""
    columns = ("text", "at once", "p50 ms", "audio s per s", "steps/s", "frames/s", "RTF")
    rows = [
        (
            row["text"],
            f"{row['batch']}",
            f"{row['latency_p50_ms']:,.0f}",
            f"{row['throughput']:.2f}",
            f"{row['steps_per_second']:,.0f}",
            f"{row['frames_per_second']:,.0f}",
            f"{row['rtf']:.3f}",
            f"{row['cache_mb_per_text']:.1f}",
            _number(row.get("peak_mb"), "{:,.0f}"),
        )
        for row in decode["batches"]
    ]
    return _table("Many texts at once", (*columns, "cache MB a text", "peak MB"), rows)


def _facts(found: Json) -> str:
    memory, roof = found["memory_mb"], found["ceiling"]
    peaks = ", ".join(f"{precision} {rate:,.0f} GMAC/s" for precision, rate in roof["gmacs"].items())
    return (
        f"Load {statistics.median(found['load_s']):.2f} s. Memory {memory['loaded']:.0f} MB after load, at most"
        f" {memory['peak']:.0f} MB ({memory['characters']} characters)."
        f" This machine's ceiling: {peaks}, memory {roof['gbytes']:.0f} GB/s."
    )


def _floor(whole: Json) -> list[Any]:
    if whole["floor_ms"] is None:
        return []
    return [
        _text(
            f"The floor of this voice on this machine in these precisions: {whole['floor_ms']:.1f} ms,"
            f" {100 * whole['ceiling_share']:.0f}% of the {whole['ms']:.1f} ms that it takes."
            f" With every stage at its roof and the rest as now it would be {whole['gain_at_ceiling']:.2f}x as fast."
        )
    ]


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, footer: bool = False
) -> Any:
    """`left` columns are words, the others figures; `footer` sets the last row apart."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for k, column in enumerate(columns):
        cells = [row[k] for row in rows]
        # On a narrow screen headings and words break at spaces, figures and single words never.
        names = [word for cell in cells for word in cell.split() if len(word) <= NAME]
        words = [*column.split(), *(cells if k >= left else names)]
        drawn.add_column(
            column, justify="left" if k < left else "right", overflow="fold", min_width=max(map(len, words))
        )
    for k, row in enumerate(rows):
        # Text, not str: a node name may hold brackets, which Rich would take for markup.
        drawn.add_row(*map(Text, row), end_section=footer and k == len(rows) - 2)
    return drawn


def _text(sentence: str) -> Any:
    from rich.text import Text

    return Text(sentence)


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return NONE if value is None else form.format(value * factor)
