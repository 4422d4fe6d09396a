"""The server under load: what it adds to the engine, what it carries, whom it lets wait. docs/measurements/load.md.

    python benchmarks/load.py BUNDLE              about 30 minutes on two cores
    python benchmarks/load.py BUNDLE --quick      tries it, no page

The clients run on the same machine and take part of its time. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vivace.core import machine
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.speech import FIRST_CHUNK, Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, stream
from vivace.engine.pool import Pool, speak_all
from vivace.workflows import texts
from vivace.workflows._stopwatch import interval

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "load.md"
RATE = 24_000  # of pcm
CUT = 599  # as a status: the answer began well and was broken off
PORT = 18_400
LATE = 0.5  # seconds to the first audio of a short text behind long ones
BEHIND = 50  # short texts
SILENCE = 0.02  # seconds that a client waits while it plays: an underrun
PAIRS = 70  # in each of three blocks, for the machine drifts and single ones lie tens of milliseconds off


@dataclass(frozen=True)
class Said:
    """One request as its client saw it: seconds to the first byte, to the last, of audio, and waited in silence."""

    status: int
    first: float
    whole: float
    audio: float
    waited: float


async def ask(text: str, seed: int = 0, silences: list[float] | None = None) -> Said:
    """A client of few instructions, so that the server has the machine: HTTP/1.0 semantics over a plain socket.
    `silences` gets the seconds that it waited for audio while it played, even if it leaves before the end."""
    asked = request(text, seed)
    begun = time.perf_counter()
    waited = 0.0
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
        size, first = 0, 0.0
        while status == 200:
            try:
                if not (length := int(await reader.readuntil(b"\r\n"), 16)):
                    break
                await reader.readexactly(length + 2)
            except (asyncio.IncompleteReadError, ConnectionError):
                status = CUT
                break
            now = time.perf_counter() - begun
            first = first or now
            waited += max(0.0, now - first - waited - size / 2 / RATE)
            size += length
        whole = time.perf_counter() - begun
    finally:
        writer.close()  # who is cancelled leaves, too
        if silences is not None:
            silences.append(waited)
    return Said(status, first, whole, size / 2 / RATE, waited)


def request(text: str, seed: int) -> bytes:
    body = json.dumps({"model": "voice", "input": text, "response_format": "pcm", "seed": seed}).encode()
    return (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def first_audio(text: str, seed: int) -> tuple[float, float]:
    """Milliseconds from asking, a new connection included, to the first audio, and what of them the engine took, as the
    server tells; then waits for the rest. A blocking socket, which adds least of its own."""
    asked, got = request(text, seed), b""
    begun = time.perf_counter()
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", PORT))
        connection.sendall(asked)
        while not got.partition(b"\r\n\r\n")[2]:
            got += connection.recv(1 << 16)
        took = time.perf_counter() - begun
        engine = re.search(rb"(?i)server-timing: engine;dur=([0-9.]+)", got)
        if b" 200 " not in got[:20] or not engine:
            raise SystemExit(f"the server does not speak: {got[:200]!r}")
        while connection.recv(1 << 16):
            pass
    return 1000 * took, float(engine[1])


@contextmanager
def server(bundle: Path, *options: str) -> Iterator[int]:
    """`vivace serve` on PORT; gives its process id."""
    command = [sys.executable, "-m", "vivace.cli.main", "serve", f"voice={bundle}", "--port", str(PORT), "-q", *options]
    with subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "ignore"}) as process:
        try:
            for _ in range(600):
                if process.poll() is not None:
                    raise SystemExit("the server did not come up")
                try:
                    if asyncio.run(_ready()):
                        break
                except OSError:
                    pass
                time.sleep(0.1)
            else:
                raise SystemExit("the server was not ready after a minute")
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


async def _ready() -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = await reader.readline()
    writer.close()
    return b" 200 " in head


def overhead(bundle: Bundle, text: str, rounds: int) -> list[dict[str, float]]:
    """First audio from the server and from an engine in this process, by turns and in an order of chance. Both go on to
    the end of the text: what comes after the first audio is what the next request finds in the caches. `within`: what
    the server's own engine took; `woken`: of this block of rounds (`woken`)."""
    took: list[dict[str, float]] = []
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:

        def alone(k: int) -> dict[str, float]:
            begun = time.perf_counter()
            events = stream(engine, Request("a", text, seed=k, chunk_frames=FIRST_CHUNK))
            next(events)
            took = time.perf_counter() - begun
            list(events)
            return {"alone": 1000 * took}

        def served(k: int) -> dict[str, float]:
            whole, within = first_audio(text, k)
            return {"server": whole, "within": within}

        for k in range(rounds + 2):
            both = [arm(k) for arm in random.Random(k).sample([alone, served], 2)]
            took.append(both[0] | both[1])
    machine_alone = woken(min(rounds, 20))
    return [t | {"woken": machine_alone} for t in took[2:]]  # the first two warmed up


