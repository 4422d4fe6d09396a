"""From raw rounds to figures with intervals, and which of them speak for a peer."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from _peers.arms import Arm
from _peers.phases import FIRST, METRICS
from vivace.core import registry
from vivace.workflows import evaluate, stats
from vivace.workflows.benchmark import Timings, plain

Rounds = Sequence[Mapping[str, Any]]
EVEN = 0.01  # a figure that was taken once counts as better from this share on


class Field:
    """Who is compared with whom."""

    def __init__(self, arms: Sequence[Arm], cores: int) -> None:
        self.arms, self.cores = list(arms), cores

    @property
    def groups(self) -> list[int]:
        """The thread counts that a table is made for."""
        return sorted({1, self.cores})

    def arm(self, key: str) -> Arm:
        return next(arm for arm in self.arms if arm.key == key)

    def is_peer(self, key: str) -> bool:
        """Whether it is another tool with the original file."""
        arm = self.arm(key)
        return not arm.ours and not arm.original

    def group(self, threads: int) -> list[Arm]:
        """The arms at that many threads; a tool without a thread option takes all cores and stands there."""
        return [a for a in self.arms if a.threads == threads or (a.threads == 0 and threads == self.cores)]

    def yardsticks(self, threads: int) -> dict[str, Arm]:
        """What the arms of a group are stated against, by column title."""
        here = {arm.kind: arm for arm in reversed(self.group(threads)) if self.is_peer(arm.key)}
        found = {f"times plain ORT ({words(threads)})": here["plain"]} if "plain" in here else {}
        if "piper" in here and here["piper"].threads:
            found[f"times piper-tts ({words(threads)})"] = here["piper"]
        for arm in self.arms:
            if arm.kind == "piper" and arm.threads == 0:
                found["times piper-tts (own settings)"] = arm
        return found

    def rivals(self, arm: Arm, *, lean: bool = False) -> list[Arm]:
        """The peers that `arm` must stand up to: with their own original file, at as many threads. `lean`: for what
        does not depend on threads, any peer."""
        found = self.arms if lean else self.group(arm.threads)
        return [a for a in found if self.is_peer(a.key) and (not lean or a.threads <= 1)]


def words(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads != 1)


def column(rounds: Rounds, text: str, arm: Arm, what: str) -> list[float]:
    return [r[text][arm.key][what] for r in rounds if r[text][arm.key][what] is not None]


def median(values: Sequence[float]) -> dict[str, Any]:
    """The median with its interval."""
    return plain(stats.median_ratio(values, np.ones(len(values))))


def ratio(parent: Sequence[float], child: Sequence[float]) -> dict[str, Any]:
    return plain(stats.median_ratio(parent, child))


def latency(field: Field, found: Mapping[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each arm and group: median seconds and RTF of each text, and the ratios to the yardsticks, of each
    text and of all (geometric mean)."""
    rounds, rows = found["rounds"], []
    for threads in field.groups:
        marks, arms = field.yardsticks(threads), field.group(threads)
        timed = {a.key: {t: column(rounds, t, a, "seconds") for t in texts} for a in [*arms, *marks.values()]}
        timings = Timings(threads, dict.fromkeys(texts, 0), timed)
        for arm in arms:
            own = timed[arm.key]
            row: dict[str, Any] = {"arm": arm.name, "key": arm.key, "threads": threads, "n": len(rounds)}
            row["seconds"] = {t: median(own[t]) for t in texts}
            row["p95"] = {t: float(np.quantile(own[t], 0.95)) for t in texts}
            row["slowest"] = {t: max(own[t]) for t in texts}
            row["rtf"] = {t: sum(own[t]) / sum(column(rounds, t, arm, "audio")) for t in texts}
            row["times"] = {
                title: {t: plain(timings.ratio(mark.key, arm.key, t)) for t in texts}
                | {"all": plain(timings.overall(mark.key, arm.key))}
                for title, mark in marks.items()
            }
            rows.append(row)
    return rows


