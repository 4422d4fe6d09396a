"""Whether a voice gains from speaking several texts together, and what each text then waits and holds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.speech import Event, Request, Row
from vivace.core.stage import RuntimeOptions, Session, Stage
from vivace.engine.engine import Engine
from vivace.engine.sessions import open_sessions
from vivace.workflows._prefix import figures
from vivace.workflows._stopwatch import events, interval, loop_stage

PAYS = 1.2  # ratio of throughputs: for less, waiting for the whole batch is not worth it
PATIENCE = 60.0  # seconds: no round begins later, and a batch that would take longer by itself is left out


def time_batches(
    bundle: Bundle,
    threads: int,
    text: str,
    batches: Sequence[int],
    runs: int,
    progress: Progress,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Latency and throughput for each batch size, in interleaved rounds, and whether batching pays.

    `batches` in rising order; the first is what the others are set against. A batch of n is n requests in an engine
    that moves n rows together. `left_out` names the sizes that would take more than PATIENCE. Where one round takes so
    long already, it is the only one, and cold.
    """
    sessions = open_sessions(bundle, RuntimeOptions(threads=threads))
    try:
        arms: list[_Arm] = []
        begun = clock()
        for b in batches:
            if not arms or arms[-1].seconds[-1] * b / arms[-1].batch <= PATIENCE:
                arms.append(_Arm(bundle, b, sessions, clock))
                arms[-1].round(text)
        for k in range(1, runs + 1):
            if clock() - begun > PATIENCE:
                break
            for arm in arms:
                arm.round(text)
            progress(f"timing batches, round {k}/{runs}", k / runs)
    finally:
        for session in sessions.values():
            session.close()
    for arm in arms:
        arm.forget_first()
    rows = [_row(arm, arms[0], loop_stage(bundle)) for arm in arms]
    left_out = [b for b in batches if b not in {arm.batch for arm in arms}]
    return {"rows": rows, "verdict": verdict(rows), "left_out": left_out}


class _Arm:
    """One batch size: its engine and what its rounds took. `steps` and `cache` (bytes at most) are of one round."""

    def __init__(self, bundle: Bundle, batch: int, sessions: Mapping[str, Session], clock: Callable[[], float]) -> None:
        self.batch, self._clock = batch, clock
        self.seconds: list[float] = []
        self.waits: list[list[float]] = []  # of each text, from its request to its end
        self.audio, self.steps, self.cache = 0.0, 0, 0
        self._engine = Engine(bundle, max_batch=batch, sessions=sessions, clock=clock, phase=self._phase)

    def _phase(self, name: str, rows: Sequence[Row]) -> AbstractContextManager[None]:  # noqa: ARG002
        self.steps += name == "advance"
        return nullcontext()

    def _step(self) -> Sequence[Event]:
        made = self._engine.step()
        self.cache = max(self.cache, self._engine.cache_bytes)
        return made

    def round(self, text: str) -> None:
        requests = [Request(f"batched-{seed}", text, seed=seed) for seed in range(self.batch)]
        self.audio, self.steps = 0.0, 0
        waits = []
        begun = self._clock()
        for event in events(self._engine, requests, self._step):
            self.audio += event.audio.seconds if event.audio else 0.0
            waits += [event.times["end"] - event.times["queued"]] if event.done else []
        self.seconds.append(self._clock() - begun)
        self.waits.append(waits)

    def forget_first(self) -> None:
        """The first round warmed up, unless there is no other."""
        self.seconds, self.waits = self.seconds[1:] or self.seconds, self.waits[1:] or self.waits

    def rates(self) -> list[float]:
        """Seconds of audio per second, in each round."""
        return [self.audio / s for s in self.seconds]


def _row(arm: _Arm, first: _Arm, loop: Stage | None) -> dict[str, Any]:
    waits = sorted(wait for each in arm.waits for wait in each)
    seconds = statistics.median(arm.seconds)
    row = {
        "batch": arm.batch,
        "ms": 1000 * seconds,
        "latency_p50_ms": 1000 * statistics.median(waits),
        "latency_p95_ms": 1000 * waits[math.ceil(0.95 * len(waits)) - 1],
        "audio_seconds": arm.audio,
        "throughput": arm.audio / seconds,
        "rtf": seconds / arm.audio,
        "gain": interval([rate / alone for rate, alone in zip(arm.rates(), first.rates(), strict=True)]),
    }
    if loop:
        row |= {
            "steps": arm.steps,
            "steps_per_second": arm.steps / seconds,
            "frames_per_second": arm.audio * loop.frame_rate / seconds,
            "cache_mb": arm.cache / 1e6,
            "cache_mb_per_text": arm.cache / 1e6 / arm.batch,
        }
    return row


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether batching pays, in words: the gain must be worth the wait, and surely a gain."""
    if len(rows) < 2:
        return "Only one batch size was measured."
    base, best = rows[0], max(rows[1:], key=lambda row: float(row["throughput"]))
    gain = best["gain"]
    told = (
        f"{best['batch']} texts together give {gain['value']:.2f}x the audio per second of {base['batch']} at a time"
        f" ({figures(best['throughput'])} against {figures(base['throughput'])} s/s)"
        f" after {best['ms'] / base['ms']:.1f}x the wait"
    )
    if gain["low"] is None:
        return f"Too few runs to say whether batching pays (6 are needed): {told}."
    if gain["value"] >= PAYS and gain["low"] > 1.0:
        return f"Batching pays: {told}."
    return f"Batching does not pay: at best, {told}. Run one-thread workers side by side instead."
