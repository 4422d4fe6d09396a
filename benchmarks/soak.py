"""The server for a long time: does it grow, does it err, does a listener wait? docs/measurements/soak.md.

    python benchmarks/soak.py BUNDLE --minutes 10         arrivals at random; 80% of what it carries
    python benchmarks/soak.py BUNDLE --times 3            three times in a row, without a restart
    python benchmarks/soak.py BUNDLE --requests 2000      as fast as four clients can

Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import load
from vivace.core import machine
from vivace.core.bundle import open_bundle
from vivace.workflows import texts

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "soak.md"
EVERY = 2.0  # seconds between two looks at the memory
SHARE = 0.8  # of what 16 clients get out of it at the start
REST = 20.0  # seconds in which nothing is asked, before memory at rest is read


class Scale:
    """Looks at the memory of a server and its children until it is closed."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self.seen: list[tuple[float, float]] = []  # seconds, MB
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._begun = time.monotonic()
        self._thread.start()

    def _look(self) -> None:
        stopped = False
        while not stopped:
            self.seen.append((time.monotonic() - self._begun, sum(machine.resident(pid=p) for p in family(self._pid))))
            stopped = self._stop.wait(EVERY)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def family(pid: int) -> list[int]:
    """The process and its children, which Linux lists."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += [int(child) for child in task.read_text(encoding="ascii").split()]
    return found


def at_rest(pid: int) -> float:
    """MB of a server that nobody asks for anything: what is spoken at the moment is not counted as kept."""
    time.sleep(REST)
    return sum(machine.resident(pid=p) for p in family(pid))


def growth(seen: list[tuple[float, float]]) -> float:
    """MB from the second tenth of the time to the last one: the first warms up."""
    tenth = max(1, len(seen) // 10)
    part = [mb for _, mb in seen]
    return statistics.median(part[-tenth:]) - statistics.median(part[tenth : 2 * tenth] or part[:1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--requests", type=int, default=0, help="so many from 4 clients, instead of minutes")
    parser.add_argument("--times", type=int, default=1, help="so often in a row, one server: does it go on growing?")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    figures = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8")) if PAGE.exists() else {}
    with load.server(args.bundle) as pid:
        load.closed(texts.evaluation()[:50], 4)
        for turn in range(args.times):
            what, found = soaked(pid, args.minutes, args.requests, seed=turn)
            row = ", ".join([what, time.strftime("%Y-%m-%d"), *([f"turn {turn + 1}"] if args.times > 1 else [])])
            figures[row] = found | {"bundle": bundle.digest, "cpu": machine.describe()["cpu"]}
            print(f"{row}: {found['rest_mb']} MB at rest", file=sys.stderr)
    print(page(figures), file=sys.stderr)
    PAGE.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(figures), encoding="utf-8")
    return 0


def soaked(pid: int, minutes: float, requests: int, seed: int) -> tuple[str, dict[str, Any]]:
    """What was asked of the server, and what it made of it."""
    sentences, dice = texts.evaluation(), random.Random(seed)
    carried = load.closed(sentences * 2, 16)
    rate = SHARE * carried["speech_per_second"] / carried["seconds_each"]
    said = [dice.choice(sentences) for _ in range(requests or round(60 * minutes * rate))]
    rest = [at_rest(pid)]
    scale = Scale(pid)
    found = load.closed(said, 4) if requests else load.opened(said, rate, seed)
    scale.close()
    rest.append(at_rest(pid))
    again = load.closed(sentences * 2, 16)
    rest.append(at_rest(pid))
    what = f"{len(said)} requests, 4 clients" if requests else f"{minutes:g} minutes, {rate:.1f} a second"
    return what, found | {
        "carried": [carried["speech_per_second"], again["speech_per_second"]],
        "growth_mb": growth(scale.seen), "first_mb": scale.seen[0][1], "last_mb": scale.seen[-1][1], "rest_mb": rest,
    }  # fmt: skip


def page(figures: dict[str, Any]) -> str:
    lines = [
        "# The server for a long time",
        "",
        "Made by `python benchmarks/soak.py`. Requests come at random times, at "
        f"{SHARE:.0%} of what 16 clients that never rest get out of the server just before; what they get just after "
        "says how far the machine drifted. Memory is that of the server and its processes. At rest: before, behind the "
        f"run, and behind {2 * len(texts.evaluation())} requests more by 16 clients, each {REST:.0f} s after the last "
        "answer: what it keeps. "
        "While it speaks: growth from the second tenth of the time to the last, with whatever was being spoken at the "
        "moment. Turns follow each other in one server.",
        "",
        "| what | bundle | CPU | speech per second: asked for, carried before, after | answers | underruns "
        "| TTFA p50 / p95, ms | MB at rest | MB while it speaks, first to last, growth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, f in figures.items():
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(f["statuses"].items()))
        lines.append(
            f"| {name} | {f['bundle'][:12]} | {f['cpu']} | {f['speech_per_second']:.1f}, {f['carried'][0]:.1f}, "
            f"{f['carried'][1]:.1f} | {answers} | {f['underruns']} | {f['ttfa_ms']['p50']:.0f} / "
            f"{f['ttfa_ms']['p95']:.0f} | {', '.join(f'{mb:.0f}' for mb in f['rest_mb'])} | {f['first_mb']:.0f} to "
            f"{f['last_mb']:.0f}, {f['growth_mb']:+.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
