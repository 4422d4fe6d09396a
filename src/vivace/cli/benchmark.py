"""vivace benchmark: several models side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from vivace.cli._common import MODEL_HELP, find_bundle, progress, table, write_out
from vivace.core.errors import EXIT_OK, UsageError
from vivace.core.report import Report

HELP = """Times models on short, medium and long text, interleaved in one run after warm-up; the first is the yardstick.
Speed is a ratio of medians with its 95% interval. RTF is compute over audio: lower is faster. Streamed: TTFA is the
time to the first audio, gap the longest wait between two chunks, left the least that a listener had left to play
(below 0 the voice is too slow to be heard while it is made).

  vivace benchmark voice small --threads 1
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", help=MODEL_HELP)
    parser.add_argument("--threads", type=int, default=1, help="threads of every model (default 1)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("-o", "--out", type=Path, help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    from vivace.workflows.benchmark import benchmark

    if len(set(args.models)) != len(args.models):
        raise UsageError("a model is named twice")
    names = [Path(m).name for m in args.models]
    labels = names if len(set(names)) == len(names) else args.models
    arms = {label: find_bundle(model) for label, model in zip(labels, args.models, strict=True)}
    with progress(args) as tell:
        report = benchmark(arms, threads=args.threads, rounds=args.rounds, progress=tell)
    if args.out:
        write_out(args.out, report.to_json().encode())
    if args.json:
        print(report.to_json())
    else:
        _show(report, list(arms))
    return EXIT_OK


def _show(report: Report, arms: list[str]) -> None:
    from vivace.workflows.benchmark import threads_words

    rows = []
    for arm in arms:
        for p50 in [m for m in report.measurements if m.name == f"{arm}/latency_p50"]:
            p95, rtf, ttfa, gap, low, up = (
                report.get(f"{arm}/{n}", p50.scope)
                for n in ("latency_p95", "rtf", "ttfa", "worst_gap", "buffer_low", "speedup")
            )
            rows.append(
                [
                    arm,
                    p50.scope.split(",")[0],
                    f"{p50.value:.1f}",
                    f"{p95.value:.1f}",
                    f"{rtf.value:.4f}",
                    f"{ttfa.value:.1f}",
                    f"{gap.value:.1f}",
                    f"{low.value:.0f}",
                    f"{up.value:.2f} [{up.low:.2f}, {up.high:.2f}]",
                ]
            )
    title = f"{threads_words(report.settings['threads'])}, {report.settings['rounds']} rounds, {report.machine['cpu']}"
    table(title, ["model", "text", "p50 ms", "p95 ms", "RTF", "TTFA ms", "gap ms", "left ms", f"times {arms[0]}"], rows)
    sizes = [
        [arm, *(f"{report.get(f'{arm}/{n}').value:.1f}" for n in ("size", "memory_loaded", "memory_peak"))]
        + [f"{report.get(f'{arm}/load').value:.2f}"]
        for arm in arms
    ]
    table("Size and memory", ["model", "size MB", "loaded MB", "peak MB", "load s"], sizes)
