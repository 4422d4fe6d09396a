"""Speed as a ratio: every arm speaks the same texts in the same run, interleaved, after warm-up."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vivace.core import machine
from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import UsageError
from vivace.core.report import Measurement, Report
from vivace.core.speech import FIRST_CHUNK, Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak, stream
from vivace.workflows import stats, texts
from vivace.workflows._memory import peak_memory
from vivace.workflows._stopwatch import waited_for_a_core
from vivace.workflows._streaming import listen


@dataclass
class Timings:
    """Seconds of every run, by arm and text: position k of two arms belongs to the same round.

    `whole` of a run without stream; `first` to the first audio of a streamed one, `gap` the longest wait between two
    of its chunks, `low` the least that a listener had left to play (see _streaming). `audio` is what was spoken.
    `waited` is the share of the time that went by waiting for a core.
    """

    threads: int
    characters: dict[str, int]
    whole: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    first: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    audio: dict[str, dict[str, float]] = field(default_factory=dict)
    load: dict[str, list[float]] = field(default_factory=dict)
    gap: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    low: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    waited: float = 0.0

    def joined(self, more: Timings) -> Timings:
        """With the rounds of `more`, of the same arms and texts, behind these."""
        kept: dict[str, Any] = {
            name: {
                arm: {text: [*seconds, *getattr(more, name)[arm][text]] for text, seconds in texts_.items()}
                for arm, texts_ in getattr(self, name).items()
            }
            for name in ("whole", "first", "gap", "low")
        }
        load = {arm: [*seconds, *more.load[arm]] for arm, seconds in self.load.items()}
        return replace(self, load=load, waited=max(self.waited, more.waited), **kept)

    def ratio(self, parent: str, child: str, text: str) -> stats.Interval:
        """How many times faster the child is on one text: ratio of medians, over the same rounds."""
        return stats.median_ratio(self.whole[parent][text], self.whole[child][text])

    def overall(self, parent: str, child: str) -> stats.Interval:
        """The same over all texts: the geometric mean of their ratios, rounds resampled jointly."""
        pairs = [(self.whole[parent][t], self.whole[child][t]) for t in self.characters]
        rounds = min(len(p) for p, _ in pairs)
        rng = np.random.default_rng(0)
        draws = rng.integers(0, rounds, (2000, rounds))
        logs = [np.log(np.median(np.array(p)[draws], 1)) - np.log(np.median(np.array(c)[draws], 1)) for p, c in pairs]
        spread = np.exp(np.mean(logs, axis=0))
        centre = float(np.exp(np.mean([np.log(np.median(p) / np.median(c)) for p, c in pairs])))
        return stats.Interval(centre, float(np.quantile(spread, 0.025)), float(np.quantile(spread, 0.975)), rounds)


def measure(
    arms: Mapping[str, Bundle],
    *,
    threads: int = 1,
    rounds: int = 15,
    spoken_texts: Mapping[str, str] | None = None,
    first_audio: bool = True,
    streams: bool = False,
    first_seed: int = 0,
    progress: Progress = lambda message, share: None,
) -> Timings:
    """Times every arm on every text `rounds` times, the order of arms shuffled in each round.

    Each run is the engine's whole road, text to samples, with another seed in each round: a length that a runtime has
    seen before is faster than what users meet. `streams` plays the streamed runs to their end, for `gap` and
    `low`; else they stop at the first audio. Raises UsageError for fewer than 3 rounds.
    """
    if rounds < 3:
        raise UsageError(f"rounds is {rounds}; a median needs at least 3")
    said = dict(spoken_texts or texts.latency())
    result = Timings(threads, {name: len(text) for name, text in said.items()})
    shuffle = random.Random(0)  # noqa: S311 - an order, not a secret
    with ExitStack() as stack:
        engines = {}
        for arm, bundle in arms.items():
            begun = time.perf_counter()
            engines[arm] = stack.enter_context(Engine(bundle, RuntimeOptions(threads=threads)))
            result.load[arm] = [time.perf_counter() - begun]
            for kept in (result.whole, result.first, result.gap, result.low):
                kept[arm] = {text: [] for text in said}
            result.audio[arm] = {}
        begun, waited = time.perf_counter(), waited_for_a_core()
        for k in range(rounds + 1):  # the first round warms up
            for name, text in said.items():
                order = list(arms)
                shuffle.shuffle(order)
                for arm in order:
                    request = Request("timed", text, seed=first_seed + k)
                    whole, seconds = _spoken(engines[arm], request)
                    streamed = listen(engines[arm], request) if streams else None
                    first = streamed.ttfa if streamed else _first(engines[arm], request) if first_audio else 0.0
                    if k:
                        result.whole[arm][name].append(whole)
                        result.first[arm][name].append(first)
                        result.audio[arm][name] = seconds
                    if k and streamed:
                        result.gap[arm][name].append(streamed.worst_gap)
                        result.low[arm][name].append(streamed.low)
            progress(f"timing round {k}/{rounds}", k / rounds)
        result.waited = (waited_for_a_core() - waited) / (time.perf_counter() - begun)
    return result


def _spoken(engine: Engine, request: Request) -> tuple[float, float]:
    """(seconds to the end, seconds of audio) of a run without stream."""
    begun = time.perf_counter()
    audio = speak(engine, request)
    return time.perf_counter() - begun, audio.seconds


def _first(engine: Engine, request: Request) -> float:
    """Seconds to the first audio of a stream, which is left there."""
    begun = time.perf_counter()
    for event in stream(engine, replace(request, chunk_frames=FIRST_CHUNK)):
        if event.audio is not None:
            break
    return time.perf_counter() - begun


def benchmark(
    arms: Mapping[str, Bundle],
    *,
    threads: int = 1,
    rounds: int = 15,
    memory: bool = True,
    progress: Progress = lambda message, share: None,
) -> Report:
    """Latency, RTF, streaming (TTFA, the longest wait between chunks, what the listener had left at the worst moment),
    load and memory of several bundles side by side; the first arm is the yardstick."""
    timings = measure(arms, threads=threads, rounds=rounds, streams=True, progress=progress)
    yardstick = next(iter(arms))
    measurements = []
    for arm, bundle in arms.items():
        measurements.append(Measurement(f"{arm}/size", bundle.size / 1e6, "MB", "down"))
        measurements.append(Measurement(f"{arm}/load", timings.load[arm][0], "s", "down", scope=threads_words(threads)))
        for row in latency_rows(timings, arm, yardstick):
            scope = f"{row['text']} text ({row['characters']} characters), {threads_words(threads)}"
            n = row["n"]
            speedup = row["speedup"]
            measurements += [
                Measurement(f"{arm}/latency_p50", row["p50_ms"], "ms", "down", n, scope=scope),
                Measurement(f"{arm}/latency_p95", row["p95_ms"], "ms", "down", n, scope=scope),
                Measurement(f"{arm}/rtf", row["rtf"], "", "down", n, scope=scope),
                Measurement(f"{arm}/ttfa", row["ttfa_ms"], "ms", "down", n, scope=scope),
                Measurement(f"{arm}/worst_gap", row["worst_gap_ms"], "ms", "down", n, scope=scope),
                Measurement(f"{arm}/buffer_low", row["buffer_low_ms"], "ms", "up", n, scope=scope),
                Measurement(
                    f"{arm}/speedup", speedup["value"], "x", "up", n, speedup["low"], speedup["high"], scope=scope
                ),
            ]
        if memory:
            loaded, peak = peak_memory(bundle, texts.latency()["long"], threads)
            measurements.append(Measurement(f"{arm}/memory_loaded", loaded, "MB", "down", scope="after load"))
            measurements.append(Measurement(f"{arm}/memory_peak", peak, "MB", "down", scope="long text"))
    return Report(
        "benchmark",
        tuple(measurements),
        bundles={arm: bundle.digest for arm, bundle in arms.items()},
        machine=machine.describe(),
        settings={"threads": threads, "rounds": rounds, "yardstick": yardstick, "first_chunk": FIRST_CHUNK},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def latency_rows(timings: Timings, arm: str, yardstick: str) -> list[dict[str, Any]]:
    """One plain row for each text: p50, p95, RTF, TTFA, the speed-up over the yardstick, and where streams were played
    to their end, the worst of all rounds: longest wait and least left to play."""
    rows = []
    for text, characters in timings.characters.items():
        runs = timings.whole[arm][text]
        gaps, lows = (kept.get(arm, {}).get(text, []) for kept in (timings.gap, timings.low))
        streamed = {"worst_gap_ms": 1000 * max(gaps), "buffer_low_ms": 1000 * min(lows)} if gaps else {}
        rows.append(
            {
                "text": text,
                "characters": characters,
                "threads": timings.threads,
                "p50_ms": 1000 * statistics.median(runs),
                "p95_ms": 1000 * float(np.quantile(runs, 0.95)),
                "rtf": statistics.median(runs) / timings.audio[arm][text],
                "ttfa_ms": 1000 * statistics.median(timings.first[arm][text]),
                "n": len(runs),
                "speedup": plain(timings.ratio(yardstick, arm, text)),
                **streamed,
            }
        )
    return rows


def threads_words(count: int) -> str:
    return f"{count} thread" + "s" * (count != 1)


def plain(interval: stats.Interval) -> dict[str, Any]:
    """An interval as JSON; a bound that is not finite becomes null."""

    def finite(x: float) -> float | None:
        return float(x) if np.isfinite(x) else None

    return {
        "value": float(interval.mean),
        "low": finite(interval.low),
        "high": finite(interval.high),
        "n": interval.n,
    }
