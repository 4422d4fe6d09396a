"""A bundle that speaks in a process of its own: what crashes there, or eats its memory, takes nobody with it.

For one asyncio loop. The child opens the bundle, which checks every digest, warms up, and steps a Pool; requests and
events go through a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NoReturn

from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import VivaceError
from vivace.core.machine import cores, give_back, map_large_blocks, resident, stand_back
from vivace.core.speech import FIRST_CHUNK, Event, Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.pool import Pool

log = logging.getLogger(__name__)

FIRST_WORDS = "This is a sentence to warm up with; it takes the whole way."
WARM_TEXT = (
    f"{FIRST_WORDS} And another one, which goes on for as long as sentences of prose do, with a "
    "clause here and another clause there, so that what a long text needs is known before the first one comes."
)
GIVE_BACK = 5.0  # seconds from the last work to handing memory back, here and in the child
TOGETHER = 32  # requests that a model which moves in steps speaks at once, if its cache has room for them


class Died(VivaceError):
    """The process is gone, or never came up."""


@dataclass(frozen=True)
class Plan:
    """How a bundle uses the cores: `workers` threads of `threads` each, `batch` requests together in each."""

    workers: int
    threads: int
    batch: int

    @property
    def slots(self) -> int:
        """Requests that are spoken at once."""
        return self.workers * self.batch

    @classmethod
    def of(cls, bundle: Bundle, most: int = 0) -> Plan:
        """One worker for each core. Models that move in steps have one worker with all cores: rows that share a step
        share its weights, which is what such a step waits for. `most` (0: all) are the cores to use."""
        most = min(most or cores(), cores())
        if any(stage.loop == "frame" for stage in bundle.stages):
            return cls(1, most, TOGETHER)
        return cls(most, 1, int(bundle.defaults.get("batch", 1)))


class Runner:
    """A process that speaks the bundle at `path`. `limit` bounds the requests that have not ended; `died` and
    `lost` are called when the process ends by itself. The first start warms all sizes, so that memory is at its most
    when it is measured; a start after a death is to be quick."""

    def __init__(self, path: Path, plan: Plan, *, limit: int = 256, start_seconds: float = 120.0) -> None:
        self.path, self.plan = path, plan
        self._limit, self._start_seconds = limit, start_seconds
        self._heard: dict[str, asyncio.Queue[Event]] = {}
        self._process: Any = None
        self._finalizer: Finalize | None = None
        self._line: asyncio.Transport | None = None
        self._stopping = False
        self._tidying: asyncio.TimerHandle | None = None
        self.megabytes = 0.0
        self.heard = 0.0  # time.monotonic() of its last word
        self.died: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        return int(self._process.pid or 0) if self.alive else 0

    @property
    def alive(self) -> bool:
        return self._line is not None and bool(self._process.is_alive())

    @property
    def pending(self) -> int:
        return len(self._heard)

    @property
    def replicas(self) -> int:
        return int(self.alive)

    @property
    def slots(self) -> int:
        return self.plan.slots

    async def start(self) -> None:
        """Returns when the bundle has spoken its first words; `megabytes` is then what its process needed for that at
        most. Raises Died with the reason if it cannot. Nothing is done if it is running."""
        if self.alive:
            return
        await self._forget()
        context = multiprocessing.get_context("spawn")
        finalizer: Finalize | None = None
        try:
            mine, theirs = socket.socketpair()
            process = context.Process(
                target=_work, args=(theirs, self.path, self.plan, self._limit, not self.megabytes), daemon=True,
                name=f"vivace {self.path.name}",
            )  # fmt: skip
            # It ignores SIGTERM, and interpreters that end wait for their children.
            finalizer = Finalize(None, _kill_started, args=(process,), exitpriority=10)
            process.start()
        except OSError as error:
            if finalizer:
                finalizer.cancel()
            raise Died(f"{self.path.name} cannot be served: {error}") from None
        theirs.close()
        line: asyncio.Transport | None = None
        try:
            ear = _Ear(self._hand, partial(self._gone, process))
            line, _ = await asyncio.get_running_loop().create_unix_connection(lambda: ear, sock=mine)
            problem = await self._first_words(process, ear)
            if line.is_closing():
                problem = problem or "its process ended behind its first words"
            if problem:
                raise Died(f"{self.path.name} cannot be served: {problem}")
        except BaseException:
            if line is not None:
                line.abort()
            _end(process, finalizer)
            raise
        self._process, self._finalizer, self._line, self._stopping = process, finalizer, line, False

    async def _forget(self) -> None:
        """The process that is gone: as long as anything knows it, its descriptors stay open."""
        if self._process is not None and self._finalizer is not None:
            self._gone(self._process)
            process, self._process = self._process, None
            await asyncio.to_thread(_end, process, self._finalizer)

    async def _first_words(self, process: Any, ear: _Ear) -> str:
        try:
            async with asyncio.timeout(self._start_seconds):
                problem, megabytes = await ear.first
            if not problem:  # else the next start is the first one still
                self.megabytes = max(self.megabytes, megabytes)
            return problem
        except TimeoutError:
            return f"it was not ready after {self._start_seconds:g} s"
        except EOFError:
            await asyncio.to_thread(process.join, 5)
            return f"its process ended with code {process.exitcode}"

    async def speak(self, request: Request) -> AsyncGenerator[Event, None]:
        """The request's events. Leaving early cancels it. Raises Died if the process dies meanwhile."""
        if self._line is None:
            raise Died(f"{self.path.name} is not running")
        own = self._heard[request.id] = asyncio.Queue()
        ended = False
        try:
            self._line.write(_framed(("submit", request)))
            while not ended:
                event = await own.get()
                ended = event.done
                if event.reason == "error" and event.error == _GONE:
                    raise Died(f"the process of {self.path.name} died")
                yield event
        finally:
            self._heard.pop(request.id, None)
            if not ended and self._line is not None:
                self._line.write(_framed(("cancel", request.id)))

    async def stop(self) -> None:
        """Ends the process. What has not ended then has died: wait for `pending` to be 0 first."""
        if self._process is None:
            return
        self._stopping = True
        process, line = self._process, self._line
        if line is not None:
            line.write(_framed(("stop", None)))
        await asyncio.to_thread(process.join, 5)
        if process.is_alive():
            process.kill()
            await asyncio.to_thread(process.join, 5)
        self._gone(process)
        if line is not None:
            line.abort()
        await self._forget()

    def _hand(self, event: Event) -> None:
        self.heard = time.monotonic()
        if own := self._heard.get(event.request_id):  # nobody waits for what was cancelled
            own.put_nowait(event)
        if event.done and self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(GIVE_BACK, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        asyncio.get_running_loop().run_in_executor(None, give_back)

    def _gone(self, process: Any) -> None:
        if process is not self._process or self._line is None:
            return
        self._line = None
        for request_id, own in self._heard.items():
            own.put_nowait(Event(request_id, done=True, reason="error", error=_GONE, blame="model"))
        if not self._stopping:
            self.lost()
            self.died()


_GONE = "the process died"


class _Ear(asyncio.Protocol):
    """Hears what the child says: its first word is `first`, all others go to `hand`; `gone` is called at its end."""

    def __init__(self, hand: Callable[[Event], None], gone: Callable[[], None]) -> None:
        self.first: asyncio.Future[tuple[str, float]] = asyncio.get_running_loop().create_future()
        self._hand, self._gone = hand, gone
        self._said, self._begun = bytearray(), False

    def data_received(self, data: bytes) -> None:
        self._said += data
        while len(self._said) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._said)[0]
            if len(self._said) < end:
                return
            word = pickle.loads(memoryview(self._said)[LENGTH.size : end])  # noqa: S301 - of our own process
            del self._said[:end]
            if self._begun:
                self._hand(word)
            elif not self.first.done():  # given up meanwhile
                self.first.set_result(word)
            self._begun = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.first.done():
            self.first.set_exception(EOFError())
            self.first.exception()  # seen: whoever waited for it may have left
        self._gone()


