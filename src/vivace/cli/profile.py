"""vivace profile: where the time goes."""

from __future__ import annotations

import argparse
from pathlib import Path

from vivace.cli._common import MODEL_HELP, find_bundle, progress, write_out
from vivace.core.errors import EXIT_OK, UsageError
from vivace.core.machine import cache_folder

HELP = """Times every stage on short to long text, counts its operations, and sets them against what this machine can do
(matrix product and memory bandwidth, measured once and cached). Says in words what limits the voice. Of a model that
makes its frames step by step it also shows what a step costs after how many frames, and many texts together: latency,
throughput, the cache of each.

  vivace profile voice
  vivace profile voice --threads 2 --plot profile.html
  vivace profile voice --trace trace.json    (open it in ui.perfetto.dev)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--threads", type=int, default=1, help="threads of every stage (default 1)")
    parser.add_argument(
        "--runs", type=int, default=7, help="timed runs of every text, fewer where they take long (default 7)"
    )
    parser.add_argument(
        "--batches",
        help="texts together, with commas between (default 1,2,4,8; 1,4,16,32 of a model that makes frames stepwise)",
    )
    parser.add_argument("--plot", type=Path, help="write the plots as one HTML file")
    parser.add_argument(
        "--trace", type=Path, help="write when each step of the engine and each stage ran, for ui.perfetto.dev (JSON)"
    )
    parser.add_argument("-o", "--out", type=Path, help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    from vivace.cli._profile_view import render_table
    from vivace.workflows.profile import plot, profile, write_timeline

    try:
        batches = [int(b) for b in args.batches.split(",")] if args.batches else None
    except ValueError:
        raise UsageError(f"--batches is {args.batches!r}; it must be numbers with commas between") from None
    bundle = find_bundle(args.model)
    with progress(args) as tell:
        if args.trace:
            tell("writing the trace", 0.0)
            write_timeline(bundle, args.trace, threads=args.threads)
        report = profile(
            bundle, threads=args.threads, runs=args.runs, batches=batches, progress=tell, cache=cache_folder()
        )
    if args.out:
        write_out(args.out, report.to_json().encode())
    if args.plot:
        plot(report, args.plot)
    if args.json:
        print(report.to_json())
    else:
        from rich.console import Console

        for part in render_table(report):
            Console().print(part)
    return EXIT_OK
