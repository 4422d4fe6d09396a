"""A bundle that speaks in many processes, here or on other machines: replicas on Ray Serve, as many as the queue needs.

`Replicas` stands where a Runner stands, so that doors, chains, breakers and metrics are those of one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from vivace.core.audio import Audio
from vivace.core.bundle import open_bundle
from vivace.core.errors import VivaceError
from vivace.core.speech import Event, Request
from vivace.engine.runner import Died, Plan, open_pool

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

EACH_SLOT = 2  # requests for each place to speak, waiting ones included, above which there are more replicas
UP_SECONDS, DOWN_SECONDS = 5.0, 120.0  # for which that must hold; fewer requests, before a replica ends
LOOK_SECONDS = 0.5  # between two looks at the replicas
DEAF_SECONDS = 5.0  # that Ray may take to say how they do
TRIES = 2  # replicas that a request may die with
ALONE = 20  # times that another thread may come between


@dataclass(frozen=True)
class Scale:
    """From `least` to `most` replicas of each variant, with `cores` each; `start_seconds` for the first."""

    least: int = 1
    most: int = 1
    cores: int = 1
    start_seconds: float = 180.0


class Voice:
    """What each replica is: a pool over the bundle, in a process of its own."""

    def __init__(self, path: str, cores: int, limit: int) -> None:
        where = Path(path)
        self._pool = open_pool(where, Plan.of(open_bundle(where), cores), limit)
        self._heard: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Event]]] = {}
        self._asked = threading.Event()
        self._fault: Exception | None = None
        threading.Thread(target=self._listen, daemon=True, name="vivace-events").start()

    async def speak(self, request: Request) -> AsyncGenerator[Event, None]:
        """The request's events. Leaving early cancels it."""
        own: asyncio.Queue[Event] = asyncio.Queue()
        self._heard[request.id] = asyncio.get_running_loop(), own
        ended = False
        try:
            self._pool.submit(request)
            self._asked.set()
            while not ended:
                event = await own.get()
                ended = event.done
                yield event
        except VivaceError as error:
            yield Event(request.id, done=True, reason="error", error=str(error), blame="model")
        finally:
            self._heard.pop(request.id, None)
            if not ended:
                self._pool.cancel(request.id)

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose check raises."""
        if self._fault:
            raise self._fault

    def _listen(self) -> None:
        """In a thread: the pool's events, handed to those who asked."""
        try:
            while True:
                self._asked.wait()
                self._asked.clear()
                for event in self._pool.events():
                    if found := self._heard.get(event.request_id):
                        found[0].call_soon_threadsafe(found[1].put_nowait, event)
        except Exception as error:
            self._fault = error
            for request_id, (loop, own) in list(self._heard.items()):
                gone = Event(request_id, done=True, reason="error", error=str(error), blame="model")
                loop.call_soon_threadsafe(own.put_nowait, gone)
            raise


def deployment(name: str, path: Path, plan: Plan, scale: Scale, limit: int) -> Any:
    """The Ray Serve application of a bundle, whose replicas open it at `path` on their machines. `limit` requests at
    most are with one of them."""
    from ray import serve

    size: dict[str, Any] = {"num_replicas": scale.least}
    if scale.most > scale.least:
        size = {
            "autoscaling_config": {
                "min_replicas": scale.least, "max_replicas": scale.most, "upscale_delay_s": UP_SECONDS,
                "downscale_delay_s": DOWN_SECONDS, "target_ongoing_requests": EACH_SLOT * plan.slots,
                "metrics_interval_s": 1.0, "look_back_period_s": UP_SECONDS,
            }
        }  # fmt: skip
    made = alone(partial(
        serve.deployment,
        Voice, name=name, ray_actor_options={"num_cpus": scale.cores}, max_ongoing_requests=limit,
        health_check_period_s=2.0, health_check_timeout_s=10.0, graceful_shutdown_timeout_s=20.0,
        max_constructor_retry_count=2, **size,
    ))  # fmt: skip
    return made.bind(str(path), scale.cores, limit)


@dataclass(frozen=True)
class Seen:
    """What Ray says of a deployment: how many replicas speak, the names of all that live, and whether some are ended in
    order, because fewer or newer ones are wanted."""

    running: int = 0
    names: frozenset[str] = frozenset()
    ordered: bool = False


