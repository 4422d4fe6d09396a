"""The story an optimize report tells: the variants, what was kept, and the verdict in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vivace.workflows._report_tables import (
    NONE,
    Json,
    Scale,
    Tone,
    bounds,
    kind,
    label,
    megabytes,
    named,
    ranked,
    ratio,
    scale,
    value,
)
from vivace.workflows._stopwatch import BUSY, busy_words
from vivace.workflows.benchmark import threads_words


@dataclass(frozen=True)
class Variant:
    """A variant and its place in the story: `mark` is original, kept, final or refused; `words` say what the label of
    a search's candidate leaves out."""

    number: int
    id: str
    label: str
    mark: str
    data: Json
    words: str = ""

    def latency(self, text: str, threads: int) -> Json:
        rows: Sequence[Json] = self.data.get("latency") or ()
        return next((row for row in rows if (row.get("text"), row.get("threads")) == (text, threads)), {})

    def score(self, metric: str) -> Json | None:
        found: Json | None = (self.data.get("scores") or {}).get(metric)
        return found


class Story:
    """The details of an optimize report with the defaults for what is missing filled in."""

    def __init__(self, details: Json) -> None:
        details = self.details = _without_nulls(details)
        tried: Sequence[Json] = details.get("variants") or ()
        kept = [v.get("id", "") for v in tried[1:] if v.get("kept")]
        first = tried[0].get("id", "") if tried else ""
        self.final_id: str = details.get("final") or (kept[-1] if kept else first)
        self.variants = tuple(
            Variant(k, v.get("id", ""), label, self._mark(k, v), v, words)
            for k, v in enumerate(tried)
            for label, words in [named(v.get("label") or v.get("id", ""))]
        )
        self.original = self.variants[0] if self.variants else Variant(0, "", "original", "original", {})
        self.final = next((v for v in self.variants if v.id == self.final_id), self.original)
        self.changed = self.final is not self.original
        self.trials: Sequence[Json] = details.get("trials") or ()
        self.searched = bool(details.get("search"))
        rows = [row for v in self.variants for row in v.data.get("latency") or ()]
        self.texts: dict[str, int | None] = {r.get("text", ""): r.get("characters") for r in rows}
        self.threads: list[int] = sorted({r.get("threads", 1) for r in rows})
        self.fewest = self.threads[0] if self.threads else 1
        self.typical = "medium" if "medium" in self.texts else next(iter(self.texts), "")
        self.metrics = ranked(m for v in self.variants for m in v.data.get("scores") or ())
        sources = (self.trials, details.get("sensitivity") or ())
        judged = [q for source in sources for entry in source for q in entry.get("quality") or ()]
        judged += [q for q in details.get("noise_floor") or () if "unit" in q]
        self._known = {q.get("metric", ""): (q.get("unit") or "", q.get("better") or "none") for q in reversed(judged)}
        self._margins = {q.get("metric", ""): q.get("margin") for q in reversed(judged)}

    def _mark(self, k: int, variant: Json) -> str:
        if k == 0:
            return "original"
        if variant.get("id") == self.final_id:
            return "final"
        return "kept" if variant.get("kept") else "refused"

    def scale(self, metric: str) -> Scale:
        default = ("predicted MOS", "up") if metric in ("predicted_mos", "dnsmos", "plcmos") else ("", "none")
        return scale(metric, *self._known.get(metric, default))

    def margin(self, metric: str) -> float | None:
        """How much worse than the original a variant may be, in the metric's own unit, where the gate said so."""
        return self._margins.get(metric)

    def speedup(self, variant: Variant) -> tuple[Json | None, str]:
        """How many times faster than the original, and on what: all texts where that was computed."""
        overall: Json | None = variant.data.get("overall")
        if any(v.data.get("overall") for v in self.variants):
            return overall, "all texts"
        return variant.latency(self.typical, self.fewest).get("speedup"), kind(self.typical)

    def number_of(self, variant_id: str | None) -> int | None:
        return next((v.number for v in self.variants if v.id == variant_id), None)


@dataclass(frozen=True)
class Tile:
    """One headline figure, and how the sentence of the verdict says it. `note` is an interval or a condition."""

    label: str
    figure: str
    note: str
    clause: str


