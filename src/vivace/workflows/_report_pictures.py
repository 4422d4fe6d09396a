"""Which plots a report gets, each with the words that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vivace.core.report import Report
from vivace.workflows import _report_plots as draw
from vivace.workflows import _report_search as search
from vivace.workflows import _report_sound as sound
from vivace.workflows._report_story import Story, Variant
from vivace.workflows._report_tables import Json, kind, megabytes, ratio, short, value
from vivace.workflows.benchmark import threads_words

SPECTROGRAMS = 6  # texts that get a pair; each adds about 0.2 MB to the page


@dataclass(frozen=True)
class Plot:
    """An `<svg>` and its caption; a `wide` one scrolls on a narrow screen."""

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Plots:
    quality: tuple[Plot, ...] = ()
    latency: Plot | None = None
    search: Plot | None = None


def plots(report: Report, story: Story | None) -> Plots:
    """Raises MissingDependency without matplotlib."""
    if story is None:
        return Plots(latency=_benchmark(report))
    metric = "predicted_mos" if "predicted_mos" in story.metrics else next(iter(story.metrics), "")
    quality = (_size(story, metric), _speed(story, metric)) if metric else ()
    return Plots(tuple(p for p in quality if p), _latency(story), _search(story))


def spectrograms(heard: Sequence[sound.Listening], audio: Mapping[str, bytes]) -> dict[str, Plot]:
    """A pair of spectrograms, original above final, for the first texts; by text."""
    found = {}
    for one in heard[:SPECTROGRAMS]:
        clips = [clip for clip in (one.original, one.final) if clip]
        if not clips:
            continue
        decoded = [sound.decode(clip.file, audio[clip.file]) for clip in clips]
        titles = [f"{clip.variant.mark.capitalize()}" for clip in clips]
        pictures = list(zip(titles, sound.spectrograms(decoded), strict=True))
        seconds = [clip.seconds for clip in decoded]
        told = " and ".join(f"{title.lower()} ({s:.2f} s)" for title, s in zip(titles, seconds, strict=True))
        alt = f"Mel spectrograms: {told}"
        top = min(clip.rate for clip in decoded) / 2
        found[one.text] = Plot(draw.plot_spectrograms(pictures, seconds, top, alt), alt, wide=True)
    return found


def _size(story: Story, metric: str) -> Plot | None:
    points = [_point(story, v, metric, {"value": v.data.get("size_mb")}) for v in story.variants]
    told = ", ".join(f"{p.number} ({p.mark}) {megabytes(p.x)} MB at {p.y:.2f}" for p in points if p)
    limit = (story.details.get("budget") or {}).get("size_mb")
    return _plane(story, metric, points, "Size, MB (smaller is better)", f"Size against quality: {told}", limit)


def _speed(story: Story, metric: str) -> Plot | None:
    points = [_point(story, v, metric, _speedup(story, v)) for v in story.variants]
    told = ", ".join(f"{p.number} ({p.mark}) {ratio(p.x)} at {p.y:.2f}" for p in points if p)
    limit = (story.details.get("budget") or {}).get("speed")
    on = story.speedup(story.original)[1]
    title = f"Speed against the original, {on}, {threads_words(story.fewest)}"
    return _plane(story, metric, points, title, f"Speed against quality: {told}", limit)


def _search(story: Story) -> Plot | None:
    found = search.tried(story.details)
    if not found:
        return None
    line = ", ".join(f"{t.number} {100 * t.time:.0f}% of the time at {t.loss:.2f} lost" for t in search.front(found))
    alt = f"Time against predicted MOS lost, every composition that was tried: {line}"
    margin = story.details["search"].get("margin")
    return Plot(search.plot(found, margin, alt), alt.partition(":")[0] + "; numbers as in the table", wide=True)


def _speedup(story: Story, v: Variant) -> Json:
    """The original's speed is its own unit, whether or not it was timed against itself."""
    return story.speedup(v)[0] or ({"value": 1.0} if v is story.original else {})