class Replicas:
    """The replicas of the deployment `name` of the Serve application `application`. `deploy` starts them, `remove`
    ends them; where they are None, somebody else does."""

    def __init__(
        self, application: str, name: str, plan: Plan, start_seconds: float,
        deploy: Callable[[], None] | None = None, remove: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._application, self.name, self._plan, self._start_seconds = application, name, plan, start_seconds
        self._deploy, self._remove = deploy, remove
        self._handle: Any = None
        self._looking: asyncio.Task[None] | None = None
        self._speaking = 0
        self._waiting: set[asyncio.Timeout] = set()  # of requests, for the next word of a replica
        self.replicas, self.heard = 0, 0.0
        self.pid, self.megabytes = 0, 0.0
        self.died: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None

    @property
    def alive(self) -> bool:
        return self.replicas > 0

    @property
    def slots(self) -> int:
        return self._plan.slots * self.replicas

    @property
    def pending(self) -> int:
        return self._speaking

    async def start(self) -> None:
        """Returns when a replica has spoken its first words. Raises Died with the reason if none does."""
        if self.alive:
            return
        from ray import serve

        if self._deploy and self._handle is None:
            try:
                async with asyncio.timeout(self._start_seconds):
                    await _aside(self._deploy)
            except (RuntimeError, TimeoutError) as error:
                reason = str(error) or f"not ready after {self._start_seconds:g} s"
                raise Died(f"{self.name} has no replica: {reason.splitlines()[0]}; see `ray logs`") from None
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(self._start_seconds):
                while self.replicas == 0:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Died(f"{self.name} has no replica after {self._start_seconds:g} s") from None
        self._handle = serve.get_deployment_handle(self.name, self._application).options(stream=True)

    async def stop(self) -> None:
        """Ends the replicas, where that is for us to do."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
        self.replicas, self._handle = 0, None
        if self._remove:
            try:
                async with asyncio.timeout(30):
                    await _aside(self._remove)
            except Exception as error:  # noqa: BLE001 - the cluster is gone; what it ran is, too
                log.warning("%s could not be removed from the cluster: %s", self.name, error or type(error).__name__)

    async def speak(self, request: Request) -> AsyncGenerator[Event, None]:
        """The request's events. Raises Died if its replica dies and the next one too, or if none is left.

        The same request gives the same samples, so the next replica begins again and goes on where the first stopped.
        """
        self._speaking += 1
        given, tried = 0, 0
        try:
            while True:
                tried += 1
                try:
                    async with contextlib.aclosing(self._once(request)) as events:
                        at = 0
                        async for event in events:
                            event, at = _after(event, given, at)
                            given = max(given, at)
                            if event.audio is not None or event.done:
                                yield event
                            if event.done:
                                return
                except Died as error:
                    if tried == TRIES or not self.alive:
                        raise
                    log.warning("%s; another goes on", error)
        finally:
            self._speaking -= 1

    async def _once(self, request: Request) -> AsyncGenerator[Event, None]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        if self._handle is None or not self.alive:
            raise Died(f"{self.name} has no replica")
        events = self._handle.speak.remote(request)
        try:
            while (event := await self._next(events)) is not None:
                self.heard = time.monotonic()
                yield event
        except (RayError, RayServeException) as error:
            raise Died(f"a replica of {self.name} died: {type(error).__name__}") from None
        finally:
            events.cancel()

    async def _next(self, events: Any) -> Event | None:
        """Raises Died when no replica is left: Ray would let the request wait for a new one, for ever if none comes."""
        try:
            async with asyncio.timeout(None) as wait:
                self._waiting.add(wait)
                try:
                    return cast("Event | None", await anext(events, None))
                finally:
                    self._waiting.discard(wait)
        except TimeoutError:
            raise Died(f"no replica of {self.name} is left") from None

    async def _look(self) -> None:
        """Counts the replicas that speak and those that died, for as long as there is anybody to ask."""
        asking: asyncio.Task[Seen] | None = None
        deaf, last = False, Seen()
        while True:
            asking = asking or asyncio.create_task(_aside(partial(_seen, self._application, self.name)))
            await asyncio.wait([asking], timeout=DEAF_SECONDS)
            seen, before_deaf, reason = last, deaf, "no answer"
            deaf = True
            if asking.done():
                try:
                    seen, deaf = asking.result(), False
                except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
                    reason = str(error) or type(error).__name__
                asking = None
            if deaf and not before_deaf:
                log.warning("Ray does not say how %s does (%s)", self.name, reason)
            self._count(last, seen)
            last = seen
            await asyncio.sleep(LOOK_SECONDS)

    def _count(self, last: Seen, seen: Seen) -> None:
        died = 0 if last.ordered or seen.ordered else len(last.names - seen.names)
        for _ in range(died):
            self.lost()
        if died:
            log.warning("%s: %d of %d replicas died; Ray starts new ones", self.name, died, len(last.names))
        if seen.running != self.replicas:
            log.info("%s: %d replicas", self.name, seen.running)
        before, self.replicas = self.replicas, seen.running
        if before and not seen.running:
            now = asyncio.get_running_loop().time()
            for wait in self._waiting:
                wait.reschedule(now)
            self.died()


async def _aside(work: Callable[[], Answer]) -> Answer:
    """What `work` returns, from a thread of its own that nobody waits for at the end: Ray may never answer."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def tell(result: Answer | None, error: BaseException | None) -> None:
        if answered.done():
            return
        if error is not None:
            answered.set_exception(error)
        else:
            answered.set_result(cast(Answer, result))

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed on
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, problem)

    threading.Thread(target=run, daemon=True, name="vivace-ray").start()
    return await answered


def alone(work: Callable[[], Answer]) -> Answer:
    """What `work` returns, begun again where another thread came between: whatever makes a configuration of Serve
    enters a module into a list of the process and takes it out again, and fails where another thread has done so."""
    for _ in range(ALONE):
        try:
            return work()
        except ValueError as error:
            if "registered for pickle by value" not in str(error):
                raise
    return work()


def _seen(application: str, name: str) -> Seen:
    from ray import serve
    from ray.util import list_named_actors

    found = alone(serve.status).applications.get(application)
    deployed = found.deployments.get(name) if found else None
    if deployed is None:
        return Seen(ordered=True)
    named = f"SERVE_REPLICA::{application}#{name}#"
    names = frozenset(actor["name"] for actor in list_named_actors(all_namespaces=True))
    return Seen(
        int(deployed.replica_states.get("RUNNING", 0)), frozenset(one for one in names if one.startswith(named)),
        deployed.status in ("DOWNSCALING", "UPDATING"),
    )  # fmt: skip


def _after(event: Event, given: int, at: int) -> tuple[Event, int]:
    """The event without the samples below number `given`, where its first is number `at`; and the next one's number."""
    if event.audio is None:
        return event, at
    samples = event.audio.samples
    end = at + len(samples)
    if at >= given:
        return event, end
    rest = samples[given - at :]
    return replace(event, audio=Audio(rest, event.audio.rate) if len(rest) else None), end