@dataclass(frozen=True)
class Outcome:
    """`mark` and `word` say what `tone` colours; `recorded` is the report's own verdict,
    which names what stood in the way."""

    tone: Tone
    mark: str
    word: str
    sentence: str
    recorded: str
    tiles: tuple[Tile, ...]
    cautions: tuple[str, ...]


def _without_nulls(value: Any) -> Any:
    """JSON without its nulls, so that what was not measured is missing in one way only."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value if item is not None] if isinstance(value, list | tuple) else value


def outcome(story: Story) -> Outcome:
    details = story.details
    kept = sum(bool(t.get("kept")) for t in story.trials)
    asked = _budget_words(details.get("budget") or {})
    met = bool(details.get("budget_met"))
    tone: Tone = "good" if (met if asked else kept) else "bad" if asked else "quiet"
    word = ("Budget met" if met else "Budget missed") if asked else ("Improved" if kept else "Nothing kept")
    tiles = tuple(_tiles(story))
    many = len(story.trials) != 1
    tried = f"candidate{'s' * many}" if story.searched else f"pass{'es' * many}"
    sentence = f"{kept} of {len(story.trials)} {tried} kept" if story.trials else "No pass was tried"
    if tiles:
        sentence += ": " + ", ".join(tile.clause for tile in tiles)
    if asked:
        sentence += f"; the budget asked for ({asked}) is {'met' if met else 'not met'}"
    sentence += "."
    recorded = "" if tone == "good" else str(details.get("verdict") or "")
    mark = {"good": "✓", "bad": "✕"}.get(tone, "–")
    return Outcome(tone, mark, word, sentence, recorded, tiles, tuple(_cautions(story)))


def _budget_words(budget: Json) -> str:
    speed, size = budget.get("speed"), budget.get("size_mb")
    asked = [f"at least {speed:g}× as fast"] if speed else []
    return " and ".join(asked + ([f"at most {size:g} MB"] if size else []))


def _tiles(story: Story) -> Iterable[Tile]:
    old, new = story.original.data.get("size_mb"), story.final.data.get("size_mb")
    if old is not None and new is not None:
        figure = _turned(story, megabytes(old), megabytes(new)) + " MB"
        note = f"{quotient(old, new)} the size" if story.changed else ""
        yield Tile("Size", figure, note, f"size {figure}")
    speedup, on = story.speedup(story.final)
    if speedup and story.changed:
        where, figure = threads_words(story.fewest), ratio(value(speedup))
        note = ", ".join(filter(None, [bounds(speedup, ratio), on]))
        yield Tile(f"Speed at {where}", figure, note, f"{figure} as fast at {where} ({note})")
    for metric, name in (("predicted_mos", "Predicted MOS"), ("wer", "Word error rate"), ("accuracy", "Accuracy")):
        how, before, after = story.scale(metric), story.original.score(metric), story.final.score(metric)
        if before is not None and after is not None:
            figure = _turned(story, how.score(value(before)), how.score(value(after)))
            note = bounds(after, how.score)
            told = f"{name[0].lower()}{name[1:]} {figure}" + (f" ({note})" if note else "")
            yield Tile(name, figure, note, told)


def _turned(story: Story, before: str, after: str) -> str:
    return f"{before} → {after}" if story.changed else before


def _cautions(story: Story) -> Iterable[str]:
    if (waited := story.details.get("waited_share") or 0.0) >= BUSY:
        yield busy_words(waited)
    damages = story.details.get("sensitivity") or ()
    missed = [str(d.get("damage", "")) for d in damages if not d.get("refused")]
    if missed:
        yield f"The gate did not refuse {len(missed)} of {len(damages)} deliberate damages: {', '.join(missed)}."
    for floor in story.details.get("noise_floor") or ():
        margin = floor.get("margin")
        if margin and far_end(floor.get("difference")) > margin:
            yield f"{label(floor.get('metric') or 'a metric')}: another seed alone may differ by more than the margin."


def far_end(difference: Json | None) -> float:
    """How far from zero the interval of a difference (or, without one, the difference) reaches."""
    ends = [difference[k] for k in ("low", "value", "high") if difference.get(k) is not None] if difference else []
    return max((abs(end) for end in ends), default=0.0)


def quotient(old: float | None, new: float | None) -> str:
    return NONE if not old or new is None else ratio(new / old)
