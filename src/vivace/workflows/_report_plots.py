"""Plots as inline SVG that take their colours from the page, so that light, dark and print all work.

`PALETTE`, `figure`, `axes` and `svg` serve any report; the rest draws what an optimization measured.
matplotlib is used without pyplot: no global state, no display.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import MissingDependency
from vivace.workflows._report_tables import milliseconds

# Okabe and Ito's colours (2008), which people with colour-blindness can tell apart; grey last.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7580")
INK = "#16191d"
MUTED = "#59636e"
GRID = "#dfe3e8"
# mark: (colour, matplotlib marker): shapes differ too.
MARKS = {
    "original": (PALETTE[6], "s"),
    "kept": (PALETTE[0], "o"),
    "final": (PALETTE[2], "D"),
    "refused": (PALETTE[1], "X"),
}

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """A variant in a plane; `x_bounds` and `y_bounds` are the ends of its intervals."""

    number: int
    mark: str
    x: float
    y: float
    x_bounds: Bounds = None
    y_bounds: Bounds = None


@dataclass(frozen=True)
class Bar:
    """One bar of a latency panel, in ms."""

    p50: float
    p95: float | None = None
    faint: bool = False


def figure(width: float, height: float) -> Any:
    """A figure of that many inches. Raises MissingDependency without matplotlib."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("matplotlib", "report") from None
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    made.patch.set_alpha(0)
    return made


def axes(made: Any, *where: int, grid: str = "both") -> Any:
    """Axes in the house style, placed as by `add_subplot`; `grid` is "x", "y", "both" or "none"."""
    ax = made.add_subplot(*where) if where else made.add_subplot()
    ax.patch.set_alpha(0)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.tick_params(colors=MUTED, length=0, labelsize=9, pad=5)
    ax.set_axisbelow(True)
    if grid != "none":
        ax.grid(axis=grid, color=GRID, linewidth=0.8)
    return ax


def svg(made: Any, alt: str = "") -> str:
    """The figure as one `<svg>` element, for a page or a file of its own.

    House colours become CSS variables with themselves as fallback (`--plot-1` ..., `--plot-muted`,
    `--plot-grid`; ink is `currentColor`), text stays text, and ids are unique to the content.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "vivace", "text.parse_math": False}):
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    head = f'role="img" aria-label="{escape(alt, quote=True)}"' if alt else 'aria-hidden="true"'
    text = re.sub(r"<svg (?=[^>]*)", f"<svg {head} ", text, count=1)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return _own_ids(_themed(text)).strip()


def _themed(text: str) -> str:
    names = {colour: f"var(--plot-{k}, {colour})" for k, colour in enumerate(PALETTE, 1)}
    names |= {INK: "currentColor", MUTED: f"var(--plot-muted, {MUTED})", GRID: f"var(--plot-grid, {GRID})"}
    return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda found: names.get(found[0], found[0]), text)


def _own_ids(text: str) -> str:
    """Ids nobody refers to go; the others get a prefix, so that many plots can share a page."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    prefix = "p" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", text)


def plain(text: str) -> str:
    """Text that matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def plot_points(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    *,
    alt: str,
    band: Bounds = None,
    limit: float | None = None,
) -> str:
    """Variants in a plane with their intervals; a line joins those on the way from the original to the final.

    `band` shades what the quality gate allows, `limit` marks an asked-for x.
    """
    made = figure(5.0, 3.7)
    ax = axes(made)
    way = [p for p in points if p.mark != "refused"]
    ax.plot([p.x for p in way], [p.y for p in way], color=PALETTE[6], linewidth=1.2, alpha=0.55, zorder=2)
    if band:
        ax.axhspan(*band, color=PALETTE[5], alpha=0.16, linewidth=0, zorder=0)
    if limit is not None:
        ax.axvline(limit, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for p in points:
        colour, shape = MARKS[p.mark]
        bars = {"xerr": _errors(p.x, p.x_bounds), "yerr": _errors(p.y, p.y_bounds)}
        ax.errorbar(p.x, p.y, **bars, fmt="none", ecolor=colour, elinewidth=1.4, alpha=0.7, zorder=3)
        size = 90 if p.mark == "final" else 62
        ax.scatter([p.x], [p.y], s=size, marker=shape, color=colour, linewidths=0, zorder=4)
    ax.set_xlabel(plain(x_title), color=MUTED, fontsize=9.5)
    ax.set_ylabel(plain(y_title), color=MUTED, fontsize=9.5)
    ax.margins(0.12, 0.14)
    number_apart(made, ax, points)
    return svg(made, alt)


def _errors(centre: float, bounds: Bounds) -> list[list[float]] | None:
    return None if bounds is None else [[max(0.0, centre - bounds[0])], [max(0.0, bounds[1] - centre)]]


def number_apart(made: Any, ax: Any, points: Sequence[Point]) -> None:
    """Writes each point's number beside it, in the first direction where nothing else is."""
    made.draw_without_rendering()
    at = ax.transData.transform([(p.x, p.y) for p in points]) * 72 / made.dpi
    taken: list[NDArray[Any]] = list(at)
    directions = [(11, 8), (-11, 8), (11, -8), (-11, -8), (20, 8), (-20, 8), (20, -8), (-20, -8)]
    for p, centre in zip(points, at, strict=True):
        room = [min(np.hypot(*(centre + d - other)) for other in taken) for d in directions]
        best = next((k for k, distance in enumerate(room) if distance > 11), int(np.argmax(room)))
        taken.append(centre + directions[best])
        ax.annotate(
            str(p.number), (p.x, p.y), directions[best], textcoords="offset points", ha="center", va="center",
            fontsize=9.5, color=INK, zorder=5,
        )  # fmt: skip


