"""A voice's work over time, as a file for https://ui.perfetto.dev (or chrome://tracing).

Chrome's trace-event format ("Trace Event Format", Google, 2016): complete events ("ph": "X") with `ts` and `dur` in
microseconds, metadata events ("ph": "M") that name the tracks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vivace.core import machine
from vivace.core.bundle import Bundle, atomic_file
from vivace.core.speech import Event, Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine
from vivace.workflows import texts as sentences
from vivace.workflows._stopwatch import ENGINE, Span, Stopwatch, events, part_names

TOGETHER = 4  # rows that move together in the second half
SECONDS = 30.0  # of audio of each text at most

Json = dict[str, Any]


def write_timeline(bundle: Bundle, path: Path, *, threads: int = 1, texts: Mapping[str, str] | None = None) -> None:
    """Reads `texts` (the built-in short, medium and long one if None) one after another, then all together, and
    writes when every step of the engine and every run of a stage began and ended.

    Two processes of tracks: "one text at a time" and "all texts together". In each the track `engine` holds the steps
    and, inside them, what they are made of: `encode` (text to tokens), `advance` and `render`; then comes a track for
    each stage. `args` say how many rows moved and how many frames the longest of them had before (`prefix`).
    The model has spoken once before, so that nothing is warmed up in the trace. Raises VivaceError if a text cannot be
    spoken.
    """
    said = list((texts or sentences.latency()).values())
    found: list[Json] = []
    zero = time.perf_counter()
    for pid, (title, batch) in enumerate({"one text at a time": 1, "all texts together": TOGETHER}.items(), 1):
        watch = Stopwatch(lambda: time.perf_counter() - zero)
        options = RuntimeOptions(threads=threads or machine.cores())
        with Engine(bundle, options, max_batch=batch, wrap=watch.wrap, phase=watch.phase) as engine:
            _speak(engine, said[:1], 1)
            watch.reset()
            steps: list[Span] = []
            _speak(engine, said, batch, partial(_step, engine, watch, steps))
        found += _tracks(pid, f"{bundle.name}: {title}", steps, watch, part_names(bundle))
    made = {"traceEvents": found, "displayTimeUnit": "ms", "otherData": {"model": bundle.name, "digest": bundle.digest}}
    atomic_file(path, json.dumps(made).encode())


def _speak(
    engine: Engine, said: Sequence[str], together: int, step: Callable[[], Sequence[Event]] | None = None
) -> None:
    requests = [Request(f"traced-{k}", text, seed=1, max_seconds=SECONDS) for k, text in enumerate(said)]
    for group in [requests] if together > 1 else [[request] for request in requests]:
        for _ in events(engine, group, step):
            pass


def _step(engine: Engine, watch: Stopwatch, steps: list[Span]) -> Sequence[Event]:
    """A step of the engine as a span that has the rows and the frames of the phases inside it."""
    before = len(watch.phases)
    begun = watch.clock()
    made = engine.step()
    inside = watch.phases[before:]
    rows, prefix = (max((getattr(span, name) for span in inside), default=0) for name in ("rows", "prefix"))
    steps.append(Span("step", begun, watch.clock(), rows, prefix))
    return made


def _tracks(pid: int, title: str, steps: Sequence[Span], watch: Stopwatch, names: Mapping[str, str]) -> list[Json]:
    tracks = {ENGINE: [*steps, *watch.phases]}
    for stage, part in names.items():
        tracks[part] = [replace(span, name=part) for span in watch.stages if span.name == stage]
    found: list[Json] = [{"ph": "M", "name": "process_name", "pid": pid, "args": {"name": title}}]
    for tid, (track, spans) in enumerate(tracks.items(), 1):
        where = {"pid": pid, "tid": tid}
        found.append({"ph": "M", "name": "thread_name", **where, "args": {"name": track}})
        found.append({"ph": "M", "name": "thread_sort_index", **where, "args": {"sort_index": tid}})
        for span in sorted(spans, key=lambda span: (span.begun, -span.ended)):
            # Ends are rounded, not durations: what lies inside another span stays inside.
            begun, ended = round(1e9 * span.begun), round(1e9 * span.ended)
            args = {"rows": span.rows, "prefix": span.prefix}
            times = {"ts": begun / 1000, "dur": (ended - begun) / 1000}
            kind = "engine" if track == ENGINE else "stage"
            found.append({"ph": "X", "name": span.name, "cat": kind, **where, **times, "args": args})
    return found
