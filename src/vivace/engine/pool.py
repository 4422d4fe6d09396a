"""All cores for many requests: engines over the same sessions, stepped by one thread for each core.

Weights are in memory once. Every request goes the engine's own road, so that nothing but the clock tells a pooled
request from one that was alone. Thread-safe, except that one thread reads the events.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from vivace.core.audio import Audio, join
from vivace.core.bundle import Bundle
from vivace.core.errors import UsageError, VivaceError
from vivace.core.machine import cores
from vivace.core.speech import Event, Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine
from vivace.engine.sessions import open_sessions

MOST_REQUESTS = 256  # that have not ended
MOST_LARGER = 4  # times as large as asked for may the first chunk be, where many wait
PATIENCE = 1.0  # seconds between two turns of a request that nobody listens to yet
ROUNDS = 2  # of the turns of all that have begun, if those take longer
MOST_AHEAD = 2.0  # seconds of audio left beyond which no listener comes before a new request
MOST_PASSED = 12  # turns in a row that listeners come before it
FORGETS = 0.9  # of the longest turn, with each that comes after it
MOST_EVENTS = 64  # that were not read; with more, the workers wait


@dataclass(eq=False)
class _Slot:
    """An engine with the requests that it speaks; in one thread's hands at a time."""

    engine: Engine
    cancelled: list[str] = field(default_factory=list)  # while a worker steps the engine
    streams: set[str] = field(default_factory=set)  # requests whose audio is heard while it is made
    played: dict[str, float] = field(default_factory=dict)  # when each of their listeners has heard all so far
    turn: float = 0.0  # when it was stepped last
    worked: float = 0.0  # seconds of all its steps
    before: dict[str, float] = field(default_factory=dict)  # of them, when each request had its last audio

    def add(self, request: Request) -> None:
        self.engine.add(request)
        self.before[request.id] = self.worked
        if request.chunk_frames and not request.whole:
            self.streams.add(request.id)

    def stepped(self, events: Sequence[Event], begun: float, now: float) -> float:
        """The most seconds of steps that one of its requests had to wait for the audio that it has now."""
        self.turn = now
        self.worked += now - begun
        longest = 0.0
        for event in events:
            if event.audio is not None:
                longest = max(longest, self.worked - self.before[event.request_id])
                self.before[event.request_id] = self.worked
            if event.done:
                del self.before[event.request_id]
                self.streams.discard(event.request_id)
                self.played.pop(event.request_id, None)
            elif event.audio is not None and event.request_id in self.streams:
                heard = max(now, self.played.get(event.request_id, 0.0))
                self.played[event.request_id] = heard + event.audio.seconds
        return longest

    @property
    def runs_dry(self) -> float:
        """When the first of its listeners has heard all that was made."""
        return min(self.played.values(), default=math.inf)

    def due(self, patience: float) -> float:
        """When its next turn should be over; those that nobody listens to yet can wait so many seconds for it."""
        heard_by_all = self.played and len(self.played) >= self.engine.load
        return self.runs_dry if heard_by_all else min(self.runs_dry, self.turn + patience)


