"""How to keep all cores busy with one voice: threads or processes, shared or own sessions, pinned or not.

    python benchmarks/workers.py BUNDLE             writes docs/measurements/workers.md, about 5 minutes on two cores

Every way speaks the same sentences with one worker for each core, in a fresh process, in interleaved rounds. Let
nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vivace.core import machine
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.engine.sessions import open_sessions
from vivace.workflows import texts

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "workers.md"
WARM_UP = 2  # sentences of each worker before the clock starts


@dataclass(frozen=True)
class Way:
    """`prepared`: weights are mapped from the prepared graphs; else each session holds its own copy."""

    words: str
    workers: int = 0  # 0: one for each core
    threads: int = 1  # of each worker
    processes: bool = False
    shared: bool = False
    pinned: bool = False
    prepared: bool = True


WAYS = {
    "one": Way("one engine, 1 thread", workers=1),
    "intra": Way("one engine, all cores inside", workers=1, threads=0),
    "shared": Way("threads, shared sessions", shared=True),
    "shared-pinned": Way("threads, shared sessions, pinned", shared=True, pinned=True),
    "own": Way("threads, own sessions"),
    "own-pinned": Way("threads, own sessions, pinned", pinned=True),
    "processes": Way("processes, weights mapped", processes=True),
    "processes-pinned": Way("processes, weights mapped, pinned", processes=True, pinned=True),
    "processes-copied": Way("processes, weights copied", processes=True, prepared=False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--raw", type=Path, help="append every run as a line of JSON, and count what is there")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    if args.child:
        print(json.dumps(measure(bundle, WAYS[args.child], texts.evaluation(args.texts))))
        return 0
    Engine(bundle, RuntimeOptions(threads=1)).close()  # makes the prepared graphs
    runs = (
        [json.loads(line) for line in args.raw.read_text(encoding="utf-8").splitlines()]
        if args.raw and args.raw.exists()
        else []
    )
    for k in range(args.rounds):
        for name in args.ways if k % 2 else args.ways[::-1]:
            command = [sys.executable, __file__, str(args.bundle), "--child", name, "--texts", str(args.texts)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
            runs.append({"way": name, **json.loads(done.stdout.splitlines()[-1])})
            print(f"{k + 1}/{args.rounds} {name}: {runs[-1]}", file=sys.stderr, flush=True)
            if args.raw:
                with args.raw.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    PAGE.write_text(page(bundle, runs, args.texts), encoding="utf-8")
    return 0


def measure(bundle: Bundle, way: Way, said: list[str]) -> dict[str, float]:
    """Audio-seconds per second of one run over all sentences, and the memory of all its processes in MB."""
    if not way.prepared:
        bundle = replace(bundle, files={})
    count = way.workers or machine.cores()
    if way.processes:
        context: Any = get_context("spawn")
        start, ready, turn = context.Barrier(count + 1), context.Barrier(count + 1), context.Value("i", 0)
        results: Any = context.Queue()
        workers = [
            context.Process(target=work, args=(bundle, way, said, k, start, ready, turn, results, None))
            for k in range(count)
        ]
    else:
        import queue

        start, ready, turn = threading.Barrier(count + 1), threading.Barrier(count + 1), Turn()
        results = queue.Queue()
        options = RuntimeOptions(threads=1, workers=count)
        sessions = open_sessions(bundle, options) if way.shared else None
        workers = [
            threading.Thread(target=work, args=(bundle, way, said, k, start, ready, turn, results, sessions))
            for k in range(count)
        ]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    audio = sum(results.get() for _ in workers)
    seconds = time.perf_counter() - begun
    memory = proportional(os.getpid()) if not way.processes else sum(proportional(w.pid) for w in workers)
    ready.wait()
    for worker in workers:
        worker.join()
    return {"throughput": audio / seconds, "memory_mb": memory}


class Turn:
    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def get_lock(self) -> threading.Lock:
        return self._lock


def work(
    bundle: Bundle, way: Way, said: list[str], k: int, start: Any, ready: Any, turn: Any, results: Any, sessions: Any
) -> None:
    """Takes the next sentence while there is one. Module level, so that a spawned process finds it."""
    if way.pinned:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[k % len(allowed)]})  # of this thread only, and of those it starts
    with Engine(bundle, RuntimeOptions(threads=way.threads), sessions=sessions) as engine:
        for text in said[:WARM_UP]:
            speak(engine, Request("warm", text))
        start.wait()
        audio = 0.0
        for index in turns(turn, len(said)):
            audio += speak(engine, Request(f"{index}", said[index], seed=index)).seconds
        results.put(audio)
        ready.wait()


def turns(turn: Any, count: int) -> Iterator[int]:
    while True:
        with turn.get_lock():
            index = turn.value
            turn.value += 1
        if index >= count:
            return
        yield index


def proportional(pid: int) -> float:
    """Proportional set size in MB: pages that processes share are split between them."""
    found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8"), re.M)
    assert found
    return int(found[1]) * 1024 / 1e6


def page(bundle: Bundle, runs: list[dict[str, Any]], count: int) -> str:
    facts = machine.describe()
    rows = []
    for name, way in WAYS.items():
        mine = [run for run in runs if run["way"] == name]
        if mine:
            rates = sorted(run["throughput"] for run in mine)
            memory = statistics.median(run["memory_mb"] for run in mine)
            rows.append(
                f"| {way.words} | {len(mine)} | {statistics.median(rates):.1f} | {rates[0]:.1f} to {rates[-1]:.1f} "
                f"| {memory:.0f} |"
            )
    return "\n".join(
        [
            "# Ways to keep all cores busy",
            "",
            f"`{bundle.name}`, {count} evaluation sentences a run, one worker for each of {facts['cores']} cores with "
            f"one thread each. {facts['cpu']}, Python {facts['python']}, ONNX Runtime "
            f"{facts['packages']['onnxruntime']}. Every run is a fresh process, rounds interleaved. Memory is the "
            "proportional set size of all processes after the run. Made by `python benchmarks/workers.py`.",
            "",
            "| way | runs | audio-seconds per second, median | lowest to highest | memory, MB |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
