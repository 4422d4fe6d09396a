"""The profile as one picture: time by part, latency against length, throughput against batch, roofline; and of a model
that makes its frames step by step, a step's time against the frames before it, and latency against throughput."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vivace.core.bundle import atomic_file
from vivace.core.errors import UsageError
from vivace.core.report import Report
from vivace.workflows._prefix import figures
from vivace.workflows._report_plots import GRID, INK, MUTED, PALETTE, axes, figure, plain, svg
from vivace.workflows._stopwatch import DECODE

ALT = "Time by part, latency against text length, throughput against batch size, and roofline; figures in the report"
MARKERS = "osD^vPX"

Json = Mapping[str, Any]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #16191d; --paper: #fff; --quiet: #59636e }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e9ec; --paper: #14171a; --quiet: #9aa4ae; --plot-muted: #9aa4ae; --plot-grid: #2c3238;
    --plot-1: #4aa8e0; --plot-2: #f08a4b; --plot-3: #35c196; --plot-7: #9aa4ae }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 2rem auto; padding: 0 1.25rem }}
h1 {{ font-size: 1.5rem; margin: 0 0 .25rem }} p, small {{ color: var(--quiet) }}
svg {{ width: 100%; height: auto; margin: 1rem 0 }} svg text {{ font-family: system-ui, sans-serif !important }}
li {{ margin: .35rem 0 }}
</style>
<h1>{title}</h1>
<p>{taken}</p>
<ol>{bottlenecks}</ol>
{picture}
<p>{batching}</p>
{notes}
</html>
"""


def plot(report: Report, path: Path) -> None:
    """Writes the picture of a profile: .html (one self-contained page, with the findings in words), .svg or .png.

    Raises UsageError for another suffix or a report of another kind, MissingDependency without matplotlib.
    """
    if report.kind != "profile":
        raise UsageError(f"this is a report of {report.kind}, not of profile")
    if path.suffix not in (".html", ".svg", ".png"):
        raise UsageError(f"{path}: plots are written as .html, .svg or .png")
    made = draw(report.details)
    if path.suffix == ".png":
        buffer = io.BytesIO()
        made.patch.set(alpha=1, facecolor="white")
        made.savefig(buffer, format="png", dpi=150)
        atomic_file(path, buffer.getvalue())
    else:
        picture = svg(made, ALT)
        atomic_file(path, (picture if path.suffix == ".svg" else _page(report, picture)).encode())


def _page(report: Report, picture: str) -> str:
    found, threads = report.details, report.settings["threads"]
    text = found["text"]
    return PAGE.format(
        title=escape(f"Profile of {report.settings['name']}"),
        taken=escape(
            f"{report.machine['cpu']}, {threads} thread{'s' if threads > 1 else ''}, {report.settings['runs']} runs;"
            f" parts timed on the {text['name']} text ({text['characters']} characters,"
            f" {text['audio_seconds']:.1f} s of audio). {report.created}"
        ),
        bottlenecks="".join(f"<li>{escape(sentence)}</li>" for sentence in found["bottlenecks"]),
        picture=picture,
        batching=escape(found["batching"]),
        notes="".join(f"<p><strong>{escape(note)}</strong></p>" for note in found["notes"]),
    )


def draw(found: Json) -> Any:
    """A matplotlib figure with the four panels, or six, from the details of a profile."""
    decode = found["decode"]
    lines = 3 if decode else 2
    made = figure(10.8, 4.1 * lines)
    made.get_layout_engine().set(w_pad=0.16, h_pad=0.16)
    colours = {part["name"]: PALETTE[k % len(PALETTE)] for k, part in enumerate(found["parts"][1:-1])}
    colours |= {found["parts"][0]["name"]: PALETTE[4], found["parts"][-1]["name"]: PALETTE[6]}
    _shares(axes(made, lines, 2, 1, grid="x"), found["parts"], colours)
    _lengths(axes(made, lines, 2, 2), found["lengths"], colours)
    _batches(axes(made, lines, 2, 3, grid="y"), found["batches"])
    _roofline(axes(made, lines, 2, 4), found["parts"], found["ceiling"], colours)
    if decode:
        _steps(axes(made, lines, 2, 5), decode, colours[DECODE])
        _serving(axes(made, lines, 2, 6), decode["batches"])
    return made


