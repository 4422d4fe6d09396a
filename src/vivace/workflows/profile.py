"""Where a voice's time goes, how close each part comes to what this machine can do, and what would help."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import UsageError
from vivace.core.report import Report
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions, Session, Stage
from vivace.engine.engine import Engine
from vivace.workflows import _bottlenecks, _decode, _operators
from vivace.workflows import texts as sentences
from vivace.workflows._batching import PATIENCE, time_batches
from vivace.workflows._ceiling import Ceiling, ceiling
from vivace.workflows._macs import CountingSession, Work, total
from vivace.workflows._memory import peak_memory
from vivace.workflows._profile_figures import measurements
from vivace.workflows._profile_plots import plot
from vivace.workflows._roofline import assess, whole
from vivace.workflows._stopwatch import BUSY, ENGINE, TOKENS, Reading, Timed, interval, loop_stage, part_names, read_all
from vivace.workflows._timeline import write_timeline

__all__ = ["plot", "profile", "write_timeline"]

LOADS = 3
BATCHES, STEP_BATCHES = (1, 2, 4, 8), (1, 4, 16, 32)  # the second of a model that makes frames step by step
COUNTED = 24  # runs of a stage that runs once for each frame whose operations are counted, evenly spread
SLOW = 5.0  # seconds of a reading: from here on, its operators are traced once instead of three times


def profile(
    bundle: Bundle,
    *,
    threads: int = 1,
    texts: Mapping[str, str] | None = None,
    batches: Sequence[int] | None = None,
    runs: int = 7,
    progress: Progress = lambda message, share: None,
    cache: Path | None = None,
) -> Report:
    """Measures the bundle part by part; `details` holds the whole breakdown (docs/profile.md names its fields).

    `texts` by name, the built-in ones if None; the parts are those of the one named "medium", or of middle length.
    `batches` None means BATCHES, or STEP_BATCHES for a model that makes its frames step by step.
    `threads` 0 means all cores. `cache` is the folder in which the machine's ceiling is kept (see _ceiling).
    Raises UsageError for impossible arguments, VivaceError if a text cannot be spoken.
    """
    loop = loop_stage(bundle)
    batches = (STEP_BATCHES if loop else BATCHES) if batches is None else sorted(set(batches))
    if runs < 1 or threads < 0 or not batches or min(batches) < 1:
        raise UsageError("runs and every batch must be at least 1, threads at least 0")
    if texts is not None and not texts:
        raise UsageError("there is no text to profile with")
    threads = threads or machine.cores()
    said = dict(sorted((texts or _texts(between=loop is None)).items(), key=lambda item: len(item[1])))
    middle = "medium" if "medium" in said else list(said)[len(said) // 2]

    roof = ceiling(threads, cache, progress=progress)
    progress("loading", 0.05)
    loads = _load_times(bundle, threads)
    readings = _read(bundle, threads, said, runs, _part(progress, 0.1, 0.4))
    progress("counting operations", 0.4)
    every = {stage.name: _every(bundle, stage, readings[middle][0]) for stage in bundle.stages}
    work, renamed = _count(bundle, said[middle], every)
    progress("tracing operators", 0.5)
    traced = {"runs": 1} if readings[middle][0].seconds > SLOW else {}
    operators = _operators.trace(bundle, threads, said[middle], work, renamed, every, **traced)
    asked = {middle: said[middle]} if loop is None else {name: said[name] for name in _three(list(said), middle)}
    together = {}
    for k, (name, text) in enumerate(asked.items()):
        stretch = _part(progress, 0.55 + 0.35 * k / len(asked), 0.55 + 0.35 * (k + 1) / len(asked))
        together[name] = time_batches(bundle, threads, text, batches, runs, stretch)
    progress("measuring memory", 0.9)
    loaded, peak = peak_memory(bundle, list(said.values())[-1], threads)
    if loop:
        for row in together[middle]["rows"]:
            row["peak_mb"] = peak_memory(bundle, said[middle], threads, row["batch"])[1]

    parts = _parts(bundle, readings[middle], work, roof, every)
    if any((part.get("compute_share") or 0.0) > 1.0 for part in parts):  # a ceiling that is beaten is none
        roof = ceiling(threads, cache, fresh=True, progress=progress)
        parts = _parts(bundle, readings[middle], work, roof, every)
    decode = _decode.summary(bundle, loop, readings[middle], together, said) if loop else None
    lengths = [_length(name, said[name], readings[name]) for name in said]
    details: dict[str, Any] = {
        "text": {"name": middle, "characters": len(said[middle]), "audio_seconds": readings[middle][0].audio},
        "waited_share": sum(r.waited for r in readings[middle]) / sum(r.seconds for r in readings[middle]),
        "parts": parts,
        "whole": whole(parts),
        "ceiling": asdict(roof),
        "operators": operators,
        "bottlenecks": _bottlenecks.sentences(parts, operators, roof, decode),
        "decode": decode,
        "notes": _notes(bundle, parts, operators) + _patience(together, readings, runs),
        "lengths": lengths,
        "batches": together[middle]["rows"],
        "batching": together[middle]["verdict"],
        "load_s": loads,
        "memory_mb": {"loaded": loaded, "peak": peak, "characters": len(list(said.values())[-1])},
    }
    if details["waited_share"] >= BUSY:
        details["notes"].append(
            f"The machine was busy: {100 * details['waited_share']:.0f}% of the time went by waiting for a core, so the"
            " times are too long and the shares of the ceiling too low. Measure again when it is quiet."
        )
    progress("done", 1.0)
    return Report(
        "profile",
        measurements(details, threads),
        bundles={"bundle": bundle.digest},
        machine=machine.describe(),
        settings={"name": bundle.name, "threads": threads, "runs": runs, "batches": list(batches)},
        details=details,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _texts(*, between: bool) -> dict[str, str]:
    """The three built-in lengths, and the beginning of the long one at three lengths in `between`."""
    said = dict(sentences.latency())
    if not between:
        return said
    short, medium, long = (len(said[name]) for name in ("short", "medium", "long"))
    targets = (
        math.sqrt(short * medium),
        medium ** (2 / 3) * long ** (1 / 3),
        medium ** (1 / 3) * long ** (2 / 3),
    )
    for target in targets:
        cut = said["long"].rfind(" ", 0, round(target))
        if cut > 0:
            text = said["long"][:cut].rstrip(",;:") + "."
            said[f"{len(text)} characters"] = text
    return said


def _part(progress: Progress, begin: float, end: float) -> Progress:
    """`progress` for a piece of work that is the stretch from `begin` to `end` of the whole."""
    return lambda message, share: progress(message, begin + share * (end - begin))


def _load_times(bundle: Bundle, threads: int) -> list[float]:
    """Seconds of each of LOADS openings; one before them brings files and libraries into memory."""
    seconds = []
    for _ in range(1 + LOADS):
        begun = time.perf_counter()
        Engine(bundle, RuntimeOptions(threads=threads)).close()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def _read(
    bundle: Bundle, threads: int, said: Mapping[str, str], runs: int, progress: Progress
) -> dict[str, list[Reading]]:
    """`runs` readings of every text, text after text in each round, so that a slow moment hits no text alone.
    No round begins after PATIENCE; where the first, which else warms up, takes so long, its readings are all."""
    readings: dict[str, list[Reading]] = {name: [] for name in said}
    timed = Timed(bundle, threads)
    with timed.engine:
        begun = time.perf_counter()
        for k in range(runs + 1):
            if k and time.perf_counter() - begun > PATIENCE:
                break
            for name, text in said.items():
                readings[name].append(timed.read(text))
            progress(f"timing, round {k}/{runs}", k / runs)
    return {name: every[1:] or every for name, every in readings.items()}


def _every(bundle: Bundle, stage: Stage, reading: Reading) -> int:
    """Of how many runs of the stage one is counted and traced."""
    if stage.loop != "frame":
        return 1
    return max(1, reading.calls.get(part_names(bundle)[stage.name], 0) // COUNTED)


def _three(names: Sequence[str], middle: str) -> list[str]:
    """The shortest text, the middle one and the longest."""
    return list(dict.fromkeys((names[0], middle, names[-1])))


def _count(bundle: Bundle, text: str, every: Mapping[str, int]) -> tuple[dict[str, dict[str, Work]], dict[str, str]]:
    """What one reading computes: work by node, by stage; and the names that nodes may have in a trace. Stages that
    are no ONNX file have none."""
    counters: dict[str, CountingSession] = {}

    def wrap(stage: Stage, session: Session) -> Session:
        if not stage.file.endswith(".onnx"):
            return session
        counters[stage.name] = CountingSession(session, bundle.file(stage.file), every[stage.name])
        return counters[stage.name]

    with Engine(bundle, RuntimeOptions(threads=machine.cores()), wrap=wrap) as engine:
        read_all(engine, [Request("counted", text, seed=1)])
        work = {name: counter.work() for name, counter in counters.items()}
        return work, {k: v for counter in counters.values() for k, v in counter.renamed().items()}


def _parts(
    bundle: Bundle,
    readings: Sequence[Reading],
    work: Mapping[str, Mapping[str, Work]],
    roof: Ceiling,
    every: Mapping[str, int],
) -> list[dict[str, Any]]:
    """One row for each part, in the order of the road. Shares are of the sum of the medians, so they add up to 1."""
    medians = {name: 1000 * statistics.median(r.parts[name] for r in readings) for name in readings[0].parts}
    together = sum(medians.values())
    audio, names = readings[0].audio, part_names(bundle)
    rows: list[dict[str, Any]] = [{"name": TOKENS, "kind": "text"}]
    for stage in bundle.stages:
        row: dict[str, Any] = {
            "name": names[stage.name],
            "kind": "stage",
            "stage": stage.name,
            "runtime": stage.runtime,
            "precision": stage.precision,
        }
        row["calls"], row["counted_every"] = readings[0].calls.get(row["name"], 0), every[stage.name]
        if stage.name in work and medians[row["name"]] > 0:
            done = _as_run(work[stage.name], stage)
            row |= assess(medians[row["name"]], together, done, roof)
            row["macs_per_audio_second"] = done.total_macs / audio
        rows.append(row)
    rows.append({"name": ENGINE, "kind": "engine"})
    for part in rows:
        part |= _ms([reading.parts[part["name"]] for reading in readings])
        part["share"] = part["ms"] / together
    return rows


def _as_run(nodes: Mapping[str, Work], stage: Stage) -> Work:
    """The work of a stage. It is counted in its file's precision; floats that run in bf16 have half the bytes."""
    if not _wants_bf16(stage) or not _has_bf16(stage):
        return total(nodes.values())
    return total(
        node
        if "int8" in node.macs
        else Work(
            {("bf16" if p == "fp32" else p): n for p, n in node.macs.items()},
            node.weight_bytes // 2,
            node.activation_bytes // 2,
            node.uncounted,
        )
        for node in nodes.values()
    )


