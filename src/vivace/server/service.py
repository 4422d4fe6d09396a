"""What is served: models by name, each a chain of variants, behind one bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import UsageError
from vivace.core.machine import resident
from vivace.core.speech import Event, Request
from vivace.engine.fallback import Chain, Speaker, Unavailable, Variant
from vivace.engine.runner import Plan, Runner
from vivace.server.budget import Budget
from vivace.server.metrics import STATES, Metrics
from vivace.server.shedding import fastest
from vivace.server.wire import ApiError

log = logging.getLogger(__name__)

# Names that clients of OpenAI send because they know no others: they mean the first model, the first voice.
OPENAI_MODELS = {"tts-1", "tts-1-hd", "gpt-4o-mini-tts"}
OPENAI_VOICES = {
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """`models`: name to the bundles that may speak it, best first. `queue`: requests that wait or speak, above which
    new ones are sent away. `patience`: see Chain. `keys`: if any, a request must bring one. `per_minute`: requests of
    one client (0: any number). `deadline`: seconds without audio after which a request that waits for it is
    ended (0: never). `grace`: seconds for what has begun, when the server is to end. `origins`: of web pages that may
    call (CORS). `wyoming`: a bound socket for that protocol. `megabytes`: memory for the server and all its processes
    (0: any); see Budget. `stall_seconds`: after which a client that reads nothing is cut off. `shed_above`: requests of
    a model with which its fastest variant speaks first (0: never). `listen`: files of listening tests."""

    models: Mapping[str, Sequence[Path]]
    queue: int = 64
    cores: int = 0
    patience: float = 0.0
    deadline: float = 0.0
    grace: float = 20.0
    keys: tuple[str, ...] = ()
    per_minute: float = 0.0
    origins: tuple[str, ...] = ()
    body_bytes: int = 256_000
    body_seconds: float = 20.0
    stall_seconds: float = 60.0
    log_text: bool = False
    megabytes: float = 0.0
    shed_above: int = 0
    wyoming: socket.socket | None = None
    listen: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class Model:
    name: str
    bundle: Bundle
    chain: Chain
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def voices(self) -> tuple[str, ...]:
        return self.bundle.voices or (self.bundle.name,)

    def voice(self, asked: str) -> str:
        """The bundle's own name of a voice. Raises ApiError."""
        if asked in self.voices:
            return asked if self.bundle.voices else ""
        if not asked or asked in OPENAI_VOICES:
            return ""
        raise ApiError(400, f"unknown voice {asked[:60]!r}; known: {', '.join(self.voices)}", param="voice")

    def variant(self, asked: str) -> str:
        """Raises ApiError for a variant that there is not; "" means the chain."""
        names = [variant.name for variant in self.chain.variants]
        if asked and asked not in names:
            raise ApiError(400, f"unknown variant {asked[:60]!r}; known: {', '.join(names)}", param="variant")
        return asked