def plot_latency(panels: Mapping[str, Sequence[Sequence[Bar]]], names: Sequence[tuple[str, str]], *, alt: str) -> str:
    """Horizontal latency bars: a panel for each text, a row for each (name, mark), a bar for each thread count.

    The tick beyond a bar is the p95; faint bars are for further thread counts.
    """
    most = max((len(row) for rows in panels.values() for row in rows), default=0) or 1
    made = figure(10.4, 0.9 + len(names) * (0.24 + 0.17 * most))
    made.get_layout_engine().set(wspace=0.07)
    for k, (title, rows) in enumerate(panels.items(), 1):
        ax = axes(made, 1, len(panels), k, grid="x")
        ax.spines["left"].set_visible(False)
        for y, (row, (_, mark)) in enumerate(zip(rows, names, strict=True)):
            _bars(ax, y, row, MARKS[mark][0], 0.74 / most)
        top = max((b.p95 or b.p50 for row in rows for b in row), default=0.0) or 1.0
        ax.set_xlim(0, top * 1.2)
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.set_yticks(range(len(names)), [plain(name) for name, _ in names] if k == 1 else [""] * len(names))
        ax.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
        ax.locator_params(axis="x", nbins=5)
        ax.set_title(plain(title), loc="left", color=INK, fontsize=10.5, pad=9)
        ax.set_xlabel("ms", color=MUTED, fontsize=9)
    return svg(made, alt)


def _bars(ax: Any, y: int, row: Sequence[Bar], colour: str, height: float) -> None:
    for k, bar in enumerate(row):
        at = y + (k - (len(row) - 1) / 2) * height
        ax.barh(at, bar.p50, height * 0.86, color=colour, alpha=0.42 if bar.faint else 1, linewidth=0)
        end = bar.p50
        if bar.p95 is not None:
            end = max(bar.p50, bar.p95)
            ax.hlines(at, bar.p50, bar.p95, color=MUTED, linewidth=1)
            ax.vlines(bar.p95, at - height * 0.3, at + height * 0.3, color=MUTED, linewidth=1)
        ax.annotate(
            milliseconds(bar.p50), (end, at), (5, 0), textcoords="offset points", va="center", fontsize=8.5,
            color=MUTED if bar.faint else INK,
        )  # fmt: skip


def plot_spectrograms(
    pictures: Sequence[tuple[str, NDArray[Any]]], seconds: Sequence[float], top: float, alt: str
) -> str:
    """Mel spectrograms (dB, float32[bands, frames]) below each other on one time axis; `top` is the highest Hz."""
    made = figure(10.4, 0.45 + 1.35 * len(pictures))
    longest = max(seconds)
    ticks = [hz for hz in (250, 1000, 2000, 4000, 8000, 16000) if hz < top]
    for k, ((title, levels), length) in enumerate(zip(pictures, seconds, strict=True), 1):
        ax = axes(made, len(pictures), 1, k, grid="none")
        extent = (0.0, length, 0.0, _mel(top))
        ax.imshow(
            levels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-80, vmax=0, interpolation="none"
        )
        ax.set_xlim(0, longest)
        ax.set_yticks([_mel(hz) for hz in ticks], [f"{hz / 1000:g}" for hz in ticks])
        ax.set_ylabel("kHz", color=MUTED, fontsize=9)
        ax.set_title(plain(title), loc="left", color=INK, fontsize=10)
        if k < len(pictures):
            ax.set_xticklabels([])
    made.axes[-1].set_xlabel("seconds", color=MUTED, fontsize=9)
    return svg(made, alt)


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))
