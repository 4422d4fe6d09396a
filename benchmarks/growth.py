"""Whether memory grows with requests or with the length of a text, and docs/measurements/growth.md.

    python benchmarks/growth.py BUNDLE                                  10 to 25 minutes on two cores, by voice
    python benchmarks/growth.py BUNDLE --requests 300 --page /tmp/growth.md        about a third of that

Every mode and every peak is a process of its own. Interrupted, it goes on with those that are not on disk. Other
work on the machine makes it slower and does no other harm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from _peers.arm import resident
from _peers.page import table
from _peers.phases import Log, paragraph, source_digest
from vivace.core import machine
from vivace.core.bundle import Bundle, atomic_file, open_bundle
from vivace.core.speech import FIRST_CHUNK, Event, Request
from vivace.engine.engine import Engine, stream
from vivace.engine.pool import Pool
from vivace.workflows import texts

ROOT = Path(__file__).parents[1]
WARM, EVERY = 200, 10  # requests before the first sample, which is all texts once, and between samples
REPEATS = 3  # processes for each peak
MODES = {"engine": "one Engine", "pool": "one Pool, a worker for each core"}
HOW = ("whole", "streamed")
PEAKS = [f"{text}, {how}" for text in ("long", "book") for how in HOW]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=2000, help=f"after {WARM} to warm up (default 2000)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measurements" / "growth.md")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "growth", help="samples are kept here")
    parser.add_argument("--child", choices=[*MODES, *PEAKS], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    bundle = open_bundle(args.bundle)
    if args.child:
        print(json.dumps(run(bundle, args.child, args.requests)))
        return 0
    about = {"bundle": bundle.name, "digest": bundle.digest[:12], "requests": args.requests}
    about |= {"machine": machine.describe(), "code": source_digest()}
    args.work.mkdir(parents=True, exist_ok=True)
    log = Log(args.work / f"{bundle.digest[:12]}-{args.requests}.json", about)
    for name in [*MODES, *PEAKS * REPEATS][len(log.rounds) :]:
        command = [sys.executable, __file__, str(args.bundle), "--requests", str(args.requests), "--child", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8")
        log.add({"name": name} | json.loads(done.stdout.splitlines()[-1]))
        print(f"{name}: done", file=sys.stderr, flush=True)
    found = about | {"created": datetime.now(UTC).isoformat(timespec="seconds")} | figures(log.rounds)
    args.page.parent.mkdir(parents=True, exist_ok=True)
    atomic_file(args.page, page(found).encode())
    atomic_file(args.page.with_suffix(".json"), json.dumps(found | {"raw": log.rounds}).encode())
    return 0


def run(bundle: Bundle, name: str, count: int) -> dict[str, Any]:
    """Resident memory in MB: samples along the requests of a mode, or the most while one text was spoken."""
    if name in MODES:
        return {"samples": list(sampled(name, ended(bundle, name, requests(WARM + count))))}
    text = texts.latency()["long"] if name.startswith("long") else paragraph(20_000)
    with Engine(bundle) as engine:
        loaded = resident("VmRSS")
        chunk = FIRST_CHUNK if name.endswith("streamed") else 0
        events = stream(engine, Request("peak", text, seed=1, chunk_frames=chunk))
        audio = sum(event.audio.seconds for event in events if event.audio)
        return {"characters": len(text), "audio, s": audio, "after load": loaded, "peak": resident("VmHWM")}


def requests(count: int) -> Iterator[Request]:
    """Sentences and paragraphs in turn, a seed for each; every other one streamed, and the next time the rest."""
    said = texts.evaluation() + texts.calibration() + [*texts.latency().values(), paragraph(400), paragraph(1000)]
    for k in range(count):
        streamed = (k % len(said) + k // len(said)) % 2
        yield Request(f"{k}", said[k % len(said)], seed=k, chunk_frames=FIRST_CHUNK * streamed)


def ended(bundle: Bundle, mode: str, asked: Iterator[Request]) -> Iterator[Event]:
    """The last event of each request; in a pool, some requests always wait."""
    if mode == "engine":
        with Engine(bundle) as engine:
            yield from (event for request in asked for event in stream(engine, request) if event.done)
        return
    with Pool(bundle) as pool:
        for request in islice(asked, 4 * pool.workers):
            pool.submit(request)
        for event in pool.events():
            if event.done:
                for request in islice(asked, 1):
                    pool.submit(request)
                yield event


def sampled(mode: str, ends: Iterator[Event]) -> Iterator[tuple[int, float]]:
    """Requests since the warm-up, and resident memory."""
    for k, event in enumerate(ends, 1 - WARM):
        assert event.reason == "stop", event.error
        if k >= 0 and k % EVERY == 0:
            yield k, resident("VmRSS")
        if k % 100 == 0:
            print(f"{MODES[mode]}: {k + WARM} requests, {resident('VmRSS'):.1f} MB", file=sys.stderr, flush=True)


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Tables by row and column: growth and slope of each mode, medians of each peak, ratios of peaks."""
    modes, peaks = {}, {}
    for name, words in MODES.items():
        at, held = np.array(next(r["samples"] for r in runs if r["name"] == name)).T
        fifth = -(-len(held) // 5)
        first, last = (float(np.median(part)) for part in (held[:fifth], held[-fifth:]))
        slope = 1000 * float(np.polyfit(at, held, 1)[0])
        modes[words] = {"samples": len(held), "first fifth": first, "last fifth": last, "growth": last - first}
        modes[words] |= {"slope per 1,000 requests": slope, "most": float(held.max())}
    for name in PEAKS:
        same = [r for r in runs if r["name"] == name]
        peaks[name] = {"processes": len(same)}
        peaks[name] |= {k: statistics.median(r[k] for r in same) for k in same[0] if k != "name"}
    most = {name: peak["peak"] for name, peak in peaks.items()}
    ratios = {how: most[f"book, {how}"] / most[f"long, {how}"] for how in HOW}
    return {"modes": modes, "peaks": peaks, "ratios": ratios}


def page(found: dict[str, Any]) -> str:
    facts = found["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["packages"].items() if k in ("vivace", "onnxruntime", "openvino"))
    modes, peaks = (
        [[name, *(f"{v:,}" if isinstance(v, int) else f"{v:.1f}" for v in row.values())] for name, row in told.items()]
        for told in (found["modes"], found["peaks"])
    )
    lines = [
        "# Memory over many requests and long texts",
        "",
        f"`{found['bundle']}`, digest {found['digest']}, {found['created'][:10]}. {facts['cpu']}, {facts['cores']} "
        f"cores, Python {facts['python']}; {versions}. Resident memory of one process in MB (10^6 bytes).",
        "",
        f"{found['requests']:,} requests after {WARM} to warm up: sentences and paragraphs of up to 1,000 characters "
        f"in turn, a seed for each, half of them streamed. A sample every {EVERY} requests; medians of the first and "
        "the last fifth, the slope over all.",
        "",
        *table(["", *found["modes"][MODES["engine"]]], modes),
        "",
        "The most while one text is spoken in a fresh process; medians. The peak of the book is "
        f"{' and '.join(f'{ratio:.2f} ({how})' for how, ratio in found['ratios'].items())} times that of the long "
        "sentence. Made by `python benchmarks/growth.py`.",
        "",
        *table(["", *found["peaks"][PEAKS[0]]], peaks),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
