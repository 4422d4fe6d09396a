"""The gate: is the child faster (or smaller), and is its voice not worse than the parent's?

Quality is paired: the same texts, seeds and noise. The main measure, predicted MOS, is tested for non-inferiority
with an interval; the other metrics are guards, each against a harm that predicted MOS does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vivace.core.audio import Audio
from vivace.core.errors import UsageError
from vivace.core.settings import flag, option
from vivace.workflows import stats
from vivace.workflows._labels import metric
from vivace.workflows.benchmark import Timings, plain, threads_words
from vivace.workflows.clips import Clips, Scores
from vivace.workflows.evaluate import difference, mean

Quality = dict[str, Any]


LEAST = {"texts": 2, "rounds": 3, "threads": 1, "damage_texts": 2}


@dataclass(frozen=True)
class Settings:
    """What the gate measures and allows; command-line flags are made from this."""

    texts: int = option(100, "evaluation sentences, from the start of the set")
    rounds: int = option(15, f"interleaved timing rounds for each comparison, {LEAST['rounds']} or more")
    threads: int = option(1, "threads for every timing")
    seed: int = option(0, "base seed of the noise")
    mos_margin: float = option(0.05, "largest loss of predicted MOS, as a share of the parent's")
    accuracy_points: float = option(0.95, "of a model that listens: largest loss of accuracy, in points of percent")
    wer_points: float = option(1.0, "largest rise of the word error rate, in points of percent")
    duration_margin: float = option(0.02, "largest change of the mean duration, as a share")
    harmed_share: float = option(0.02, "largest share of clips with a new artifact (silence, clipping, ...)")
    slower_margin: float = option(0.03, "where size is the objective: largest loss of speed, as a share")
    damage_texts: int = option(24, "sentences used to prove that the gate sees damage")
    min_speedup: float = option(0.0, "budget: the result must be this many times faster than the original (0: none)")
    max_mb: float = option(0.0, "budget: the result must be at most this many megabytes (0: none)")

    def __post_init__(self) -> None:
        for name in ("mos_margin", "duration_margin", "harmed_share", "slower_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it is a share, from 0 to below 1")
        for name in ("mos_margin", "accuracy_points"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; that nothing at all is lost cannot be proven")
        for name in ("wer_points", "min_speedup", "max_mb"):
            if getattr(self, name) < 0:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be 0 or more")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; the gate needs at least {least}")


@dataclass(frozen=True)
class Rule:
    """How one metric may stop a child.

    interval: the interval's worse bound must clear the margin (non-inferiority). estimate: the mean must.
    band: the mean may move neither way by more. clips: at most `share` of the clips may be worse by more.
    """

    margin: float
    test: Literal["interval", "estimate", "band", "clips"]
    words: str
    relative: bool = False
    share: float = 0.0

    def limit(self, parent: float) -> float:
        return self.margin * abs(parent) if self.relative else self.margin


def rules(settings: Settings, metrics: Sequence[str]) -> dict[str, Rule]:
    """The rule of every metric that can stop a child; the others are reported only.

    A metric that detects an artifact says in its own file, as TOLERANCE, how much worse a clip must get to count.
    """
    percent = f"{100 * settings.mos_margin:g}%"
    fixed = {
        "predicted_mos": Rule(
            settings.mos_margin, "interval", f"95% interval of the loss within {percent} of the parent's", True
        ),
        "accuracy": Rule(
            settings.accuracy_points / 100,
            "interval",
            f"95% interval of the loss within {settings.accuracy_points:g} points",
        ),
        "dnsmos": Rule(settings.mos_margin, "estimate", f"mean loss within {percent} of the parent's", True),
        "wer": Rule(settings.wer_points / 100, "estimate", f"up by at most {settings.wer_points:g} points"),
        "duration_ratio": Rule(
            settings.duration_margin, "band", f"mean within {100 * settings.duration_margin:g}% of the parent's"
        ),
    }
    found = {name: rule for name, rule in fixed.items() if name in metrics}
    for name in metrics:
        tolerance = getattr(metric(name), "TOLERANCE", None)
        if tolerance is not None and name not in found:
            words = f"at most {100 * settings.harmed_share:g}% of the clips worse by more than {tolerance:g}"
            found[name] = Rule(tolerance, "clips", words, share=settings.harmed_share)
    return found


def compare(
    parent: Scores, child: Scores, texts: Sequence[str], allowed: dict[str, Rule], groups: Sequence[str] = ()
) -> tuple[list[Quality], list[str]]:
    """(a row for each metric, the reasons against the child; none means non-inferior). Texts of one of the `groups` are
    not independent of each other."""
    rows, reasons = [], []
    for name in child:
        module = metric(name)
        moved = difference(name, child[name], parent[name], texts, groups)
        before = mean(name, parent[name], texts, groups)
        after = mean(name, child[name], texts, groups)
        rule = allowed.get(name)
        ok, why = _verdict(rule, module.BETTER, before, moved, parent[name], child[name]) if rule else (None, "")
        if ok is False and rule:
            reasons.append(f"{name} {before.mean:.3g} -> {after.mean:.3g} {why} (allowed: {rule.words})")
        rows.append(
            {
                "metric": name,
                "unit": module.UNIT,
                "better": module.BETTER,
                "parent": plain(before),
                "child": plain(after),
                "difference": plain(moved),
                "margin": rule.limit(before.mean) if rule else None,
                "rule": rule.words if rule else "reported only",
                "ok": ok,
            }
        )
    return rows, reasons


def _verdict(
    rule: Rule,
    better: str,
    before: stats.Interval,
    moved: stats.Interval,
    parent: Sequence[float],
    child: Sequence[float],
) -> tuple[bool, str]:
    limit = rule.limit(before.mean)
    worse = -1.0 if better == "up" else 1.0  # multiplies a difference so that positive means worse
    if rule.test == "interval":
        ok = stats.non_inferior(moved, limit, "up" if better == "up" else "down")
        return ok, f"[{moved.low:+.3f}, {moved.high:+.3f}] against a margin of {limit:.3g}"
    if rule.test == "estimate":
        return worse * moved.mean <= limit, f"({moved.mean:+.3g})"
    if rule.test == "band":
        return abs(moved.mean) <= limit, f"({moved.mean:+.3g})"
    harmed = int(np.sum(worse * (np.asarray(child) - np.asarray(parent)) > limit))
    return harmed <= rule.share * len(child), f"in {harmed} of {len(child)} clips"


def faster(timings: Timings, parent: str, child: str) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each text and one for all, reasons against the child as a faster one).

    Faster means: the interval of the overall ratio lies above 1, and no single text is certainly slower.
    """
    rows, reasons = speed_rows(timings, parent, child), []
    overall = rows[-1]["ratio"]
    rows[-1]["ok"] = overall["low"] is not None and overall["low"] > 1.0
    if not rows[-1]["ok"]:
        reasons.append(f"not faster: {_ratio(overall)} on all texts, {threads_words(timings.threads)}")
    for row in rows[:-1]:
        if not row["ok"]:
            reasons.append(f"slower on {row['text']} text: {_ratio(row['ratio'])}")
    return rows, reasons


