"""Times one reading of a text, part by part: text to tokens, each stage, and the rest (engine and glue)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.errors import VivaceError
from vivace.core.speech import Event, Request, Row
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors
from vivace.engine.engine import Engine

TOKENS, ENGINE = "text to tokens", "engine"
ENCODE, DECODE = "encode_text", "decode"
BUSY = 0.05  # of the time spent waiting for a core: from here on the figures say more about the neighbours
SCHEDSTAT = Path("/proc/thread-self/schedstat")


def loop_stage(bundle: Bundle) -> Stage | None:
    """The stage that makes frames step by step; None for a voice that makes them all at once."""
    return next((stage for stage in bundle.stages if stage.loop == "frame"), None)


def part_names(bundle: Bundle) -> dict[str, str]:
    """What the profile calls each stage. Of a model that makes frames step by step, what reads the text is
    `encode_text` and what makes the steps `decode`, whatever the family's own names: profiles can be compared then."""
    names = {stage.name: stage.name for stage in bundle.stages}
    if loop := loop_stage(bundle):
        if bundle.stages[0] is not loop:
            names[bundle.stages[0].name] = ENCODE
        names[loop.name] = DECODE
    return names


@dataclass(frozen=True)
class Span:
    """A run of a stage or a piece of an engine's step, in seconds of the clock, with the rows that it moved and the
    frames that the longest of them had before."""

    name: str
    begun: float
    ended: float
    rows: int = 0
    prefix: int = 0

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@dataclass(frozen=True)
class Reading:
    """Seconds of one reading and of its parts, which add up to it; calls of each stage; seconds of audio made;
    seconds that the thread was ready and waited for a core; (frames before it, seconds) of each step of a decoder
    that makes frames step by step."""

    seconds: float
    parts: dict[str, float]
    calls: dict[str, int]
    audio: float
    waited: float
    steps: tuple[tuple[int, float], ...] = ()


@dataclass
class Stopwatch:
    """Given to Engine as `wrap` and `phase`, keeps when every stage ran and what every step was made of."""

    clock: Callable[[], float] = time.perf_counter
    stages: list[Span] = field(default_factory=list)
    phases: list[Span] = field(default_factory=list)
    _moving: tuple[int, int] = (0, 0)  # rows, and frames of the longest, of the phase that is going on

    def wrap(self, stage: Stage, session: Session) -> Session:
        return _Timed(self, stage.name, session)

    @contextmanager
    def phase(self, name: str, rows: Sequence[Row]) -> Iterator[None]:
        self._moving = len(rows), max((row.total_frames for row in rows), default=0)
        moving, begun = self._moving, self.clock()
        try:
            yield
        finally:
            self.phases.append(Span(name, begun, self.clock(), *moving))

    def run(self, name: str, session: Session, inputs: Tensors) -> dict[str, Array]:
        begun = self.clock()
        outputs = session.run(inputs)
        self.stages.append(Span(name, begun, self.clock(), *self._moving))
        return outputs

    def reset(self) -> None:
        self.stages, self.phases = [], []


class _Timed:
    def __init__(self, watch: Stopwatch, name: str, session: Session) -> None:
        self._watch, self._name, self._session = watch, name, session

    def run(self, inputs: Tensors) -> dict[str, Array]:
        return self._watch.run(self._name, self._session, inputs)

    def close(self) -> None:
        self._session.close()


class Timed:
    """An engine with a stopwatch at every stage."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._names = part_names(bundle)
        self._watch = Stopwatch()
        self.engine = Engine(bundle, RuntimeOptions(threads=threads), wrap=self._watch.wrap, phase=self._watch.phase)

    def read(self, text: str) -> Reading:
        watch = self._watch
        watch.reset()
        waited = waited_for_a_core()
        begun = watch.clock()
        audio = read_all(self.engine, [Request("timed", text, seed=1)])
        seconds = watch.clock() - begun
        parts = {TOKENS: sum(span.seconds for span in watch.phases if span.name == "encode")}
        parts |= dict.fromkeys(self._names.values(), 0.0)
        calls: dict[str, int] = {}
        for span in watch.stages:
            name = self._names[span.name]
            parts[name] += span.seconds
            calls[name] = calls.get(name, 0) + 1
        parts[ENGINE] = seconds - sum(parts.values())
        steps = tuple((span.prefix, span.seconds) for span in watch.stages if self._names[span.name] == DECODE)
        return Reading(seconds, parts, calls, audio, waited_for_a_core() - waited, steps)


def waited_for_a_core() -> float:
    """Seconds so far that this thread could have run and got no core; always 0 where the system does not tell."""
    try:
        return int(SCHEDSTAT.read_text(encoding="utf-8").split()[1]) / 1e9
    except (OSError, IndexError):  # not Linux, or a kernel without schedstats
        return 0.0


def read_all(engine: Engine, requests: Sequence[Request]) -> float:
    """Speaks the requests together; seconds of audio. Raises VivaceError if one of them fails."""
    return sum(event.audio.seconds for event in events(engine, requests) if event.audio is not None)


def events(
    engine: Engine, requests: Sequence[Request], step: Callable[[], Sequence[Event]] | None = None
) -> Iterator[Event]:
    """What comes of speaking the requests together; `step` may stand around the engine's own. Raises VivaceError if
    one of them fails."""
    for request in requests:
        engine.add(request)
    while not engine.idle:
        for event in (step or engine.step)():
            if event.reason == "error":
                raise VivaceError(event.error)
            yield event


def busy_words(waited: float) -> str:
    return (
        f"The machine was busy: {100 * waited:.0f}% of the time went by waiting for a core, so the times are too long "
        "and their spread too wide. Measure again when it is quiet."
    )


def interval(values: Sequence[float]) -> dict[str, Any]:
    """The median, and the order statistics between which the true one lies with 95% (none for fewer than 6 values)."""
    ordered, n = sorted(values), len(values)
    cut, tail = 0, 0.5**n  # tail: chance that at most `cut` values lie below the true median
    while tail <= 0.025:
        cut += 1
        tail += math.comb(n, cut) * 0.5**n
    low, high = (ordered[cut - 1], ordered[n - cut]) if cut else (None, None)
    return {"value": statistics.median(ordered), "low": low, "high": high, "n": n}
