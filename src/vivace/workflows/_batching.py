"""Whether a voice gains from speaking several texts together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine
from vivace.workflows._stopwatch import interval, read_all

PAYS = 1.2  # ratio of throughputs: for less, waiting for the whole batch is not worth it


def time_batches(
    bundle: Bundle, threads: int, text: str, batches: Sequence[int], runs: int, progress: Progress
) -> dict[str, Any]:
    """Latency and throughput for each batch size, in interleaved rounds, and whether batching pays.

    `batches` in rising order; the first is what the others are set against.
    """
    seconds: dict[int, list[float]] = {b: [] for b in batches}
    audio: dict[int, float] = {}
    with ExitStack() as stack:
        options = RuntimeOptions(threads=threads)
        engines = {b: stack.enter_context(Engine(bundle, options, max_batch=b)) for b in batches}
        for k in range(runs + 1):
            for b, engine in engines.items():
                requests = [Request(f"batched-{seed}", text, seed=seed) for seed in range(b)]
                begun = time.perf_counter()
                audio[b] = read_all(engine, requests)
                if k:
                    seconds[b].append(time.perf_counter() - begun)
            progress(f"timing batches, round {k}/{runs}", k / runs)
    base = _rates(batches[0], seconds, audio)
    rows = [
        {
            "batch": b,
            "ms": 1000 * statistics.median(seconds[b]),
            "audio_seconds": audio[b],
            "throughput": statistics.median(_rates(b, seconds, audio)),
            "gain": interval([rate / alone for rate, alone in zip(_rates(b, seconds, audio), base, strict=True)]),
        }
        for b in batches
    ]
    return {"rows": rows, "verdict": verdict(rows)}


def _rates(b: int, seconds: Mapping[int, list[float]], audio: Mapping[int, float]) -> list[float]:
    """Seconds of audio per second, in each round."""
    return [audio[b] / s for s in seconds[b]]


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether batching pays, in words: the gain must be worth the wait, and surely a gain."""
    if len(rows) < 2:
        return "Only one batch size was measured."
    base, best = rows[0], max(rows[1:], key=lambda row: float(row["throughput"]))
    gain = best["gain"]
    figures = (
        f"{best['batch']} texts together give {gain['value']:.2f}x the audio per second of {base['batch']} at a time"
        f" ({best['throughput']:.1f} against {base['throughput']:.1f} s/s)"
        f" after {best['ms'] / base['ms']:.1f}x the wait"
    )
    if gain["low"] is None:
        return f"Too few runs to say whether batching pays (6 are needed): {figures}."
    if gain["value"] >= PAYS and gain["low"] > 1.0:
        return f"Batching pays: {figures}."
    return f"Batching does not pay: at best, {figures}. Run one-thread workers side by side instead."
