"""Machines and money for so many listeners, from the load that was measured: the tables of docs/sizing.md.

    python scripts/sizing.py                                   the tables, with the assumptions below
    python scripts/sizing.py --listeners 500 --duty 0.3 --machine-cores 16 --core-hour 0.031
    python scripts/sizing.py --write                           puts the tables into docs/sizing.md

Standard library alone. Prices are assumptions: put yours in.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/sizing.md"
LISTENERS = (1, 1_000, 1_000_000)
FORMATS = {"opus": 48, "mp3": 96, "aac": 96, "pcm": 384}  # kilobits a second of speech
HOURS = 730  # of a month


@dataclass(frozen=True)
class Point:
    """A load under which the server was measured: seconds of speech a second, on `cores` cores."""

    name: str
    speech: float
    cores: int
    ttfa_p95: float
    underruns: int

    @property
    def each(self) -> float:
        """Core-seconds for a second of speech, as bought: idle time at this load included."""
        return self.cores / self.speech


@dataclass(frozen=True)
class Need:
    cores: float
    machines: int
    dollars: float  # a month, machines
    megabits: float  # a second
    egress: float  # dollars a month


def points(measured: dict[str, object]) -> list[Point]:
    """Of docs/measurements/load.json: at random arrivals, which is what to buy for, and the most that was got out."""
    found = json.loads(json.dumps(measured))
    cores = found["machine"]["cores"]
    most = max(found["loads"], key=lambda load: load["speech_per_second"])
    named = (("requests at random", found["open"]), (f"{most['clients']} clients that never rest", most))
    return [
        Point(name, load["speech_per_second"], cores, load["ttfa_ms"]["p95"], load["underruns"]) for name, load in named
    ]


def need(
    point: Point, listeners: int, *, duty: float, machine_cores: int, spare: float, core_hour: float,
    kilobits: float, gigabyte: float,
) -> Need:  # fmt: skip
    """`duty`: share of the time in which a listener is spoken to; `spare`: share of the machines that may be missing;
    `core_hour` and `gigabyte` in dollars."""
    speech = listeners * duty
    cores = speech * point.each
    machines = math.ceil(cores / machine_cores)
    machines += math.ceil(spare * machines) if listeners > 1 else 0
    megabits = speech * kilobits / 1000
    return Need(
        cores, machines, machines * machine_cores * core_hour * HOURS, megabits,
        megabits / 8 * 3600 * HOURS / 1000 * gigabyte,
    )  # fmt: skip


def tables(args: argparse.Namespace) -> str:
    found = points(json.loads(args.load.read_text(encoding="utf-8")))
    lines = [
        "| measured load | speech per second, 2 cores | core-seconds per second of speech | TTFA p95, ms | underruns |",
        "|---|---|---|---|---|",
        *(f"| {p.name} | {p.speech:.1f} | {p.each:.4f} | {p.ttfa_p95:.0f} | {p.underruns} |" for p in found),
        "",
        f"At the first of them; {args.machine_cores} cores a machine, {args.core_hour:g} dollars a core-hour, "
        f"{args.spare:.0%} of the machines to spare (1 at least), {args.format} at {args.kilobits:g} kbit/s, "
        f"{args.gigabyte:g} dollars a GB, a month of {HOURS} hours:",
        "",
        "| listeners | spoken to | cores | machines | machines, $ a month | Mbit/s out | traffic, $ a month "
        "| $ for an hour of speech |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for listeners in args.listeners:
        for duty in args.duty:
            n = need(
                found[0], listeners, duty=duty, machine_cores=args.machine_cores, spare=args.spare,
                core_hour=args.core_hour, kilobits=args.kilobits, gigabyte=args.gigabyte,
            )  # fmt: skip
            hour = (n.dollars + n.egress) / (listeners * duty * HOURS)
            lines.append(
                f"| {listeners:,} | {duty:.0%} of the time | {_short(n.cores)} | {n.machines:,} | {n.dollars:,.0f} | "
                f"{_short(n.megabits)} | {n.egress:,.0f} | {hour:.4f} |"
            )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def page(text: str, made: str) -> str:
    """The page with the tables between its marks replaced."""
    return re.sub(r"(<!-- sizing -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{made}\n{m[2]}", text, flags=re.S)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--load", type=Path, default=ROOT / "docs/measurements/load.json", help="by benchmarks/load.py")
    made.add_argument("--listeners", type=int, nargs="+", default=list(LISTENERS))
    made.add_argument("--duty", type=float, nargs="+", default=[1.0, 0.3], help="share of the time spoken to")
    made.add_argument("--machine-cores", type=int, default=8)
    made.add_argument("--spare", type=float, default=0.15, help="share of the machines")
    made.add_argument("--core-hour", type=float, default=0.04, help="dollars")
    made.add_argument("--format", choices=FORMATS, default="opus")
    made.add_argument("--kilobits", type=float, help="a second of speech, if not the format's own")
    made.add_argument("--gigabyte", type=float, default=0.05, help="dollars for traffic out")
    made.add_argument("--write", action="store_true", help="into docs/sizing.md")
    return made


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    args.kilobits = args.kilobits or FORMATS[args.format]
    if min(*args.listeners, args.machine_cores) < 1 or not all(0 < duty <= 1 for duty in args.duty):
        raise SystemExit("listeners and cores must be at least 1, and a duty between 0 and 1")
    made = tables(args)
    if args.write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        print(made)


if __name__ == "__main__":
    main()
