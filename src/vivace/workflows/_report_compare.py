"""Tables of an optimize report: original against final, every variant, and each pass's share of the gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from vivace.workflows import _report_listening as people
from vivace.workflows._report_story import Story, quotient
from vivace.workflows._report_tables import (
    NONE,
    Cell,
    Group,
    Json,
    Row,
    Table,
    Tone,
    arrow,
    bounds,
    kind,
    megabytes,
    milliseconds,
    number,
    ratio,
    short,
    table,
    value,
)
from vivace.workflows.benchmark import threads_words

VOICE = ("predicted_mos", "dnsmos", "plcmos", "wer", "cer", "speaker_similarity")


def comparison(story: Story) -> tuple[Table, ...]:
    """Original against final: one table for the fewest threads with everything, one more for each other count."""
    if not story.variants:
        return ()
    tables = []
    for threads in story.threads or [1]:
        groups = [_latency_group(story, text, threads) for text in story.texts]
        caption = f"Latency at {threads_words(threads)}"
        if threads == (story.threads or [1])[0]:
            groups = [_model_group(story), *groups, *_quality_groups(story)]
            caption = f"Size, quality, and speed at {threads_words(threads)}"
        columns = (
            ("Measure", "Original", "Final", "Final ÷ original", "Change") if story.changed else ("Measure", "Original")
        )
        tables.append(Table(caption, columns, tuple(g for g in groups if g.rows)))
    return tuple(tables)


def _model_group(story: Story) -> Group:
    old, new = story.original.data, story.final.data
    load = [v.get("load_s") or {} for v in (old, new)]
    seconds = partial(number, digits=2)
    rows = [
        _pair(story, "Size, MB ↓", _two(old, new, "size_mb"), megabytes),
        _pair(story, "Load, s ↓", _two(load[0], load[1], "value"), seconds, notes=[bounds(i, seconds) for i in load]),
        _pair(story, "Peak memory, MB ↓", _two(old, new, "peak_mb"), partial(number, digits=0)),
    ]
    return Group(tuple(r for r in rows if r), "The model")


def _latency_group(story: Story, text: str, threads: int) -> Group:
    old, new = story.original.latency(text, threads), story.final.latency(text, threads)
    clips = "clip" in text  # a model that listens says all of its answer at once
    rows = [
        _pair(story, "Latency p50, ms ↓", _two(old, new, "p50_ms"), milliseconds),
        _pair(story, "Latency p95, ms ↓", _two(old, new, "p95_ms"), milliseconds),
        _pair(story, "RTF ↓", _two(old, new, "rtf"), number),
        None if clips else _pair(story, "TTFA, ms ↓", _two(old, new, "ttfa_ms"), milliseconds),
    ]
    size = f" ({story.texts[text]} characters)" if story.texts[text] and not clips else ""
    speedup = new.get("speedup") if story.changed else None
    told = f": {ratio(value(speedup))} as fast" if speedup else ""
    if interval := bounds(speedup, ratio):
        told += f" ({interval})"
    return Group(tuple(r for r in rows if r), f"{kind(text).capitalize()}{size}{told}")


def _quality_groups(story: Story) -> list[Group]:
    """The voice as a whole with its worst clips, then one line for each artifact and distance."""
    voice, rest = [], []
    for metric in story.metrics:
        how = story.scale(metric)
        old, new = story.original.score(metric) or {}, story.final.score(metric) or {}
        notes = [bounds(score, how.score) for score in (old, new)]
        title = how.title + arrow(how.better)
        row = _pair(story, title, _two(old, new, "value"), how.score, how.change, notes)
        if metric not in VOICE:
            rest.append(row)
            continue
        worst = [v.data.get("worst_decile") or {} for v in (story.original, story.final)]
        title = f"{short(metric)}, worst decile{arrow(how.better)}"
        voice += [row, _pair(story, title, _two(worst[0], worst[1], metric), how.score, how.change)]
    groups = {"Quality": voice, "Distances, artifacts and other guards": rest}
    return [Group(tuple(r for r in rows if r), title) for title, rows in groups.items()]


def _two(old: Json, new: Json, key: str) -> tuple[float | None, float | None]:
    return old.get(key), new.get(key)


def _pair(
    story: Story,
    title: str,
    pair: tuple[float | None, float | None],
    write: Callable[..., str],
    change: Callable[[float | None], str] | None = None,
    notes: Sequence[str] = ("", ""),
) -> Row:
    """One line of the comparison; empty where neither side was measured."""
    old, new = pair
    if old is None and new is None:
        return ()
    if not story.changed:
        return Cell(title), Cell(write(old), notes[0])
    gap = None if old is None or new is None else new - old
    told = change(gap) if change else write(gap, signed=True)
    return Cell(title), Cell(write(old), notes[0]), Cell(write(new), notes[1]), Cell(quotient(old, new)), Cell(told)


def variants(story: Story) -> Table | None:
    """Every variant that was tried, in order; the key of the plots."""
    if not story.variants:
        return None
    told = [m for m in story.metrics if m in ("predicted_mos", "dnsmos", "plcmos", "wer")]
    columns = [
        "No.",
        "Variant",
        "Verdict",
        "Size, MB",
        f"Speed, {story.speedup(story.original)[1]}, {threads_words(story.fewest)}",
    ]
    heard = people.by_digest(story.details)
    rows = []
    for v in story.variants:
        speedup = story.speedup(v)[0]
        tone: Tone = {"refused": "bad", "original": "quiet"}.get(v.mark, "good")  # type: ignore[assignment]
        cells = [Cell(str(v.number)), Cell(v.label, v.words), Cell(v.mark, tone=tone, mark=v.mark)]
        cells.append(Cell(megabytes(v.data.get("size_mb")), order=v.data.get("size_mb")))
        cells.append(Cell(ratio(value(speedup)), bounds(speedup, ratio), order=value(speedup)))
        for metric in told:
            how, found = story.scale(metric), v.score(metric)
            cells.append(Cell(how.score(value(found)), bounds(found, how.score), order=value(found)))
        if heard:
            cells.append(people.score(heard.get(str(v.data.get("digest")))))
        rows.append(tuple(cells))
    columns += [short(m) for m in told] + ([people.column(story.details)] if heard else [])
    return Table("Every variant that was tried", tuple(columns), (Group(tuple(rows)),), (1, 2), sortable=True)


def attribution(story: Story) -> Table | None:
    rows = []
    for a in story.details.get("attribution") or ():
        kept = bool(a.get("kept"))
        rows.append(
            (
                Cell(str(a.get("pass", ""))),
                Cell("✓ kept", tone="good") if kept else Cell("✕ refused", tone="bad"),
                Cell(ratio(a.get("speed_factor"))),
                _share(a.get("speed_share")),
                Cell(megabytes(a.get("size_saved_mb"))),
                _share(a.get("size_share")),
                Cell(str(a.get("note") or "")),
            )
        )
    columns = ("Pass", "Verdict", "Speed factor", "Share of speed gain", "Saved, MB", "Share of size gain", "Note")
    return table("Each pass's own share of the gain", columns, rows, (0, 1, 3, 5, 6)) if rows else None


def sizes(story: Story) -> Table | None:
    """What each step from the imported file to the final one took away, where optimizer state was part of it."""
    file = story.details.get("imported")
    known = [story.original.data.get("size_mb"), story.final.data.get("size_mb")]
    if not file or None in known:
        return None
    steps = [
        ("Imported file, with the optimizer's state", file["file_mb"]),
        ("Without that state, which training alone needs", file["file_mb"] - file["optimizer_mb"]),
        ("As a graph (format)", known[0]),
        *([("After the passes that were kept", known[1])] if story.changed else []),
    ]
    rows = []
    for k, (name, size) in enumerate(steps):
        rows.append((Cell(name), Cell(megabytes(size)), Cell(quotient(steps[k - 1][1], size) if k else NONE)))
    return table("Size, step by step", ("Step", "MB", "Of the step before"), rows)


def _share(share: float | None) -> Cell:
    if share is None:
        return Cell(NONE)
    return Cell(number(100 * share, 0) + "%", share=min(1.0, max(0.0, share)), order=share)