def _short(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _title(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", color=INK, fontsize=11, pad=10)
    ax.set_xlabel(x, color=MUTED, fontsize=9.5)
    ax.set_ylabel(y, color=MUTED, fontsize=9.5)


def _shares(ax: Any, parts: Sequence[Json], colours: Mapping[str, str]) -> None:
    """A bar for each part; its full-coloured beginning is what the machine's ceiling allows at best."""
    for y, part in enumerate(parts):
        colour, ms = colours[part["name"]], part["ms"]
        share = part.get("ceiling_share")
        ax.barh(y, ms, 0.62, color=colour, alpha=1 if share is None else 0.38, linewidth=0)
        if share is not None:
            ax.barh(y, min(share, 1) * ms, 0.62, color=colour, linewidth=0)
        ax.annotate(
            f"{ms:,.1f} ms, {100 * part['share']:.0f}%", (ms, y), (6, 0), textcoords="offset points", va="center",
            fontsize=9, color=INK,
        )  # fmt: skip
    ax.set_yticks(range(len(parts)), [plain(part["name"]) for part in parts])
    ax.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(parts) - 0.4, -0.6)
    ax.set_xlim(0, max(part["ms"] for part in parts) * 1.28)
    _title(ax, "Time by part (strong colour: what this machine's ceiling leaves)", "ms", "")


def _lengths(ax: Any, lengths: Sequence[Json], colours: Mapping[str, str]) -> None:
    rows = sorted(lengths, key=lambda row: float(row["characters"]))
    x = [row["characters"] for row in rows]
    names = list(rows[0]["parts_ms"])
    ax.stackplot(
        x, *([row["parts_ms"][name] for row in rows] for name in names), colors=[colours[name] for name in names],
        alpha=0.72, linewidth=0,
    )  # fmt: skip
    ends = [(row["low"] or row["ms"], row["high"] or row["ms"]) for row in rows]
    errors = [[row["ms"] - low for row, (low, _) in zip(rows, ends, strict=True)]]
    errors += [[high - row["ms"] for row, (_, high) in zip(rows, ends, strict=True)]]
    y = [row["ms"] for row in rows]
    ax.errorbar(x, y, yerr=errors, color=INK, linewidth=1.3, marker="o", markersize=4, elinewidth=1, capsize=0)
    longest = rows[-1]
    ax.annotate(
        f"{_short(longest['ms'])}, RTF {longest['rtf']:.3f}", (longest["characters"], longest["ms"]), (-8, 4),
        textcoords="offset points", ha="right", fontsize=9, color=INK,
    )  # fmt: skip
    handles = [ax.scatter([], [], s=46, marker="s", color=colours[name], alpha=0.72, linewidths=0) for name in names]
    ax.legend(
        handles[::-1], [plain(name) for name in names[::-1]], loc="upper left", bbox_to_anchor=(0.0, 0.92),
        frameon=False, fontsize=9, labelcolor=INK,
    )  # fmt: skip
    ax.set_xlim(0, max(x) * 1.04)
    highest = max(high for _, high in ends)
    ax.set_ylim(0, highest * (1.12 if y[0] < highest / 2 else 1.75))  # the legend wants an empty corner
    _title(ax, "Latency against text length", "characters", "ms")


def _batches(ax: Any, batches: Sequence[Json]) -> None:
    places = range(len(batches))
    values = [row["throughput"] for row in batches]
    ax.bar(places, values, 0.58, color=PALETTE[0], alpha=0.85, linewidth=0)
    for k, row in enumerate(batches):
        ax.annotate(
            f"{figures(row['throughput'])}\nafter {_short(row['ms'])}", (k, row["throughput"]), (0, 4),
            textcoords="offset points", ha="center", va="bottom", fontsize=9, color=INK,
        )  # fmt: skip
    ax.set_xticks(places, [str(row["batch"]) for row in batches])
    ax.set_xlim(-0.7, len(batches) - 0.3)
    ax.set_ylim(0, max(values) * 1.22)
    _title(ax, "Throughput against batch size", "texts together", "seconds of audio per second")


def _steps(ax: Any, decode: Json, colour: str) -> None:
    """Where the line rises, every step pays for all frames before it."""
    rows = decode["by_prefix"]
    x, y = [row["frames"] for row in rows], [row["ms"] for row in rows]
    if rows[0]["low"] is not None:
        ax.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.2, lw=0)
    ax.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=4)
    line = [decode["ms_at_start"], decode["ms_at_end"]]
    ax.plot([0, decode["frames"]], line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ax.annotate(
        f"grows by {figures(decode['ms_per_100_frames'])} ms every 100 frames", (0.02, 0.95),
        xycoords="axes fraction", va="top", fontsize=9, color=INK,
    )  # fmt: skip
    highest = max([*y, *line, *(row["high"] or 0 for row in rows)])
    ax.set_xlim(0, max(x) * 1.04 or 1)
    ax.set_ylim(0, highest * 1.22)
    _title(ax, "A step of decode against the frames before it", "frames before", "ms a step")


def _serving(ax: Any, batches: Sequence[Json]) -> None:
    """A line for each text; its points are the numbers of texts at once."""
    names = list(dict.fromkeys(row["text"] for row in batches))
    for k, name in enumerate(names):
        rows = [row for row in batches if row["text"] == name]
        x, y = [row["throughput"] for row in rows], [row["latency_p50_ms"] / 1000 for row in rows]
        ax.plot(
            x, y, color=PALETTE[k % len(PALETTE)], linewidth=1.4, marker=MARKERS[k % len(MARKERS)], markersize=5,
            label=f"{plain(name)} ({rows[0]['characters']} characters)",
        )  # fmt: skip
        for row, *at in zip(rows, x, y, strict=True):
            ax.annotate(str(row["batch"]), at, (5, -11), textcoords="offset points", fontsize=8.5, color=MUTED)
    ax.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
    ax.set_xlim(0, max(row["throughput"] for row in batches) * 1.12)
    ax.set_ylim(0, max(row["latency_p50_ms"] for row in batches) / 1000 * 1.3)
    _title(ax, "Latency against throughput (numbers: texts at once)", "seconds of audio per second", "s, median")


def _roofline(ax: Any, parts: Sequence[Json], ceiling: Json, colours: Mapping[str, str]) -> None:
    """Roofs as lines (Williams et al. 2009), stages as points; both axes logarithmic."""
    from matplotlib.ticker import LogLocator

    stages = [part for part in parts if part.get("intensity") and part["macs"]]
    roofs = ceiling["gmacs"]
    ridges = [rate / ceiling["gbytes"] for rate in roofs.values()]
    left = min([part["intensity"] for part in stages] + ridges) / 2.5
    right = max([part["intensity"] for part in stages] + ridges) * 3
    ax.set_xscale("log")
    ax.set_yscale("log")
    for precision, rate in roofs.items():
        ridge = rate / ceiling["gbytes"]
        ax.plot([ridge, right], [rate, rate], color=MUTED, linewidth=1.4)
        ax.annotate(
            f"{precision} {rate:,.0f}", (right, rate), (-2, 4), textcoords="offset points", ha="right", fontsize=9,
            color=MUTED,
        )  # fmt: skip
    top = max(roofs.values())
    ax.plot([left, top / ceiling["gbytes"]], [left * ceiling["gbytes"], top], color=MUTED, linewidth=1.4)
    ax.text(
        left * 1.15, left * 1.15 * ceiling["gbytes"] * 1.12, f"memory {ceiling['gbytes']:.0f} GB/s", fontsize=9,
        color=MUTED, rotation=math.degrees(math.atan(ceiling["gbytes"])), rotation_mode="anchor",
        transform_rotates_text=True,
    )  # fmt: skip
    for k, part in enumerate(stages):
        at = (part["intensity"], part["gmacs_per_s"])
        ax.vlines(at[0], at[1], min(part["roof_gmacs_per_s"] or top, at[0] * ceiling["gbytes"]), color=GRID, zorder=1)
        ax.scatter(*at, s=64, marker=MARKERS[k % len(MARKERS)], color=colours[part["name"]], linewidths=0, zorder=4)
        beside = (9, 4 if k % 2 else -11)  # neighbours' names do not meet
        ax.annotate(plain(part["name"]), at, beside, textcoords="offset points", fontsize=9.5, color=INK)
    lowest = min([part["gmacs_per_s"] for part in stages] + [left * ceiling["gbytes"]])
    ax.set_xlim(left, right)
    ax.set_ylim(lowest / 1.6, top * 2)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ax.tick_params(which="minor", length=0)
    _title(ax, "Roofline", "MACs per byte moved", "GMAC/s")
