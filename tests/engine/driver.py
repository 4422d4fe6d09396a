"""What the tests of the engine share: running requests to the end, and sessions that meddle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vivace.core.audio import Audio, join
from vivace.core.bundle import Bundle
from vivace.core.speech import Event, Request
from vivace.core.stage import Array, RuntimeOptions, Session, Tensors
from vivace.engine.engine import Engine

ONE = RuntimeOptions(threads=1)
TEXTS = {
    "short": "hi.",
    "long": "the quick brown fox jumps over the lazy dog. and then? it sleeps.",
    "middle": "lazy dog",
}
MANY = "one. two. three. four. five. six. seven. eight."  # eight steps
PATIENCE = 30  # seconds until a test that hangs fails
SAME = 1e-6  # batched and streamed sums are taken in another order


def engine(bundle: Bundle, max_batch: int = 1, **more: Any) -> Engine:
    return Engine(bundle, ONE, max_batch=max_batch, **more)


def requests() -> list[Request]:
    """Every text, whole and in chunks."""
    spoken = [Request(name, text, seed=k) for k, (name, text) in enumerate(TEXTS.items())]
    return spoken + [replace(r, id=f"{r.id} in chunks", chunk_frames=7) for r in spoken]


def run(engine: Engine, *requests: Request) -> list[Event]:
    """All events until the engine is idle."""
    for request in requests:
        engine.add(request)
    events: list[Event] = []
    for _ in range(10_000):
        if engine.idle:
            return events
        events += engine.step()
    raise AssertionError("the engine never becomes idle")


def audio_of(events: Iterable[Event], request_id: str) -> Audio:
    return join([e.audio for e in events if e.request_id == request_id and e.audio is not None])


def ends(events: Iterable[Event]) -> dict[str, str]:
    """How each request ended; fails if one ended twice."""
    found: dict[str, str] = {}
    for event in events:
        assert event.request_id not in found, "an event after the end"
        if event.done:
            assert event.reason
            found[event.request_id] = event.reason
    return found


def close(one: Audio, other: Audio) -> bool:
    return one.samples.shape == other.samples.shape and bool(np.abs(one.samples - other.samples).max() <= SAME)


class Meddling:
    """A session whose outputs and failures a test decides."""

    def __init__(self, session: Session, meddle: Callable[[Tensors, dict[str, Array]], Mapping[str, Array]]) -> None:
        self.session = session
        self.meddle = meddle
        self.closed = 0

    def run(self, inputs: Tensors) -> dict[str, Array]:
        return dict(self.meddle(inputs, self.session.run(inputs)))

    def close(self) -> None:
        self.closed += 1
        self.session.close()


def meddling(stage_name: str, meddle: Callable[[Tensors, dict[str, Array]], Mapping[str, Array]]) -> Any:
    """A wrap for Engine that meddles with one stage."""
    return lambda stage, session: Meddling(session, meddle) if stage.name == stage_name else session


class Gate:
    """Holds workers inside the decoder until it is opened; `entered` is set when the first one is there."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        return outputs