class Service:
    """`speaker(model, path, plan)` makes what speaks a variant: a process of this machine unless it is given."""

    def __init__(self, settings: Settings, speaker: Callable[[str, Path, Plan], Speaker] | None = None) -> None:
        if not settings.models:
            raise UsageError("there is no model to serve")
        self.settings, self.metrics = settings, Metrics()
        self.problem = ""  # of what lies beneath all variants
        self._speaker = speaker or (lambda _, path, plan: Runner(path, plan, limit=settings.queue))
        self.models = {name: self._model(name, paths) for name, paths in settings.models.items()}
        self.budget = Budget({name: model.chain for name, model in self.models.items()}, settings.megabytes)
        self.stopping, self.grace = False, 5.0
        self._live = 0
        self._seconds = 1.0  # that a request takes, on average of the last ones
        self.metrics.live.set_function(lambda: self._live)

    def _model(self, name: str, paths: Sequence[Path]) -> Model:
        bundles = [open_bundle(path) for path in paths]
        first = bundles[0]
        for other in bundles[1:]:
            if (other.sample_rate, other.voices) != (first.sample_rate, first.voices):
                raise UsageError(f"{other.name} cannot stand in for {first.name}: other voices or another sample rate")
        plans = [Plan.of(bundle, self.settings.cores) for bundle in bundles]
        names = [path.name for path in paths]
        if len(set(names)) < len(names):
            raise UsageError(f"two variants of {name} have the same name: {', '.join(names)}")
        variants = [
            Variant(own, self._speaker(name, path, plan)) for own, path, plan in zip(names, paths, plans, strict=True)
        ]

        def told(variant: str, reason: str) -> None:  # noqa: ARG001 - the log has the reason
            self.metrics.fallbacks.labels(name, variant).inc()

        for v in variants:
            self.metrics.breaker.labels(name, v.name).set_function(partial(_state, v))
            self.metrics.up.labels(name, v.name).set_function(partial(_up, v))
            self.metrics.memory.labels(name, v.name).set_function(partial(_memory, v))
            v.runner.lost = self.metrics.deaths.labels(name, v.name).inc
            self.metrics.replicas.labels(name, v.name).set_function(partial(_replicas, v))
            self.metrics.slots.labels(name, v.name).set_function(partial(_slots, v))
            self.metrics.batch.labels(name, v.name).set_function(partial(_batch, v))
            self.metrics.queue.labels(name, v.name).set_function(partial(_queue, v))
        above = self.settings.shed_above
        chain = Chain(
            variants, patience=self.settings.patience, pressure=above, fastest=fastest(name, bundles) if above else 0,
            told=told,
        )  # fmt: skip
        return Model(name, first, chain)

    async def start(self) -> None:
        try:
            await self.budget.start()
        except BaseException:
            await self.budget.stop()
            raise

    async def stop(self) -> None:
        """Lets what speaks end within `grace` seconds, then ends all processes."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.grace):
                while self._live:
                    await asyncio.sleep(0.05)
        await self.budget.stop()

    @property
    def ready(self) -> bool:
        """Whether every model that is loaded has a variant that is warm and well, and there is one."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Why it is not ready; "" if it is."""
        if self.stopping:
            return "the server is shutting down"
        loaded = {name: model.chain.trouble for name, model in self.models.items() if self.budget.loaded(name)}
        return "; ".join(f"{name}: {why}" for name, why in loaded.items() if why) if loaded else "no model is loaded"

    def model(self, asked: str) -> Model:
        """Raises ApiError."""
        if found := self.models.get(asked):
            return found
        if asked in OPENAI_MODELS:
            return next(iter(self.models.values()))
        known = ", ".join(self.models)
        raise ApiError(404, f"unknown model {asked[:60]!r}; known: {known}", param="model", code="model_not_found")

    async def speak(self, model: Model, request: Request, *, only: str = "") -> AsyncGenerator[tuple[str, Event], None]:
        """See Chain.speak. Raises ApiError where the queue is full, the server is going down or time is up."""
        if self.stopping:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry=5)
        if self._live >= self.settings.queue:
            wait = max(1, math.ceil(self._seconds))
            message = f"as many requests as --queue allows ({self._live}) are waiting or speaking; try again"
            raise ApiError(503, message, code="queue_full", retry=wait)
        self._live += 1
        begun = time.monotonic()
        clock, limit = asyncio.get_running_loop().time, self.settings.deadline or math.inf
        end = clock() + limit
        try:
            async with asyncio.timeout_at(end):
                await self.budget.enter(model.name)
            try:
                async with contextlib.aclosing(model.chain.speak(request, only=only)) as events:
                    while True:
                        async with asyncio.timeout_at(end):  # of waiting: a client may read as slowly as it likes
                            found = await anext(events, None)
                        if found is None:
                            return
                        yield found
                        end = clock() + limit
            finally:
                self.budget.leave(model.name)
        except TimeoutError:
            message = f"there was no audio for {self.settings.deadline:g} s"
            raise ApiError(504, message, code="deadline", retry=max(1, math.ceil(self._seconds))) from None
        except Unavailable as error:
            log.error("%s: %s", model.name, error)
            raise ApiError(
                503, "no variant of this model can speak now; try again", code="unavailable", retry=2
            ) from None
        finally:
            self._live -= 1
            self._seconds += 0.1 * (time.monotonic() - begun - self._seconds)


def _state(variant: Variant) -> float:
    return STATES[variant.breaker.state]


def _up(variant: Variant) -> float:
    return float(variant.runner.alive)


def _replicas(variant: Variant) -> float:
    return variant.runner.replicas


def _slots(variant: Variant) -> float:
    return variant.runner.slots


def _batch(variant: Variant) -> float:
    return min(variant.runner.pending, variant.runner.slots)


def _queue(variant: Variant) -> float:
    return variant.runner.pending - _batch(variant)


def _memory(variant: Variant) -> float:
    return 1e6 * resident(pid=variant.runner.pid) if variant.runner.pid else 0.0
