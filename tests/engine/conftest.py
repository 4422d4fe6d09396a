from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.driver import Gate, Meddling
from vivace.core.bundle import Bundle
from vivace.core.stage import Session, Stage
from vivace.engine import pool as module


@pytest.fixture(params=[1, 5], ids=["one-shot", "multi-step"])
def voice(request: pytest.FixtureRequest, make_toy: Any) -> Bundle:
    return make_toy(voices=["ann", "bob"], steps=request.param)


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Meddling]]:
    """`meddle(f)`: what decoders of pools opened from now on give goes through `f(inputs, outputs)`."""
    opened: dict[str, Meddling] = {}
    original = module.open_sessions

    def install(change: Callable[..., Any]) -> dict[str, Meddling]:
        def wrap(stage: Stage, session: Session) -> Session:
            opened[stage.name] = Meddling(session, change if stage.name == "decoder" else lambda i, o: o)
            return opened[stage.name]

        monkeypatch.setattr(module, "open_sessions", lambda bundle, options: original(bundle, options, wrap))
        return opened

    return install


@pytest.fixture
def gate(meddle: Callable[..., Any]) -> Iterator[Gate]:
    gate = Gate()
    meddle(gate)
    yield gate
    gate.opened.set()
