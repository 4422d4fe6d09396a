"""Opens a session for each stage of a bundle. Sessions may serve several engines, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.stage import RuntimeOptions, Session, Stage

Wrap = Callable[[Stage, Session], Session]


def open_sessions(
    bundle: Bundle, options: RuntimeOptions, wrap: Wrap = lambda stage, session: session
) -> dict[str, Session]:
    """By stage name, loaded side by side and then wrapped. Raises ModelError if one cannot be loaded; then all are
    closed."""

    def one(stage: Stage) -> Session:
        # Steps follow one another at once: threads that slept in between would take longer to wake than to work.
        spin = options.spin or stage.loop == "frame"
        known = replace(options, spin=spin, digest=bundle.files.get(stage.file, ""))
        session: Session = registry.load("runtimes", stage.runtime).open(stage, bundle.file(stage.file), known)
        return session

    with ThreadPoolExecutor(max(1, len(bundle.stages))) as threads:
        loading = [(stage, threads.submit(one, stage)) for stage in bundle.stages]
    opened: dict[str, Session] = {}
    try:
        for stage, loaded in loading:
            opened[stage.name] = wrap(stage, loaded.result())
    except BaseException:
        for stage, loaded in loading:
            if not loaded.exception():
                opened.get(stage.name, loaded.result()).close()
        raise
    machine.give_back()  # what loading took, before anything else is put between it
    return opened
