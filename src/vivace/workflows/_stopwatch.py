"""Times one reading of a text, part by part: text to tokens, each stage, and the rest (engine and glue)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.errors import VivaceError
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors
from vivace.engine.engine import Engine

TOKENS, ENGINE = "text to tokens", "engine"
SCHEDSTAT = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Reading:
    """Seconds of one reading and of its parts, which add up to it; calls of each stage; seconds of audio made;
    seconds that the thread was ready and waited for a core."""

    seconds: float
    parts: dict[str, float]
    calls: dict[str, int]
    audio: float
    waited: float


@dataclass
class Stopwatch:
    """Given to Engine as `wrap`, keeps the time that every stage takes."""

    spent: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    first: float | None = None  # when the first stage began

    def wrap(self, stage: Stage, session: Session) -> Session:
        return _Timed(self, stage.name, session)

    def reset(self) -> None:
        self.spent, self.calls, self.first = {}, {}, None


class _Timed:
    def __init__(self, watch: Stopwatch, name: str, session: Session) -> None:
        self._watch, self._name, self._session = watch, name, session

    def run(self, inputs: Tensors) -> dict[str, Array]:
        watch, name = self._watch, self._name
        begun = time.perf_counter()
        if watch.first is None:
            watch.first = begun
        outputs = self._session.run(inputs)
        watch.spent[name] = watch.spent.get(name, 0.0) + time.perf_counter() - begun
        watch.calls[name] = watch.calls.get(name, 0) + 1
        return outputs

    def close(self) -> None:
        self._session.close()


class Timed:
    """An engine with a stopwatch at every stage."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._stages = [stage.name for stage in bundle.stages]
        self._watch = Stopwatch()
        self.engine = Engine(bundle, RuntimeOptions(threads=threads), wrap=self._watch.wrap)

    def read(self, text: str) -> Reading:
        """What comes before the first stage is the text's own work: sentences, phonemes, ids."""
        self._watch.reset()
        waited = _waited()
        begun = time.perf_counter()
        audio = read_all(self.engine, [Request("timed", text, seed=1)])
        seconds = time.perf_counter() - begun
        assert self._watch.first is not None
        parts = {TOKENS: self._watch.first - begun}
        parts |= {name: self._watch.spent.get(name, 0.0) for name in self._stages}
        parts[ENGINE] = seconds - sum(parts.values())
        return Reading(seconds, parts, dict(self._watch.calls), audio, _waited() - waited)


def _waited() -> float:
    """Seconds so far that this thread could have run and got no core; always 0 where the system does not tell."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # not Linux, or a kernel without schedstats
        return 0.0


def read_all(engine: Engine, requests: Sequence[Request]) -> float:
    """Speaks the requests together; seconds of audio. Raises VivaceError if one of them fails."""
    for request in requests:
        engine.add(request)
    audio = 0.0
    while not engine.idle:
        for event in engine.step():
            if event.reason == "error":
                raise VivaceError(event.error)
            if event.audio is not None:
                audio += event.audio.seconds
    return audio


def interval(values: Sequence[float]) -> dict[str, Any]:
    """The median, and the order statistics between which the true one lies with 95% (none for fewer than 6 values)."""
    ordered, n = sorted(values), len(values)
    cut, tail = 0, 0.5**n  # tail: chance that at most `cut` values lie below the true median
    while tail <= 0.025:
        cut += 1
        tail += math.comb(n, cut) * 0.5**n
    low, high = (ordered[cut - 1], ordered[n - cut]) if cut else (None, None)
    return {"value": statistics.median(ordered), "low": low, "high": high, "n": n}
