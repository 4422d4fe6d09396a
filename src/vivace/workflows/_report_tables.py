"""The words and tables of a report, before any markup: numbers become text here and nowhere else.

HTML and Markdown are both made from these types, so that they cannot disagree about a figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import floor, log10
from typing import Any, Literal

Tone = Literal["", "good", "bad", "quiet"]
Json = Mapping[str, Any]
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One table cell. `note` is set smaller (an interval, a count); `share` (0 to 1) is drawn as a bar;
    `order` is what the column is sorted by where the text would sort wrongly."""

    text: str
    note: str = ""
    tone: Tone = ""
    share: float | None = None
    order: float | None = None
    mark: str = ""


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a title that may be empty."""

    rows: tuple[Row, ...]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """`left` are the columns of words (set flush left); the others hold figures."""

    caption: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    left: tuple[int, ...] = (0,)
    sortable: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for group in self.groups for row in group.rows)


def table(caption: str, columns: Iterable[str], rows: Iterable[Row], left: tuple[int, ...] = (0,)) -> Table:
    """A table of one untitled group."""
    return Table(caption, tuple(columns), (Group(tuple(rows)),), left)


def number(value: float | None, digits: int | None = None, *, signed: bool = False) -> str:
    """A figure for people: three significant digits unless `digits` decimals are asked for; None is a dash."""
    if value is None:
        return NONE
    if digits is None:
        digits = 0 if value == 0 else min(6, max(0, 2 - floor(log10(abs(value)))))
    text = f"{abs(value):,.{digits}f}"
    if not text.strip("0.,"):
        return text
    return ("−" if value < 0 else "+" if signed else "") + text


def megabytes(value: float | None, *, signed: bool = False) -> str:
    return number(value, 1 if abs(value or 0) >= 1 else None, signed=signed)


def milliseconds(value: float | None, *, signed: bool = False) -> str:
    size = abs(value or 0)
    return number(value, 0 if size >= 100 else 1 if size >= 10 else 2, signed=signed)


def kind(text: str) -> str:
    """What was timed: a text by its length, or what says itself (a batch of clips)."""
    return text if "clip" in text else f"{text} text"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}×" if value < 0.1 else f"{value:.2f}×"


def bounds(interval: Json | None, write: Callable[[float], str]) -> str:
    """The 95% interval, "1.71 to 1.77", or nothing where none was computed or it has no width."""
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return ""
    low, high = write(interval["low"]), write(interval["high"])
    return "" if low == high else f"{low.removesuffix(_unit(high))} to {high}"


def _unit(text: str) -> str:
    return re.search(r"[^\d]*$", text)[0]  # type: ignore[index]


def value(interval: Json | None) -> float | None:
    return None if interval is None else interval.get("value")


@dataclass(frozen=True)
class Scale:
    """How the values of one metric are written."""

    label: str
    unit: str = ""
    better: str = "none"
    digits: int | None = None
    factor: float = 1.0

    @property
    def title(self) -> str:
        return self.label + (f", {self.unit}" if self.unit not in ("", "%") else "")

    def score(self, value: float | None) -> str:
        if value is None:
            return NONE
        return number(value * self.factor, self.digits) + ("%" if self.unit == "%" else "")

    def change(self, value: float | None) -> str:
        """A difference of two scores; of percentages, in points."""
        if value is None:
            return NONE
        digits = None if self.digits is None else self.digits + 1 if self.digits == 2 and not self.unit else self.digits
        return number(value * self.factor, digits, signed=True) + (" points" if self.unit == "%" else "")

    def limit(self, value: float | None) -> str:
        return self.change(value).lstrip("+")


# A predicted mean opinion score carries its predictor in its name: no listener was asked.
_LABELS = {
    "predicted_mos": "Predicted MOS (DistillMOS)",
    "dnsmos": "Predicted MOS, second predictor (DNSMOS)",
    "plcmos": "Predicted MOS, second predictor (PLCMOS)",
    "listener_mos": "MOS by listeners",
    "wer": "Word error rate",
    "cer": "Character error rate",
    "mel_distance": "Mel distance",
    "mel_cepstral_distance": "Mel cepstral distance",
    "log_spectral_distance": "Log-spectral distance",
    "speaker_similarity": "Speaker similarity",
    "rtf": "RTF",
    "ttfa": "Time to first audio (TTFA)",
    "worst_gap": "Longest wait between two chunks of a stream",
    "buffer_low": "Least left to play when a chunk came",
    "latency_p50": "Latency p50",
    "latency_p95": "Latency p95",
}
_SHORT = {"predicted_mos": "Predicted MOS", "dnsmos": "DNSMOS", "plcmos": "PLCMOS", "wer": "WER", "cer": "CER"}
_FRACTIONS = ("wer", "cer")
_ORDER = ("predicted_mos", "dnsmos", "plcmos", "wer", "cer", "speaker_similarity", "duration_ratio")


def scale(metric: str, unit: str = "", better: str = "none") -> Scale:
    """The way to write a metric's values; error rates and shares are written as percentages."""
    if unit in ("predicted MOS", "MOS", "MOS by listeners"):  # older reports say "MOS" of predictions
        return Scale(label(metric), "", better, 2)
    if metric in _FRACTIONS:
        return Scale(label(metric), "%", better, 1, 1.0 if unit == "%" else 100.0)
    if unit == "share":
        return Scale(label(metric), "%", better, 2, 100.0)
    if unit == "ratio":
        return Scale(label(metric), "", better, 3)
    return Scale(label(metric), unit, better, 1 if unit == "%" else None)


def ranked(metrics: Iterable[str]) -> list[str]:
    """Each metric once, those that speak of the voice as a whole first."""
    return sorted(dict.fromkeys(metrics), key=lambda m: _ORDER.index(m) if m in _ORDER else len(_ORDER))


def label(metric: str) -> str:
    return _LABELS.get(metric, metric.replace("_", " ").strip().capitalize())


def short(metric: str) -> str:
    return _SHORT.get(metric, label(metric))


def arrow(better: str) -> str:
    return {"up": " ↑", "down": " ↓"}.get(better, "")


def named(label: str) -> tuple[str, str]:
    """A label short enough for tables, and the words that it leaves out: a search names its candidates by number."""
    name, colon, words = label.partition(": ")
    return (name, words) if colon and "candidate " in name else (label, "")


def plain(value: Any) -> str:
    """A setting or another JSON scalar as people write it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {plain(item)}" for key, item in value.items()) or NONE
    return str(value)