class Pool:
    """A loaded bundle that speaks many requests at a time.

    `workers` threads (0: one for each core) with `options.threads` each (1 unless given). A request that is new and
    one that has begun are taken in turn, so that a long text never keeps a short one waiting, nor short ones a long
    one. Of those that have begun comes the one whose listener has least left to play; before any new one, if that lasts
    no longer than a turn of each takes. Up to `batch` requests are spoken together (0: `bundle.defaults["batch"]`, 1
    unless the bundle says so); new ones join between steps.
    `warm`: every worker runs the model at all sizes first, where runtimes compile for each; requests wait meanwhile.
    Raises ModelError if a stage cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        workers: int = 0,
        options: RuntimeOptions | None = None,
        *,
        batch: int = 0,
        warm: bool = False,
        limit: int = MOST_REQUESTS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if workers < 0:
            raise UsageError(f"workers is {workers}; it must be 0 (one for each core) or more")
        self.bundle = bundle
        self.workers = workers or cores()
        self._limit = limit
        self._clock = clock
        self._warm = warm
        self._batch = batch or int(bundle.defaults.get("batch", 1))
        self._sessions = open_sessions(bundle, replace(options or RuntimeOptions(threads=1), workers=self.workers))
        self._lock = threading.Lock()  # guards all that follows
        self._news = threading.Condition(self._lock)  # for who reads the events
        self._idle: list[threading.Condition] = []  # workers, the one last that was at work last
        self._new: deque[Request] = deque()
        self._begun: deque[_Slot] = deque()
        self._spare: list[_Slot] = []
        self._where: dict[str, _Slot | None] = {}  # each request that has not ended; None while it is new
        self._queued: dict[str, float] = {}  # when each request came whose last event was not read
        self._events: deque[Event] = deque()
        self._listener: Callable[[Event], None] | None = None
        self._longest = 0.0  # seconds of steps for one piece of audio, of late
        self._passed = MOST_PASSED  # turns of those that have begun since the last of a new one
        self._fault: BaseException | None = None
        self._closed = False
        try:
            self._spare.append(self._slot())  # a family that cannot be opened is known now
        except BaseException:
            self._close_sessions()
            raise
        self._threads = [
            threading.Thread(target=self._work, name=f"vivace-worker-{k}", daemon=True) for k in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the steps that are being made, and drops every request that has not ended."""
        with self._lock:
            self._end()
        for thread in self._threads:
            thread.join()
        self._close_sessions()

    def rest(self) -> None:
        """Hands back the memory that runs took and the next ones take again: for when nothing is spoken."""
        for session in self._sessions.values():
            if rest := getattr(session, "rest", None):
                rest()

    def submit(self, request: Request) -> None:
        """Queues a request. Raises UsageError if its id is in use (until its last event was read), VivaceError if
        too many requests are in the pool, or the pool is closed or broken."""
        with self._lock:
            self._check()
            if request.id in self._queued:
                raise UsageError(f"request id {request.id!r} is in use")
            if len(self._where) >= self._limit:
                raise VivaceError(f"the pool is full ({self._limit} requests); try again when one has ended")
            self._queued[request.id] = self._clock()
            self._where[request.id] = None
            self._new.append(request)
            self._wake()

    def cancel(self, request_id: str) -> None:
        """Ends a request; its last event comes soon. Unknown ids (ended ones) are no error."""
        given: list[Event] = []
        with self._lock:
            slot = self._where.get(request_id)
            if slot is not None:
                slot.cancelled.append(request_id)
                slot.streams.discard(request_id)  # its listener has left: it does not wait until he would run dry
                slot.played.pop(request_id, None)
            elif request_id in self._where:
                self._new = deque(request for request in self._new if request.id != request_id)
                times = {"end": self._clock()}
                given = self._give([Event(request_id, done=True, reason="cancelled", times=times)])
        self._tell(given)

    def tell(self, listener: Callable[[Event], None]) -> None:
        """From now on gives each event to `listener`, in the thread that made it, and keeps none for `events`: a
        thread less between audio that is ready and who waits for it. Other workers go on meanwhile."""
        with self._lock:
            self._listener = listener

    def events(self) -> Iterator[Event]:
        """Events as they are made, until every request submitted so far has ended and been read (or told).

        Raises VivaceError if a worker has died. Workers wait while many events are unread.
        """
        while True:
            with self._lock:
                while not self._events and self._queued and not self._closed:
                    self._news.wait()
                if not self._events:
                    if self._queued or self._fault:
                        self._check()
                    return
                event = self._events.popleft()
                if event.done:
                    del self._queued[event.request_id]
                if len(self._events) == MOST_EVENTS - 1:
                    self._wake_all()
            yield event

    def _check(self) -> None:
        if self._fault:
            raise VivaceError(f"a worker of the pool has died ({self._fault!r}); open another pool") from self._fault
        if self._closed:
            raise VivaceError("the pool is closed; open another one")

    def _work(self) -> None:
        mine = threading.Condition(self._lock)
        try:
            if self._warm:
                self._slot().engine.warm()
            while slot := self._take(mine):
                begun = self._clock()
                events = slot.engine.step()
                with self._lock:
                    if took := slot.stepped(events, begun, self._clock()):
                        self._longest = max(took, FORGETS * self._longest)
                    given = self._give(events)
                self._tell(given)  # before another worker can step the slot: events stay in order
                with self._lock:
                    self._put_back(slot)
        except BaseException as error:  # noqa: BLE001 - told to whoever reads or submits
            with self._lock:
                self._fault = error
                self._end()

    def _wake(self) -> None:
        """The worker that was at work last: its model is in the caches still."""
        if self._idle:
            self._idle.pop().notify()

    def _wake_all(self) -> None:
        while self._idle:
            self._wake()

    def _end(self) -> None:
        self._closed = True
        self._wake_all()
        self._news.notify_all()

    def _take(self, mine: threading.Condition) -> _Slot | None:
        """The slot to step next, taken out of the queues; None when the pool is closed."""
        with self._lock:
            while not self._closed and (len(self._events) >= MOST_EVENTS or not (self._new or self._begun)):
                self._idle.append(mine)
                mine.wait()
            if self._closed:
                return None
            patience = max(PATIENCE, ROUNDS * self._longest * len(self._begun) / self.workers)
            first = min(self._begun, key=lambda slot: slot.due(patience), default=None)
            if first and (not self._new or self._passed < (MOST_PASSED if self._urgent() else 1)):
                self._passed += 1
                self._begun.remove(slot := first)
            else:
                self._passed = 0 if self._begun else MOST_PASSED
                slot = self._roomy() or (self._spare.pop() if self._spare else self._slot())
            for _ in range(min(self._batch - slot.engine.load, len(self._new))):
                request = self._paced(self._new.popleft())
                slot.add(request)
                self._where[request.id] = slot
            self._cancel_in(slot)
            return slot

    def _urgent(self) -> bool:
        """Whether all who listen get their turn behind a new request too late for the first of them."""
        heard = [slot.runs_dry for slot in self._begun if slot.played]
        turns = 1 + math.ceil(len(heard) / self.workers)
        return min(heard, default=math.inf) < self._clock() + min(MOST_AHEAD, turns * self._longest)

    def _paced(self, request: Request) -> Request:
        """With more requests than can be spoken at once, every chunk waits for its turn: fewer and larger ones compute
        less context twice, and last until the next. Powers of two: the sizes stay few."""
        waiting = len(self._where) // (self.workers * self._batch)
        times = min(MOST_LARGER, 1 << max(waiting, 1).bit_length() - 1)
        return replace(request, chunk_frames=request.chunk_frames * times) if times > 1 else request

    def _roomy(self) -> _Slot | None:
        """A slot in the queue, and out of it, that more requests can join."""
        found = next((slot for slot in self._begun if slot.engine.load < self._batch), None)
        if found:
            self._begun.remove(found)
        return found

    def _put_back(self, slot: _Slot) -> None:
        self._cancel_in(slot)
        (self._spare if slot.engine.idle else self._begun).append(slot)
        if len(self._begun) + len(self._new) > 1:  # more than the worker that comes from it takes
            self._wake()

    @staticmethod
    def _cancel_in(slot: _Slot) -> None:
        for request_id in slot.cancelled:
            slot.engine.cancel(request_id)
        slot.cancelled.clear()

    def _give(self, events: list[Event]) -> list[Event]:
        """Keeps the events for who reads them, or gives back those that are to be told."""
        kept = []
        for event in events:
            queued = self._queued[event.request_id]  # an engine sees a request only when a worker is free
            kept.append(replace(event, times={**event.times, "queued": queued}))
            if event.done:
                del self._where[event.request_id]
        if self._listener is None:
            self._events += kept
            self._news.notify_all()
            return []
        return kept

    def _tell(self, events: list[Event]) -> None:
        """Without the lock: the listener may take its time."""
        for event in events:
            assert self._listener is not None
            self._listener(event)
            if event.done:
                with self._lock:
                    del self._queued[event.request_id]
                    self._news.notify_all()

    def _slot(self) -> _Slot:
        return _Slot(Engine(self.bundle, max_batch=self._batch, clock=self._clock, sessions=self._sessions))

    def _close_sessions(self) -> None:
        for session in self._sessions.values():
            session.close()


def speak_all(pool: Pool, requests: Sequence[Request]) -> Iterator[tuple[Request, Audio]]:
    """The whole audio of each request, in the order in which they end. Raises VivaceError naming the text that fails.

    For a pool of one's own: events of other requests are dropped meanwhile.
    """
    asked = {request.id: request for request in requests}
    pieces: dict[str, list[Audio]] = {name: [] for name in asked}
    for request in requests:
        pool.submit(request)
    for event in pool.events():
        if (request_id := event.request_id) not in asked:
            continue
        if event.audio is not None:
            pieces[request_id].append(event.audio)
        if event.done:
            if event.reason == "error" or not pieces[request_id]:
                reason = event.error or "the voice made no audio"
                raise VivaceError(f"{pool.bundle.name} cannot speak {asked[request_id].text[:60]!r}: {reason}")
            yield asked[request_id], join(pieces.pop(request_id))
