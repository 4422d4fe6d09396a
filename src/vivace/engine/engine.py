"""The one road of every voice: `add` requests, loop over `step`, read events.

Speech for a file, an evaluation, a benchmark or a server all go through here, so that what is measured is what
is served. Not thread-safe: one thread owns an engine.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Rows
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from vivace.core import registry
from vivace.core.audio import Audio, join
from vivace.core.bundle import Bundle
from vivace.core.contracts import Model
from vivace.core.errors import ModelError, TextError, UsageError, VivaceError
from vivace.core.speech import Blame, Event, Reason, Request, Row
from vivace.core.stage import RuntimeOptions, Session
from vivace.engine.scheduler import Scheduler
from vivace.engine.sequence import Sequence
from vivace.engine.sessions import Wrap, open_sessions

log = logging.getLogger(__name__)

Phase = Callable[[str, Rows[Row]], AbstractContextManager[object]]


class Engine:
    """A loaded bundle that speaks.

    `max_batch` rows move together; `wrap` may put something between the family and each stage's session
    (a recorder, a stopwatch). `sessions` are open ones, used as they are, that somebody else closes.
    `phase(name, rows)` is entered around each piece of a step: "encode" (no rows), "advance" and "render".
    Raises ModelError if a stage cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RuntimeOptions | None = None,
        *,
        max_batch: int = 1,
        wrap: Wrap = lambda stage, session: session,
        clock: Callable[[], float] = time.perf_counter,
        sessions: Mapping[str, Session] | None = None,
        phase: Phase = lambda name, rows: nullcontext(),
    ) -> None:
        if max_batch < 1:
            raise UsageError(f"max_batch is {max_batch}; it must be at least 1")
        self.bundle = bundle
        self._clock = clock
        self._phase = phase
        self._own = open_sessions(bundle, options or RuntimeOptions(), wrap) if sessions is None else {}
        try:
            self._model: Model = registry.load("families", bundle.family).open(bundle, sessions or self._own)
        except BaseException:
            self.close()
            raise
        self._scheduler = Scheduler(min(max_batch, self._model.most_rows))
        self._live: dict[str, Sequence] = {}
        self._cancelled: list[Sequence] = []

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for session in self._own.values():
            session.close()
        self._own = {}

    def warm(self) -> None:
        """Lets the model run its stages at the sizes that it will meet, where runtimes compile for each."""
        if warm := getattr(self._model, "warm", None):
            warm()

    @property
    def idle(self) -> bool:
        return not self._live and not self._cancelled

    @property
    def load(self) -> int:
        """Requests that have not ended."""
        return len(self._live)

    @property
    def cache_bytes(self) -> int:
        """What the model holds for the rows in the making (keys and values); 0 for a model that keeps nothing."""
        return int(getattr(self._model, "cache_bytes", 0))

    def add(self, request: Request) -> None:
        """Queues a request. Raises UsageError if its id is in use: until the last event of that id was given."""
        if request.id in self._live or any(s.request.id == request.id for s in self._cancelled):
            raise UsageError(f"request id {request.id!r} is in use")
        sequence = Sequence(request, times={"queued": self._clock()})
        self._live[request.id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str, *, silent: bool = False) -> None:
        """Ends a request; its last event comes with the next step, or never if `silent`. Unknown ids (finished
        ones) are no error."""
        sequence = self._live.pop(request_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._release(sequence)
            if not silent:
                self._cancelled.append(sequence)

    def step(self) -> list[Event]:
        """Moves some requests forward by one step each. A fault ends the request that has it, never its neighbours."""
        events = [self._end(sequence, "cancelled") for sequence in self._cancelled]
        self._cancelled = []
        running = []
        for sequence in self._scheduler.pick():
            try:
                if sequence.status == "waiting":
                    self._start(sequence)
                running.append(sequence)
            except Exception as error:  # noqa: BLE001
                events.append(self._fail(sequence, error))
        moving = [s for s in running if s.row and not s.row.done]
        events += self._together("advance", moving, self._model.advance)
        speaking = [s for s in running if s.status == "running" and s.row and s.row.speakable]
        audio: dict[Row, Audio] = {}

        def render(rows: list[Row]) -> None:
            audio.update(zip(rows, self._model.render(rows), strict=True))

        events += self._together("render", speaking, render)
        for sequence in running:
            if sequence.status == "running" and sequence.row:
                events += self._progress(sequence, audio.get(sequence.row))
        return events

    def _start(self, sequence: Sequence) -> None:
        with self._phase("encode", ()):
            if not sequence.start(self._model.encode(sequence.request)):
                raise TextError("the text holds nothing that can be spoken")

    def _next_row(self, sequence: Sequence) -> bool:
        with self._phase("encode", ()):
            return sequence.next_row()

    def _together(self, name: str, sequences: list[Sequence], move: Callable[[list[Row]], None]) -> list[Event]:
        """Moves all rows at once; if that fails, one by one, so that only the guilty one ends."""
        rows = [s.row for s in sequences if s.row]
        if not rows:
            return []
        before = [copy.copy(row) for row in rows]
        noise = [row.rng.bit_generator.state for row in rows]
        try:
            with self._phase(name, rows):
                move(rows)
            return []
        except Exception as error:  # noqa: BLE001
            if len(sequences) == 1:
                return [self._fail(sequences[0], error)]
        for row, old, drawn in zip(rows, before, noise, strict=True):  # some may have moved already
            vars(row).update(vars(old))
            row.rng.bit_generator.state = drawn
        return [event for sequence in sequences for event in self._together(name, [sequence], move)]

    def _progress(self, sequence: Sequence, audio: Audio | None) -> list[Event]:
        assert sequence.row
        reason: Reason | None = None
        if audio is not None:
            if not np.isfinite(audio.samples).all():
                return [self._fail(sequence, ModelError("the model made samples that are not numbers"))]
            room = int(sequence.request.max_seconds * audio.rate) - sequence.samples
            if len(audio.samples) > room:
                audio, reason = Audio(audio.samples[:room], audio.rate), "length"
            sequence.samples += len(audio.samples)
            sequence.times.setdefault("first_audio", self._clock())
        spoken = [Event(sequence.request.id, audio, times=dict(sequence.times))] if audio else []
        try:
            if reason is None and sequence.row.finished:
                cut = sequence.row.cut
                if cut or not self._next_row(sequence):
                    reason = "length" if cut else "stop"
        except Exception as error:  # noqa: BLE001 - the text goes on with what cannot be read
            return [*spoken, self._fail(sequence, error)]
        return [self._end(sequence, reason, audio)] if reason else spoken

    def _fail(self, sequence: Sequence, error: Exception) -> Event:
        if isinstance(error, VivaceError):
            asked = isinstance(error, (UsageError, TextError))
            return self._end(sequence, "error", error=str(error), blame="request" if asked else "model")
        log.error("a fault of Vivace or of an extension, not of the request", exc_info=error)
        return self._end(sequence, "error", error=f"{type(error).__name__}: {error}", blame="model")

    def _release(self, sequence: Sequence) -> None:
        if sequence.row:
            self._model.release(sequence.row)
        sequence.row = None

    def _end(
        self, sequence: Sequence, reason: Reason, audio: Audio | None = None, error: str = "", blame: Blame = ""
    ) -> Event:
        sequence.status = "cancelled" if reason == "cancelled" else "failed" if reason == "error" else "finished"
        self._release(sequence)
        sequence.times["end"] = self._clock()
        if self._live.pop(sequence.request.id, None):
            self._scheduler.remove(sequence)
        return Event(sequence.request.id, audio, True, reason, error, dict(sequence.times), blame)


def stream(engine: Engine, request: Request) -> Iterator[Event]:
    """Speaks one request and yields its events. Raises VivaceError if it fails. Leaving early cancels it.

    For an engine of one's own: events of other requests are dropped meanwhile.
    """
    engine.add(request)
    try:
        while not engine.idle:
            for event in engine.step():
                if event.request_id != request.id:
                    continue
                if event.reason == "error":
                    raise VivaceError(event.error)
                yield event
                if event.done:
                    return
    finally:
        engine.cancel(request.id, silent=True)


def speak(engine: Engine, request: Request) -> Audio:
    """The whole audio of one request. Raises VivaceError if it fails."""
    pieces = [event.audio for event in stream(engine, request) if event.audio is not None]
    if not pieces:
        raise ModelError("the voice made no audio")
    return join(pieces)