def added(blocks: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Of all rounds of `overhead`: `pairs_ms`, the difference of the two; `added_ms`, what a request took beyond its
    own engine, which has less chance in it; `blocks_ms`, the median of that in each block."""
    took = [t for block in blocks for t in block]
    return {
        **{f"{name}_ms": statistics.median(t[name] for t in took) for name in ("server", "alone", "within", "woken")},
        "added_ms": interval([t["server"] - t["within"] for t in took]),
        "pairs_ms": interval([t["server"] - t["alone"] for t in took]),
        "blocks_ms": [statistics.median(t["server"] - t["within"] for t in block) for block in blocks],
    }


ECHO = """import sys, time
while sys.stdin.buffer.read(1):
    print(time.perf_counter(), flush=True)
"""


def woken(times: int) -> float:
    """Median ms until a process that sleeps sees a message whose sender computes on, as an engine does: what the
    machine itself takes of every answer, which passes through the server and then its client."""

    def busy(seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass

    took = []
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen([sys.executable, "-c", ECHO], **pipes) as echo:
        assert echo.stdin and echo.stdout
        for _ in range(times):
            busy(0.1)
            sent = time.perf_counter()
            echo.stdin.write(b"x")
            busy(0.03)
            took.append(1000 * (float(echo.stdout.readline()) - sent))
    return statistics.median(took)


def offline(bundle: Bundle, said: Sequence[str]) -> float:
    """Seconds of speech per second of the engine alone, both cores."""
    with Pool(bundle) as pool:
        list(speak_all(pool, [Request(f"w{k}", said[k]) for k in range(4)]))
        begun = time.perf_counter()
        asked = [Request(str(k), text, seed=k) for k, text in enumerate(said)]
        seconds = sum(audio.seconds for _, audio in speak_all(pool, asked))
        return seconds / (time.perf_counter() - begun)


def in_turn(bundle: Bundle, said: Sequence[str], load: Callable[[], dict[str, Any]], rounds: int = 1) -> dict[str, Any]:
    """The server under `load` between two turns of the engine alone, whose mean it is compared with, since machines
    drift within minutes: the round in the middle by what the server carries of that, and the `shares` of all."""
    found = []
    before = offline(bundle, said)
    for _ in range(rounds):
        loaded, after = load(), offline(bundle, said)
        found.append(loaded | {"alone": (before + after) / 2})
        before = after
    found.sort(key=_share)
    return found[rounds // 2] | {"shares": [_share(turn) for turn in found]}


def _share(load: dict[str, Any]) -> float:
    return float(load["speech_per_second"] / load["alone"])


def closed(said: Sequence[str], clients: int, *, one_by_one: bool = False) -> dict[str, Any]:
    """`clients` that ask again as soon as they have been answered. `one_by_one`: as a server would that speaks one
    request after another, whole."""

    async def run() -> list[Said]:
        waiting = list(enumerate(said))
        door = asyncio.Lock()
        found: list[Said] = []

        async def client() -> None:
            while waiting:
                k, text = waiting.pop(0)
                if not one_by_one:
                    found.append(await ask(text, k))
                    continue
                begun = time.perf_counter()
                async with door:
                    got = await ask(text, k)
                whole = time.perf_counter() - begun
                found.append(Said(got.status, whole, whole, got.audio, 0.0))

        await asyncio.gather(*(client() for _ in range(clients)))
        return found

    begun = time.perf_counter()
    found = asyncio.run(run())
    return summary(found, time.perf_counter() - begun) | {"clients": clients}


def opened(said: Sequence[str], per_second: float, seed: int = 0) -> dict[str, Any]:
    """Arrivals at random times, whoever is still waiting (Poisson)."""
    dice = random.Random(seed)

    async def run() -> list[Said]:
        tasks = []
        for k, text in enumerate(said):
            tasks.append(asyncio.create_task(ask(text, k)))
            await asyncio.sleep(dice.expovariate(per_second))
        return list(await asyncio.gather(*tasks))

    begun = time.perf_counter()
    return summary(asyncio.run(run()), time.perf_counter() - begun) | {"per_second": per_second}


def behind(long: str, short: str, rounds: int) -> dict[str, Any]:
    """First audio of a short request that comes some time after four long ones."""
    dice = random.Random(0)
    silences: list[float] = []

    async def one(k: int) -> float:
        others = [asyncio.create_task(ask(long, k, silences)) for _ in range(4)]
        await asyncio.sleep(dice.uniform(0.2, 1.5))
        said = await ask(short, k)
        if said.status != 200:
            raise SystemExit(f"the server does not speak the short text: {said.status}")
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.5)
        return said.first

    found = [asyncio.run(one(k)) for k in range(rounds)]
    return {
        "median_ms": 1000 * statistics.median(found), "worst_ms": 1000 * max(found), "n": rounds,
        "late": sum(first > LATE for first in found), "underruns": sum(silence > SILENCE for silence in silences),
    }  # fmt: skip


def summary(found: Sequence[Said], seconds: float) -> dict[str, Any]:
    good = [s for s in found if s.status == 200]
    statuses = {str(s.status): sum(o.status == s.status for o in found) for s in found}
    firsts = sorted(s.first for s in good)
    return {
        "n": len(found), "statuses": statuses, "ttfa_ms": _percentiles(firsts),
        "whole_ms": _percentiles(sorted(s.whole for s in good)),
        "speech_per_second": sum(s.audio for s in good) / seconds,
        "seconds_each": sum(s.audio for s in good) / max(1, len(good)),
        "underruns": sum(s.waited > SILENCE for s in good),
    }  # fmt: skip


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {name: 1000 * values[min(len(values) - 1, int(share * len(values)))] for name, share in at.items() if values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    sentences = texts.evaluation()
    many = (sentences * 4)[: 24 if args.quick else 320]
    known = texts.latency()
    found: dict[str, Any] = {"machine": machine.describe(), "bundle": bundle.digest, "name": bundle.name}
    rounds = 1 if args.quick else 9
    with server(args.bundle, "--queue", "64"):
        blocks = []

        def single() -> None:
            tell("one request at a time")
            blocks.append(overhead(bundle, known["medium"], 2 if args.quick else PAIRS))

        single()
        beside = partial(in_turn, bundle, many[:160])
        found["loads"] = []
        for clients in (1, 4, 16, 32, 64):
            tell(f"{clients} clients and the engine alone, in turn")
            asked = many[: max(clients * 4, 160)]  # as many as alone
            found["loads"].append(beside(partial(closed, asked, clients), rounds if clients == 16 else 1))
        single()
        tell("16 clients, one after another")
        found["naive"] = beside(partial(closed, many[:64], 16, one_by_one=True))
        tell("a short text behind long ones")
        long = " ".join(sentences)[:4000]
        found["behind"] = behind(long, known["medium"], 3 if args.quick else BEHIND)
        tell("arrivals at 80% of what it carries")
        carried = found["loads"][2]
        rate = 0.8 * carried["speech_per_second"] / carried["seconds_each"]
        found["open"] = beside(partial(opened, many[: len(many) // 2], rate))
        tell("more than the queue holds")
        found["above"] = beside(partial(closed, many[: 24 if args.quick else 200], 200))
        single()
        found["overhead"] = added(blocks)
    print(page(found))
    if not args.quick:
        PAGE.write_text(page(found), encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr)


def page(found: dict[str, Any]) -> str:
    m, o, b = found["machine"], found["overhead"], found["behind"]
    beyond, pairs = o["added_ms"], o["pairs_ms"]
    medians = ", ".join(f"{block:.1f}" for block in o["blocks_ms"])
    sixteen = next(load for load in found["loads"] if load["clients"] == 16)
    alone = [load["alone"] for load in (*found["loads"], found["naive"], found["open"], found["above"])]
    lines = [
        "# The server under load",
        "",
        f"`{found['name']}` (digest {found['bundle'][:12]}), {time.strftime('%Y-%m-%d')}. {m['cpu']}, "
        f"{m['cores']} cores. Made by `python benchmarks/load.py`; clients on the same machine, pcm over HTTP.",
        "",
        f"First audio of a medium text, one client: {o['server_ms']:.1f} ms, of which the engine took "
        f"{o['within_ms']:.1f} ms: the server adds {beyond['value']:.1f} ms (median of {beyond['n']} requests; 95% "
        f"interval {beyond['low']:.1f} to {beyond['high']:.1f}; {medians} in blocks at the start, in the middle and at "
        f"the end of this run). An engine alone, by turns with it, took "
        f"{o['alone_ms']:.1f} ms: {pairs['value']:.1f} ms less ({pairs['low']:.1f} to {pairs['high']:.1f}). On this "
        f"machine a process that sleeps sees a message whose sender computes on {o['woken_ms']:.1f} ms later (median); "
        "the server and its client are such processes.",
        "",
        "Before and behind each load the engine alone speaks 160 texts on both cores, "
        f"{min(alone):.1f} to {max(alone):.1f} seconds of speech per second as the machine drifts; the load is "
        "compared with the mean of the two. For 16 clients that was done "
        f"{len(sixteen['shares'])} times: the server carries {statistics.median(sixteen['shares']):.0%} (median; "
        f"{sixteen['shares'][0]:.0%} to {sixteen['shares'][-1]:.0%}), and the row is of the round in the middle.",
        "",
        "| clients | requests | answers | speech per second | of the engine alone | TTFA p50 / p95 / p99, ms "
        "| whole p50 / p95, ms | underruns |",
        "|---|---|---|---|---|---|---|---|",
        *(row(str(load["clients"]), load) for load in found["loads"]),
        row("16, one request after another, whole", found["naive"]),
        row(f"{found['open']['per_second']:.1f} a second, at random", found["open"]),
        row("200, queue of 64", found["above"]),
        "",
        f"A short text that comes 0.2 to 1.5 s after four of 4,000 characters: first audio after {b['median_ms']:.0f} "
        f"ms (median of {b['n']}); {b['late']} waited longer than {LATE:g} s, {b['worst_ms']:.0f} ms at most. Underruns"
        f" of the {4 * b['n']} long ones until then: {b['underruns']}.",
    ]
    return "\n".join(lines) + "\n"


def row(name: str, load: dict[str, Any]) -> str:
    first, whole = load["ttfa_ms"], load["whole_ms"]
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(load["statuses"].items()))
    return (
        f"| {name} | {load['n']} | {answers} | {load['speech_per_second']:.1f} | "
        f"{_share(load):.0%} | {first['p50']:.0f} / {first['p95']:.0f} / {first['p99']:.0f} | "
        f"{whole['p50']:.0f} / {whole['p95']:.0f} | {load['underruns']} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
