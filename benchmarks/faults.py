"""The server while its voices fail: who gets audio, and how soon is it whole again? docs/measurements/faults.md.

    python benchmarks/faults.py FAST SAFE         a chain of two bundles of one voice; about four minutes
    python benchmarks/faults.py FAST SAFE --kills 1    tries it, no page

Under four clients that never rest, the process of FAST is killed (SIGKILL), again and again; it gets no more memory for
a while; then a file of it is damaged before it is killed once more. At last its numbers are none.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import load
import soak
from vivace.core import machine
from vivace.core.bundle import Bundle, open_bundle
from vivace.workflows import texts

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "faults.md"
CLIENTS = 4
KILLS = 10
UNHEARD = "ʒ"  # of no word that is spoken to warm up
BETWEEN = 5.0  # seconds between two faults, and until a damaged one must be seen
LIMIT = 30.0  # seconds until the killed one must speak again


@dataclass(frozen=True)
class Answer:
    """Seconds on the clock when it was asked for and when its first audio came; `end`: whole, cut, or its status."""

    asked: float
    first: float
    variant: str
    end: str


def ask(text: str, seed: int) -> Answer:
    asked, first, variant = time.perf_counter(), 0.0, ""
    connection = http.client.HTTPConnection("127.0.0.1", load.PORT, timeout=60)
    body = json.dumps({"model": "voice", "input": text, "response_format": "pcm", "seed": seed})
    try:
        connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
        got = connection.getresponse()
        variant = got.headers.get("X-Vivace-Variant", "")
        if got.status != 200:
            return Answer(asked, 0.0, variant, str(got.status))
        got.read(1)
        first = time.perf_counter()
        got.read()
        return Answer(asked, first, variant, "whole")
    except (http.client.HTTPException, OSError):
        return Answer(asked, first, variant, "cut" if first else "nothing")
    finally:
        connection.close()


@contextmanager
def clients() -> Iterator[list[Answer]]:
    """The answers so far of CLIENTS that ask again as soon as they were answered."""
    answers: list[Answer] = []
    stop = threading.Event()
    said = texts.evaluation()

    def client(number: int) -> None:
        for k in range(number, 1_000_000, CLIENTS):
            if stop.is_set():
                return
            answers.append(ask(said[k % len(said)], k))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def metric(name: str, variant: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{load.PORT}/metrics", timeout=10) as page:
        found = re.search(rf'^{name}{{[^}}]*variant="{variant}"}} (\S+)', page.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def speakers(server: int) -> list[int]:
    """The processes of its variants, the eldest first."""
    return [pid for pid in soak.family(server) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def killed(server: int, safe: int, name: str, kills: int) -> dict[str, Any]:
    """Seconds from a kill to the next first audio of anybody, until the killed one can speak, and until it does."""
    gaps, ups, backs, waits = [], [], [], []
    with clients() as answers:
        time.sleep(BETWEEN)
        for k in range(kills):
            (fast,) = (pid for pid in speakers(server) if pid != safe)
            os.kill(fast, signal.SIGKILL)
            at = time.perf_counter()
            time.sleep(0.2)  # until then its death may not be seen
            while not metric("vivace_variant_up", name):
                if time.perf_counter() > at + LIMIT:
                    raise SystemExit(f"{name} does not come back")
                time.sleep(0.05)
            ups.append(time.perf_counter() - at)
            # an answer of the old process that was sent already may be read just behind the kill
            while not (back := [a.first for a in answers if a.variant == name and a.first and a.asked > at]):
                if time.perf_counter() > at + LIMIT:
                    raise SystemExit(f"{name} does not speak again")
                time.sleep(0.05)
            backs.append(min(back) - at)
            later = [a for a in answers if a.first > at and a.asked < min(back)]
            gaps.append(min(a.first for a in later) - at)
            waits.append(max(a.first - a.asked for a in later))
            time.sleep(BETWEEN)
            if metric("vivace_replica_deaths_total", name) != k + 1:
                raise SystemExit(f"another process than that of {name} was killed")
    return {
        "kills": kills, "gap_s": gaps, "up_s": ups, "back_s": backs, "wait_s": waits, "answers": ends(answers),
    }  # fmt: skip


def starved(server: int, safe: int, name: str) -> dict[str, Any]:
    """Its process gets no more memory for a while: what it then cannot speak is the next one's."""
    (fast,) = (pid for pid in speakers(server) if pid != safe)
    before = metric("vivace_variant_failures_total", name)
    with clients() as answers:
        time.sleep(1)
        begun = time.perf_counter()
        resource.prlimit(fast, resource.RLIMIT_DATA, (1, resource.RLIM_INFINITY))
        time.sleep(BETWEEN)
        if fast in speakers(server):  # else another one runs in its place, which may have what it wants
            resource.prlimit(fast, resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        at = time.perf_counter()
        while not (back := [a.first for a in answers if a.variant == name and a.first and a.asked > at]):
            if time.perf_counter() > at + LIMIT:
                raise SystemExit(f"{name} does not speak again")
            time.sleep(0.05)
        meanwhile = [a for a in answers if begun < a.asked < at]
    failed = metric("vivace_variant_failures_total", name) - before
    return {"answers": ends(meanwhile), "failures": failed, "back_s": min(back) - at}


def poisoned(bundle: Path, out: Path) -> Bundle:
    """A Piper voice whose vector of the phoneme UNHEARD is none: it comes up, and fails the texts that hold it."""
    whole = open_bundle(bundle)
    file = whole.stage("text").file

    def change(folder: Path) -> None:
        symbols = json.loads((folder / "voice.json").read_text(encoding="utf-8"))["phoneme_id_map"]
        model = onnx.load(str(folder / file))
        table = next(node.input[0] for node in model.graph.node if node.op_type == "Gather" and "input" in node.input)
        weights = next(i for i in model.graph.initializer if i.name == table)
        values = numpy_helper.to_array(weights).copy()
        values[symbols[UNHEARD]] = np.nan
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        onnx.save(model, str(folder / file))

    return whole.derive(out, None, change)


def none(name: str) -> dict[str, Any]:
    """Its numbers are none, for some texts."""
    with clients() as answers:
        time.sleep(4 * BETWEEN)
    waits = [a.first - a.asked for a in answers if a.variant != name]
    return {"answers": ends(answers), "failures": metric("vivace_variant_failures_total", name), "wait_s": waits}


def damaged(server: int, safe: int, bundle: Path, name: str) -> dict[str, Any]:
    """A file of it is overwritten before its process is killed: it must stay away, and be seen to."""
    (fast,) = (pid for pid in speakers(server) if pid != safe)
    with clients() as answers:
        time.sleep(1)
        (bundle / open_bundle(bundle).stages[-1].file).write_bytes(b"damaged")
        os.kill(fast, signal.SIGKILL)
        time.sleep(BETWEEN)
        states = {name_: metric(f"vivace_{name_}", name) for name_ in ("variant_up", "breaker_state")}
    return states | {"answers": ends(answers)}


def ends(answers: Sequence[Answer]) -> dict[str, int]:
    return dict(sorted(Counter(f"{a.end} by {a.variant}" if a.variant else a.end for a in answers).items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fast", type=Path)
    parser.add_argument("safe", type=Path)
    parser.add_argument("--kills", type=int, default=KILLS)
    args = parser.parse_args()
    safe = open_bundle(args.safe)
    with tempfile.TemporaryDirectory() as folder:
        fast = Path(folder) / "fast"
        shutil.copytree(args.fast, fast)
        found: dict[str, Any] = {
            "machine": machine.describe(), "name": safe.name, "fast": open_bundle(fast).digest, "safe": safe.digest,
        }  # fmt: skip
        with load.server(Path(f"{fast},{args.safe.resolve()}")) as pid:
            last = speakers(pid)[-1]
            found["killed"] = killed(pid, last, fast.name, args.kills)
            found["starved"] = starved(pid, last, fast.name)
            found["damaged"] = damaged(pid, last, fast, fast.name)
        bad = poisoned(args.fast, Path(folder) / "poisoned")
        with load.server(Path(f"{bad.path},{args.safe.resolve()}")):
            found["none"] = none(bad.path.name)
    print(page(found), file=sys.stderr)
    if args.kills >= KILLS:
        PAGE.write_text(page(found), encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def page(found: dict[str, Any]) -> str:
    m, k, d, s, n = (found[part] for part in ("machine", "killed", "damaged", "starved", "none"))

    def told(answers: dict[str, int]) -> str:
        return ", ".join(f"{count} {end}" for end, count in answers.items())

    def spread(seconds: Sequence[float]) -> str:
        return f"{statistics.median(seconds):.2f} ({max(seconds):.2f} at most)"

    lines = [
        "# The server while its voices fail",
        "",
        f"`{found['name']}`: a chain of `fast` (digest {found['fast'][:12]}) and the voice as it was imported (digest "
        f"{found['safe'][:12]}), {time.strftime('%Y-%m-%d')}. {m['cpu']}, {m['cores']} cores. Made by "
        f"`python benchmarks/faults.py`: {CLIENTS} clients on the same machine that never rest, pcm over HTTP.",
        "",
        f"The process of `fast` was killed (SIGKILL) {k['kills']} times. Seconds, median of the kills:",
        "",
        "| from the kill to the next first audio of anybody | until `fast` can speak again | to its first audio, for "
        "the next client that asks | longest wait for first audio of who asked until then |",
        "|---|---|---|---|",
        f"| {spread(k['gap_s'])} | {spread(k['up_s'])} | {spread(k['back_s'])} | {spread(k['wait_s'])} |",
        "",
        f"Answers: {told(k['answers'])}. Cut: audio had gone out when its process was killed, so that nobody else may "
        "go on in its place; the connection ends without the last chunk, as HTTP says it.",
        "",
        f"Then its process got no more memory for {BETWEEN:g} s (RLIMIT_DATA). Who asked meanwhile: "
        f"{told(s['answers'])}; {s['failures']:g} failures in `/metrics`. Its own first audio, for the next client "
        f"that it was given, {s['back_s']:.2f} s after that.",
        "",
        f"Then a file of `fast` was overwritten and its process killed: {told(d['answers'])}. {BETWEEN:g} s later "
        f"`vivace_variant_up` was {d['variant_up']:g} and `vivace_breaker_state` {d['breaker_state']:g} (0 closed, 1 "
        "half open, 2 open).",
        "",
        f"At last `fast` with weights that are no numbers, for the phoneme {UNHEARD} alone: {told(n['answers'])}; "
        f"{n['failures']:g} failures in `/metrics`. First audio of what the original spoke: {spread(n['wait_s'])} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
