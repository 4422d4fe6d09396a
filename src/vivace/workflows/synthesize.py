"""Text in, audio out, for one text: the engine with its loop around it."""

from __future__ import annotations

from typing import Any

from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak


def synthesize(bundle: Bundle, text: str, *, threads: int = 0, **fields: Any) -> Audio:
    """Speaks one text; `fields` are those of `Request` (voice, speed, seed, ...).

    Loads the model for this one text: keep an `Engine` for more. Raises VivaceError if it cannot be spoken.
    """
    with Engine(bundle, RuntimeOptions(threads=threads)) as engine:
        return speak(engine, Request("synthesize", text, **fields))