def first_audio(field: Field, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rounds, rows = found["rounds"], []
    for threads in field.groups:
        marks = field.yardsticks(threads)
        for arm in field.group(threads):
            row: dict[str, Any] = {"arm": arm.name, "key": arm.key, "threads": threads, "n": len(rounds)}
            for text in found["texts"]:
                own = column(rounds, text, arm, "first")
                row[text] = {
                    "first": median(own),
                    "piece": statistics.median(column(rounds, text, arm, "first_audio")),
                    "gapless": median(column(rounds, text, arm, "gapless")),
                    "times": {title: ratio(column(rounds, text, m, "first"), own) for title, m in marks.items()},
                }
            rows.append(row)
    return rows


def load(arms: Sequence[Arm], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    loads = [(arm, first) for arm in arms for first in ("", FIRST) if arm.ours or not first]
    for arm, first in loads:
        told = [r["load"][arm.key + first] for r in found["rounds"]]
        row: dict[str, Any] = {"arm": arm.name + first, "key": arm.key, "first": first, "n": len(told)}
        row |= {name: median([t[name] for t in told]) for name in ("import_s", "load_s", "ready_s")}
        row["to_audio_s"] = median([t["ready_s"] + t["first_s"] for t in told])
        rows.append(row)
    return rows


def memory(arms: Sequence[Arm], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for arm in arms:
        told = found["arms"][arm.key]
        rows.append(
            {
                "arm": arm.name,
                "key": arm.key,
                "loaded_mb": statistics.median(t["loaded_mb"] for t in told["long"] + told["book"]),
                "long_mb": median([t["peak_mb"] for t in told["long"]]),
                "book_mb": median([t["peak_mb"] for t in told["book"]]),
                "book_rtf": told["book"][0]["seconds"] / told["book"][0]["audio"],
            }
        )
    return rows


def throughput(field: Field, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Audio-seconds per second of each crew, how many times that of the best crew of a peer, and the memory it took."""
    rates = {name: _rates(found, name) for name in found["crews"]}
    peers = {name: statistics.median(rates[name]) for name, key in found["crews"].items() if field.is_peer(key)}
    best = max(peers, key=lambda name: peers[name])
    return [
        {"crew": name, "key": key, "n": len(rates[name]), "rate": median(rates[name])}
        | {"times_best_peer": ratio(rates[name], rates[best]), "best_peer": best}
        | {"most_mb": median(found["memory"][name])}
        for name, key in found["crews"].items()
    ]


def quality(arms: Sequence[Arm], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"arm": arm.name, "key": arm.key, "n": len(found["texts"])}
        | {name: plain(evaluate.mean(name, found["scores"][arm.key][name], found["texts"])) for name in METRICS}
        for arm in arms
        if arm.key in found["scores"]
    ]


def dropins(field: Field, found: Mapping[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    """An exported file against the original one inside the same tool at the same threads."""
    rounds, rows = found["rounds"], []
    by_key = {arm.key: arm for arm in field.arms}
    for arm in (a for a in field.arms if a.original):
        pair = [by_key[arm.original], arm]
        timed = {a.key: {t: column(rounds, t, a, "seconds") for t in texts} for a in pair}
        timings = Timings(arm.threads, dict.fromkeys(texts, 0), timed)
        times = {t: plain(timings.ratio(arm.original, arm.key, t)) for t in texts}
        rows.append(
            {"arm": arm.name, "threads": arm.threads, "times": times}
            | {"all": plain(timings.overall(arm.original, arm.key))}
        )
    return rows


def verdicts(field: Field, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every comparison of a Vivace arm with a peer: `gain` above 1 is the peer's (for quality: above 0), `better` is
    "peer", "vivace", or "" where the interval holds both."""
    found: list[dict[str, Any]] = []

    def compare(measure: str, ours: Arm, peer: Arm, own: Sequence[float], other: Sequence[float], unit: str) -> None:
        gain = ratio(own, other)
        found.append(
            _row(measure, ours.key, peer.key, gain, 1.0)
            | {"vivace": statistics.median(own), "peer_value": statistics.median(other), "unit": unit}
        )

    for ours in (arm for arm in field.arms if arm.ours):
        for peer in field.rivals(ours):
            for phase, label in (("latency", "latency, {} text"), ("varied", "latency, {} sentences")):
                rounds = results.get(phase, {}).get("rounds", [])
                for text in [t for t in (rounds[0] if rounds else {}) if t != "busy"]:
                    own, other = (column(rounds, text, arm, "seconds") for arm in (ours, peer))
                    compare(label.format(text), ours, peer, own, other, "s")
            rounds = results.get("ttfa", {}).get("rounds", [])
            for text in results.get("ttfa", {}).get("texts", {}):
                for what, label in (("first", "first audio"), ("gapless", "gap-free start")):
                    own, other = (column(rounds, text, arm, what) for arm in (ours, peer))
                    compare(f"{label}, {text}", ours, peer, own, other, "s")
        if ours.threads == 1:
            for peer in field.rivals(ours, lean=True):
                _lean(ours, peer, results, compare, found)
    crews = results.get("throughput", {}).get("crews", {})
    for crew in (name for name, key in crews.items() if field.arm(key).ours):
        for rival in (name for name, key in crews.items() if field.is_peer(key)):
            own, other = (_rates(results["throughput"], name) for name in (crew, rival))
            found.append(
                _row("throughput", crew, rival, ratio(other, own), 1.0)
                | {"vivace": statistics.median(own), "peer_value": statistics.median(other), "unit": "audio-s/s"}
            )
            own, other = (results["throughput"]["memory"][name] for name in (crew, rival))
            found.append(
                _row("memory, all cores busy", crew, rival, ratio(own, other), 1.0)
                | {"vivace": statistics.median(own), "peer_value": statistics.median(other), "unit": "MB"}
            )
    return found


def _lean(
    ours: Arm,
    peer: Arm,
    results: Mapping[str, Mapping[str, Any]],
    compare: Callable[..., None],
    found: list[dict[str, Any]],
) -> None:
    """What does not hang on threads: load, memory, quality."""
    rounds = results.get("load", {}).get("rounds", [])
    for what, label in (("load_s", "load, without imports"), ("ready_s", "load, from the start of the process")):
        other = [r["load"][peer.key][what] for r in rounds]
        for first in ("", FIRST) if rounds else ():
            compare(label + first, ours, peer, [r["load"][ours.key + first][what] for r in rounds], other, "s")
    held = results.get("memory", {}).get("arms", {})
    for text in ("long", "book"):
        if ours.key in held and peer.key in held:
            own, other = ([t["peak_mb"] for t in held[a.key][text]] for a in (ours, peer))
            compare(f"peak memory, {text}", ours, peer, own, other, "MB")
    scores = results.get("quality", {}).get("scores", {})
    for name in METRICS if {ours.key, peer.key} <= set(scores) else ():
        up = registry.load("metrics", name).BETTER == "up"
        own, other = scores[ours.key][name], scores[peer.key][name]
        texts = results["quality"]["texts"]
        gain = plain(evaluate.difference(name, *((other, own) if up else (own, other)), texts))
        means = [evaluate.mean(name, values, texts).mean for values in (own, other)]
        found.append(
            _row(f"quality, {name}", ours.key, peer.key, gain, 0.0)
            | {"vivace": means[0], "peer_value": means[1], "unit": ""}
        )


def _row(measure: str, ours: str, peer: str, gain: dict[str, Any], even: float) -> dict[str, Any]:
    low, high = gain["low"], gain["high"]
    if low is None or high is None:  # taken once
        low = high = gain["value"]
        margin = EVEN
    else:
        margin = 0.0
    better = "peer" if low > even + margin else "vivace" if high < even - margin else ""
    return {"measure": measure, "arm": ours, "peer": peer, "gain": gain, "better": better}


def _rates(found: Mapping[str, Any], crew: str) -> list[float]:
    return [r["throughput"][crew]["audio"] / r["throughput"][crew]["seconds"] for r in found["rounds"]]
