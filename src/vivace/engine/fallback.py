"""An ordered chain of variants of one voice: the first that is well speaks, and one that fails is left for the next,
within the same request where no audio has gone out.

The breaker is Nygard's (Release It!, 2007): closed, open for a while after failures in a row, then half open: one
request tries, and its end decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NoReturn, Protocol

import numpy as np

from vivace.core.audio import Samples
from vivace.core.errors import TextError, VivaceError
from vivace.core.speech import Event, Request
from vivace.engine.runner import Died

log = logging.getLogger(__name__)

State = Literal["closed", "open", "half-open"]
FAILURES = 3  # in a row, which open a breaker
REST, LONGEST_REST = 1.0, 60.0  # seconds that it stays open: doubled each time that the trial fails
QUIET = 1e-4  # full scale: below it there is no sound
SILENCE = 1.0  # seconds of it at the beginning, which no voice makes
CLIPPED = 0.05  # share of the samples of a chunk at full scale
LONGEST, LONGEST_EACH = 5.0, 0.6  # seconds of any text, and of each of its characters: numbers are long when read,
LONGEST_SIGN = 3.0  # and signs and pictures may be several words


class Faulty(VivaceError):
    """What a variant made is not speech."""


class Broken(VivaceError):
    """A variant failed after audio of the request had gone out: it cannot be taken back."""


class Unavailable(VivaceError):
    """No variant can speak now."""


class Breaker:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures, self._rest, self._until, self._trying = 0, REST, 0.0, False

    @property
    def state(self) -> State:
        if self._failures < FAILURES:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    def allows(self) -> bool:
        """Whether the next request may use it; the one that is allowed half open must tell how it ended."""
        if self.state == "half-open" and not self._trying:
            self._trying = True
            return True
        return self.state == "closed"

    def succeeded(self) -> None:
        self._failures, self._rest, self._trying = 0, REST, False

    def undecided(self) -> None:
        """The request ended in a way that tells nothing of the variant."""
        self._trying = False

    def failed(self, *, at_once: bool = False) -> None:
        """`at_once`: this one failure is enough. Those that were under way when it opened tell nothing new."""
        if self.state == "open":
            return
        again = self._failures >= FAILURES
        self._failures = FAILURES if at_once or again else self._failures + 1
        if self._failures >= FAILURES:
            self._rest = min(2 * self._rest, LONGEST_REST) if again else REST
            self._until = self._clock() + self._rest
        self._trying = False


class Watch:
    """Looks at the audio of one request as it comes. Raises Faulty for what is no speech."""

    def __init__(self, request: Request) -> None:
        words = sum(c.isalnum() or c.isspace() for c in request.text)
        signs = len(request.text) - words
        self._most = (LONGEST + LONGEST_EACH * words + LONGEST_SIGN * signs) / request.speed
        self._silence = SILENCE / min(1.0, request.speed)
        self._seconds, self.sounds = 0.0, False

    def see(self, event: Event) -> None:
        if event.audio is None:
            if event.reason == "stop" and not self.sounds:
                raise Faulty("silence: it ended without a sound")
            return
        samples: Samples = np.abs(event.audio.samples)
        self._seconds += event.audio.seconds
        self.sounds = self.sounds or bool(samples.max(initial=0) > QUIET)
        if not self.sounds and (self._seconds > self._silence or event.done):
            raise Faulty(f"silence: {self._seconds:.1f} s without a sound")
        clipped = np.count_nonzero(samples >= 0.999) / max(1, len(samples))  # its mean would take six times as long
        if event.audio.seconds > 0.1 and clipped > CLIPPED:
            raise Faulty(f"clipping: {clipped:.0%} of the samples are at full scale")
        if self._seconds > self._most:
            raise Faulty(f"runaway: {self._seconds:.1f} s of audio, where {self._most:.1f} s are the most")


class Speaker(Protocol):
    """What speaks a bundle: a process (Runner), or replicas of it on other machines.

    `start` returns when it has spoken its first words, at once if it runs, and raises Died; `speak` raises Died, and
    leaving it early cancels; `lost` is to be called for every process that dies, `died` when none is left that speaks.
    `pending`: requests that have not ended; `slots`: those that are spoken at once; `heard`: time.monotonic() of the
    last word; `megabytes`: that a start needed, `pid`: of the process (both 0 where there is none on this machine).
    """

    died: Callable[[], None]
    lost: Callable[[], None]

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def speak(self, request: Request) -> AsyncGenerator[Event, None]: ...

    @property
    def alive(self) -> bool: ...
    @property
    def replicas(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def megabytes(self) -> float: ...
    @property
    def heard(self) -> float: ...


@dataclass(eq=False)
class Variant:
    name: str
    runner: Speaker
    breaker: Breaker = field(default_factory=Breaker)
    reviving: asyncio.Task[None] | None = None
    death: str = ""  # why nothing of it runs

    @property
    def trouble(self) -> str:
        """Why it cannot speak now; "" if it can."""
        if not self.runner.alive:
            return f"{self.death or 'it does not run'}, it is started again"
        return "it rests after failures" if self.breaker.state == "open" else ""


class Chain:
    """`variants` in the order in which they are asked. `patience`: seconds until the first audio after which a
    variant is left (0: as long as it takes). With more than `pressure` requests (0: never) the variant with the number
    `fastest` is asked first. `told(variant, reason)` hears of every failure."""

    def __init__(
        self,
        variants: Sequence[Variant],
        *,
        patience: float = 0,
        pressure: int = 0,
        fastest: int = 0,
        told: Callable[[str, str], None] = lambda variant, reason: None,
    ) -> None:
        self.variants = list(variants)
        self._patience, self._told = patience, told
        self._pressure, self._fastest = pressure, self.variants[fastest]
        self._stopping = False
        self._lost = 0  # requests in a row that every variant failed
        for variant in self.variants:
            variant.runner.died = partial(self._fail, variant, Died(f"no process of {variant.name} is left"))

    async def start(self) -> None:
        """Starts all variants side by side. Raises Died if none comes up; those that do not are tried again."""
        self._stopping = False
        found = await asyncio.gather(*(v.runner.start() for v in self.variants), return_exceptions=True)
        for problem in found:
            if isinstance(problem, BaseException) and not isinstance(problem, Died):
                await self.stop()
                raise problem
        for variant, problem in zip(self.variants, found, strict=True):
            if isinstance(problem, Died):
                self._fail(variant, problem)
        if all(found):
            await self.stop()
            raise Died("; ".join(str(problem) for problem in found))

    async def stop(self) -> None:
        self._stopping = True
        for variant in self.variants:
            if variant.reviving:
                variant.reviving.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await variant.reviving
        await asyncio.gather(*(variant.runner.stop() for variant in self.variants))

    @property
    def ready(self) -> bool:
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Why no variant can speak now; "" if one can."""
        found = [variant.trouble for variant in self.variants]
        return "; ".join(f"{v.name}: {why}" for v, why in zip(self.variants, found, strict=True)) if all(found) else ""

    async def speak(self, request: Request, *, only: str = "") -> AsyncGenerator[tuple[str, Event], None]:
        """Events with the name of the variant that made them, held back until all is known to be good where the request
        is wanted whole; `only` names the one variant that may speak.
        Raises TextError for what no variant could speak, Broken or Unavailable. Leaving early cancels.

        A fault is held against its variant once another has spoken the same text: what all fail may be the text."""
        reasons = []
        faults: list[tuple[Variant, Faulty]] = []
        for variant in self._order():
            if only and variant.name != only:
                continue
            trial = variant.breaker.state == "half-open"
            if not variant.runner.alive or not variant.breaker.allows():
                reasons.append(f"{variant.name} is {'resting' if variant.runner.alive else 'not running'}")
                continue
            given, held, watch = False, list[Event](), Watch(request)
            try:
                async with contextlib.aclosing(variant.runner.speak(request)) as events:
                    while True:
                        async with asyncio.timeout(self._patience if self._patience and not given else None):
                            event = await anext(events)
                        if event.reason == "error" and event.blame == "request":
                            raise TextError(event.error)
                        if event.reason == "error":
                            raise Faulty(event.error)
                        watch.see(event)
                        held.append(event)
                        if (request.whole or not watch.sounds) and not event.done:
                            continue
                        if trial:  # decided now: its listener may take as long as it likes
                            variant.breaker.succeeded()
                            trial = False
                        self._lost = 0
                        while faults:
                            self._fail(*faults.pop())
                        for one in held:
                            given = given or one.audio is not None
                            yield variant.name, one
                        held.clear()
                        if event.done:
                            variant.breaker.succeeded()
                            return
            except (Faulty, Died, TimeoutError) as error:
                reason = str(error) or f"no audio after {self._patience:g} s"
                reasons.append(f"{variant.name}: {reason}")
                if isinstance(error, TimeoutError) and time.monotonic() - variant.runner.heard < self._patience:
                    log.info("variant %s is busy: %s", variant.name, reason)  # it speaks, to others: no fault
                    if trial:
                        variant.breaker.undecided()
                elif isinstance(error, Faulty) and not (trial or given):
                    faults.append((variant, error))
                else:
                    self._fail(variant, error, reason)
                    if trial:  # a death is no failure while other replicas live
                        variant.breaker.undecided()
                if given:
                    raise Broken(f"{variant.name} failed while it spoke: {reason}") from error
            except BaseException:  # the text's fault, or the listener has left
                if trial:
                    variant.breaker.undecided()
                raise
        self._judge(faults, reasons)

    def _judge(self, faults: list[tuple[Variant, Faulty]], reasons: list[str]) -> NoReturn:
        """After a request that no variant spoke."""
        self._lost += bool(faults)
        if len(faults) > 1 and len(faults) == len(reasons) and self._lost < FAILURES:
            raise TextError("no variant can speak this text: " + "; ".join(reasons))
        for fault in faults:
            self._fail(*fault)
        raise Unavailable("no variant can speak now: " + "; ".join(reasons))

    def _order(self) -> list[Variant]:
        if not self._pressure or sum(variant.runner.pending for variant in self.variants) < self._pressure:
            return self.variants
        return [self._fastest, *(variant for variant in self.variants if variant is not self._fastest)]

    def _fail(self, variant: Variant, error: BaseException, reason: str = "") -> None:
        if isinstance(error, Died) and (self._stopping or variant.runner.alive or _reviving(variant)):
            return  # it was to end, or a late word of a process that has been replaced or is missed already
        log.warning("variant %s failed: %s", variant.name, reason or error)
        variant.breaker.failed(at_once=isinstance(error, Died))
        self._told(variant.name, reason or str(error))
        if isinstance(error, Died):
            variant.death = str(error)
            variant.reviving = asyncio.create_task(self._revive(variant))

    async def _revive(self, variant: Variant) -> None:
        """A dead process is started again, at once and then after longer and longer rests."""
        rest = 0.0
        while True:
            await asyncio.sleep(rest)
            try:
                await variant.runner.start()
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                log.warning("variant %s does not come back: %s", variant.name, error)
                self._told(variant.name, str(error))
                variant.death = str(error)
                rest = min(max(REST, 2 * rest), LONGEST_REST)
            else:
                log.info("variant %s is back", variant.name)
                variant.breaker.succeeded()
                return


def _reviving(variant: Variant) -> bool:
    return variant.reviving is not None and not variant.reviving.done()