def _point(story: Story, v: Variant, metric: str, x: Json) -> draw.Point | None:
    score = v.score(metric)
    if value(x) is None or value(score) is None:
        return None
    how = story.scale(metric)
    y_bounds = _bounds(score)
    scaled = None if y_bounds is None else (y_bounds[0] * how.factor, y_bounds[1] * how.factor)
    return draw.Point(v.number, v.mark, value(x) or 0.0, (value(score) or 0.0) * how.factor, _bounds(x), scaled)


def _bounds(interval: Json | None) -> draw.Bounds:
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return None
    return interval["low"], interval["high"]


def _plane(
    story: Story, metric: str, found: Sequence[draw.Point | None], x_title: str, alt: str, limit: float | None
) -> Plot | None:
    points = [p for p in found if p]
    if len(points) < 2:
        return None
    how = story.scale(metric)
    margin = story.margin(metric)
    base = next((p.y for p in points if p.mark == "original"), None)
    band = None if margin is None or base is None else (base - margin * how.factor, base)
    title = short(metric) + (", %" if how.unit == "%" else "")
    svg = draw.plot_points(points, x_title, title, alt=alt, band=band, limit=limit)
    return Plot(svg, alt.partition(":")[0])


def _latency(story: Story) -> Plot | None:
    if not story.texts or not story.threads:
        return None
    timed = [v for v in story.variants if v.data.get("latency")]
    panels = {
        _panel_title(story, text): [_bars([v.latency(text, n) for n in story.threads]) for v in timed]
        for text in story.texts
    }
    names = [(f"{v.number}  {_cut(v.label)}", v.mark) for v in timed]
    typical = [(v.number, v.latency(story.typical, story.fewest).get("p50_ms")) for v in timed]
    told = ", ".join(f"{number} {ms:.0f} ms" for number, ms in typical if ms is not None)
    alt = f"Median latency of every variant; {kind(story.typical)}: {told}"
    caption = "Median latency; the tick is the p95"
    if len(story.threads) > 1:
        caption += f"; strong bars {threads_words(story.fewest)}, faint bars more"
    return Plot(draw.plot_latency(panels, names, alt=alt), caption, wide=True)


def _panel_title(story: Story, text: str) -> str:
    size = f", {story.texts[text]} characters" if story.texts[text] and "clip" not in text else ""
    return f"{kind(text).capitalize()}{size}"


def _cut(label: str) -> str:
    return label if len(label) <= 34 else label[:33] + "…"


def _bars(rows: Sequence[Json]) -> list[draw.Bar]:
    return [draw.Bar(r["p50_ms"], r.get("p95_ms"), faint=k > 0) for k, r in enumerate(rows) if "p50_ms" in r]


def _benchmark(report: Report) -> Plot | None:
    """Latency bars of a benchmark: one panel for each scope, one row for each arm."""
    timed = [m for m in report.measurements if m.name.endswith("/latency_p50")]
    if not timed:
        return None
    late = {(m.name.partition("/")[0], m.scope): m.value for m in report.measurements if "/latency_p95" in m.name}
    arms = list(dict.fromkeys(m.name.partition("/")[0] for m in timed))
    median = {(m.name.partition("/")[0], m.scope): m.value for m in timed}
    panels = {
        scope.partition(",")[0].capitalize(): [
            [draw.Bar(median[arm, scope], late.get((arm, scope)))] if (arm, scope) in median else [] for arm in arms
        ]
        for scope in dict.fromkeys(m.scope for m in timed)
    }
    names = [(_cut(arm), "original" if arm == report.settings.get("yardstick") else "kept") for arm in arms]
    told = ", ".join(f"{m.name.partition('/')[0]} {m.value:.0f} ms ({m.scope})" for m in timed)
    return Plot(
        draw.plot_latency(panels, names, alt=f"Median latency: {told}"), "Median latency; the tick is the p95", True
    )