LENGTH = struct.Struct("!I")  # of a message in bytes, before it


def _framed(message: Any) -> bytes:
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def _messages(line: socket.socket) -> Iterator[Any]:
    """Until the other side is gone."""
    with contextlib.suppress(OSError), line.makefile("rb") as said:
        while len(head := said.read(LENGTH.size)) == LENGTH.size:
            yield pickle.loads(said.read(*LENGTH.unpack(head)))  # noqa: S301 - of our own process


def _kill_started(process: Any) -> None:
    if process.pid:
        process.kill()


def _end(process: Any, finalizer: Finalize) -> None:
    process.kill()
    process.join(5)
    if process.exitcode is not None:
        finalizer.cancel()
        process.close()


def _work(line: socket.socket, path: Path, plan: Plan, limit: int, warm: bool) -> None:
    """The child, until it is stopped or its parent dies."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the parent decides
        signal.signal(ignored, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="vivace-parent").start()
    code = 1
    try:
        _speak(line, path, plan, limit, warm=warm)
        code = 0
    except Exception:  # noqa: BLE001 - told, and the process ends with it
        traceback.print_exc()
    finally:
        _leave(code)


def open_pool(path: Path, plan: Plan, limit: int, *, warm: bool = True) -> Pool:
    """A pool for a process of its own, which has spoken its first words; with `warm` at all sizes, and long ones.
    Raises VivaceError if it cannot."""
    sys.setswitchinterval(5e-4)  # seconds; audio that is ready must not wait for those who make more
    map_large_blocks()
    options = RuntimeOptions(threads=plan.threads)
    most = max(2 * limit, plan.workers)
    pool = Pool(open_bundle(path), plan.workers, options, batch=plan.batch, warm=warm, limit=most)
    for k in range(plan.workers):
        pool.submit(Request(f"warm {k}", WARM_TEXT if warm else FIRST_WORDS, chunk_frames=FIRST_CHUNK))
    for event in list(pool.events()):
        if event.error:
            raise VivaceError(event.error)
    return pool


def _end_with_parent() -> None:
    """In a thread: the socket tells of a parent that died only once the bundle is loaded."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _speak(line: socket.socket, path: Path, plan: Plan, limit: int, *, warm: bool) -> None:
    """Says why the bundle cannot be spoken, or nothing, and its memory; then speaks what is asked for."""
    try:
        pool, problem = open_pool(path, plan, limit, warm=warm), ""
    except Exception as error:  # noqa: BLE001 - told to the parent
        problem = str(error) if isinstance(error, VivaceError) else f"{type(error).__name__}: {error}"
    line.sendall(_framed((problem, resident("VmHWM"))))
    if problem:
        return
    stand_back()  # for the server, and for a process that must load while this one speaks
    asked, spoken, sending = threading.Event(), threading.Event(), threading.Lock()

    def send(event: Event) -> None:
        with sending, contextlib.suppress(OSError):
            line.sendall(_framed(event))
        spoken.set()  # behind it: nobody waits for that

    def receive() -> None:
        try:
            for what, body in _messages(line):
                if what == "stop":
                    break
                if what == "cancel":
                    pool.cancel(body)
                else:
                    try:
                        pool.submit(body)
                    except VivaceError as error:
                        send(Event(body.id, done=True, reason="error", error=str(error), blame="model"))
                asked.set()
        except Exception:  # noqa: BLE001 - told, and the process ends with it
            traceback.print_exc()
            _leave(1)
        _leave(0)

    def tidy() -> None:
        while spoken.wait():
            spoken.clear()
            if not spoken.wait(GIVE_BACK):
                pool.rest()
                give_back()

    pool.tell(send)
    for todo in (receive, tidy):
        threading.Thread(target=todo, daemon=True).start()
    while asked.wait():
        asked.clear()
        for _ in pool.events():  # none: it waits until all are told, and raises if a worker has died
            pass


def _leave(code: int) -> NoReturn:
    """Not by the interpreter's end: it tears down threads that are inside a runtime, which C++ does not survive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