def not_slower(timings: Timings, parent: str, child: str, margin: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The same where size is the objective: the interval must lie above 1 - margin."""
    rows, reasons = speed_rows(timings, parent, child), []
    overall = rows[-1]["ratio"]
    rows[-1]["ok"] = overall["low"] is not None and overall["low"] > 1.0 - margin
    if not rows[-1]["ok"]:
        certain = overall["high"] is not None and overall["high"] <= 1.0 - margin
        reasons.append(
            f"slower: {_ratio(overall)} on all texts; what is to be smaller may take 1/{1 - margin:.2f} of the time"
            if certain
            else f"not shown to be as fast: {_ratio(overall)} on all texts, the lower bound must lie above "
            f"{1 - margin:.2f} (more rounds narrow the interval)"
        )
    return rows, reasons


def speed_rows(timings: Timings, parent: str, child: str) -> list[dict[str, Any]]:
    """The speed-up of the child on each text, and on "all" of them last; "ok" is: not certainly slower."""
    ratios = {text: plain(timings.ratio(parent, child, text)) for text in timings.characters}
    ratios["all"] = plain(timings.overall(parent, child))
    return [
        {"text": text, "threads": timings.threads, "ratio": ratio, "ok": ratio["high"] is None or ratio["high"] >= 1.0}
        for text, ratio in ratios.items()
    ]


def _ratio(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.2f}x [{interval['low']:.2f}, {interval['high']:.2f}]"


# Sensitivity proof: what the gate must refuse, whatever the model.


def _hiss(audio: Audio, k: int) -> Audio:
    """White noise 25 dB below the speech, as a vocoder in INT8 throughout makes it."""
    rng = np.random.default_rng(k)
    level = np.sqrt(np.mean(audio.samples**2)) * 10 ** (-25 / 20)
    noise = rng.standard_normal(len(audio.samples)) * level
    return Audio(np.clip(audio.samples + noise, -1, 1).astype(np.float32), audio.rate)


def _cut(audio: Audio, k: int) -> Audio:  # noqa: ARG001
    """The last half second is missing, or less where so little would be left that nothing could judge it."""
    kept = max(len(audio.samples) - audio.rate // 2, round(0.6 * audio.rate))
    return Audio(audio.samples[:kept], audio.rate)


def _clip(audio: Audio, k: int) -> Audio:  # noqa: ARG001
    """Four times too loud, cut at full scale."""
    peak = max(float(np.abs(audio.samples).max()), 1e-6)
    return Audio(np.clip(audio.samples / peak * 4, -1, 1).astype(np.float32), audio.rate)


DAMAGES: dict[str, Callable[[Audio, int], Audio]] = {
    "hiss (white noise 25 dB below the speech)": _hiss,
    "the last half second dropped": _cut,
    "four times too loud, clipped": _clip,
}


def damaged(clips: Clips, name: str, count: int) -> Clips:
    """The first `count` clips with a damage of `DAMAGES`."""
    audio = tuple(DAMAGES[name](a, k) for k, a in enumerate(clips.audio[:count]))
    return Clips(clips.texts[:count], audio, tuple(f"{name} {key}" for key in clips.keys[:count]))