def _wants_bf16(stage: Stage) -> bool:
    return bool(stage.options.get("precision") == "bf16")


def _has_bf16(stage: Stage) -> bool:
    return "bf16" in registry.load("runtimes", stage.runtime).precisions()


def _notes(bundle: Bundle, parts: Sequence[Mapping[str, Any]], operators: Mapping[str, Any]) -> list[str]:
    """What to know before trusting the figures of the stages."""
    notes = [
        f"{stage.name}: this machine has no bf16 in {stage.runtime}, so the stage was computed and counted in fp32."
        for stage in bundle.stages
        if _wants_bf16(stage) and not _has_bf16(stage)
    ]
    notes += [
        f"{stage.name}: its runtime ({stage.runtime}) writes no trace, so its operators are not shown."
        for stage in bundle.stages
        if stage.name not in operators
    ]
    above = [part["name"] for part in parts if (part.get("compute_share") or 0.0) > 1.0]
    if above:
        notes.append(
            f"{', '.join(above)}: faster than this machine's measured peak, also after measuring it again. The machine"
            " is busy, or the runtime computes less than was counted."
        )
    return notes


def _patience(
    together: Mapping[str, Mapping[str, Any]], readings: Mapping[str, Sequence[Reading]], runs: int
) -> list[str]:
    """What was not measured because it would have taken too long."""
    notes = [
        f"{name} text: {' and '.join(map(str, found['left_out']))} texts together were left out, because a round of"
        f" them would take more than {PATIENCE:.0f} s."
        for name, found in together.items()
        if found["left_out"]
    ]
    least = min(len(each) for each in readings.values())
    if least < runs:
        read = "once" if least == 1 else f"{least} times"
        notes.append(f"Each text was read {read} instead of {runs} times: that took {PATIENCE:.0f} s already.")
    return notes


def _length(name: str, text: str, readings: Sequence[Reading]) -> dict[str, Any]:
    taken = _ms([reading.seconds for reading in readings])
    audio = readings[0].audio
    return {
        "text": name,
        "characters": len(text),
        "audio_seconds": audio,
        **taken,
        "rtf": taken["ms"] / 1000 / audio,
        "parts_ms": {p: 1000 * statistics.median(r.parts[p] for r in readings) for p in readings[0].parts},
    }


def _ms(seconds: Sequence[float]) -> dict[str, Any]:
    found = interval([1000 * s for s in seconds])
    return {"ms": found.pop("value"), **found}
