"""vivace optimize: smaller and faster, or refused with the reason."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from vivace.cli._common import (
    MODEL_HELP,
    add_settings,
    find_bundle,
    pairs,
    print_json,
    progress,
    read_settings,
    table,
)
from vivace.core.errors import EXIT_BUDGET_NOT_MET, EXIT_OK, UsageError
from vivace.core.settings import parse

HELP = """Applies passes one by one. After each, parent and child speak the same texts with the same noise on this
machine, interleaved; the child is kept only if it is measurably faster (or smaller, where that is the objective) and
its quality is statistically not worse than the stated margin. What is refused is reported with the reason.
Interrupt it and run the same command again: it goes on where it was.

  vivace optimize voice -o small --recipe small
  vivace optimize voice -o mine --recipe mine.toml --min-speedup 1.5
  vivace optimize voice -o one --pass int8_static --set stages=flow --set method=minmax
  vivace optimize voice -o best --search --minutes 10

--search finds a recipe by measurement: runtime, precision and layout of each stage, INT8 of each part of it. The gate
judges the best that was found, then safer ones, until one is kept; evidence/recipe.toml of the result names its passes.
Recipes and the settings of passes: vivace list recipes, vivace list passes.
Exit code 3 if nothing was kept or the asked budget (--min-speedup, --max-mb) was not met.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    from vivace.workflows.gate import Settings

    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("-o", "--out", required=True, type=Path, help="the optimized bundle, with its evidence")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", help="a recipe's name, or the path of a .toml file")
    what.add_argument("--pass", dest="pass_", metavar="PASS", help="a single pass")
    what.add_argument("--search", action="store_true", help="find by measurement what each part should compute in")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of --pass")
    parser.add_argument(
        "--objective",
        help="what --pass must improve: speed, size (default: what the pass is for); or --search: latency (default), "
        "throughput, size",
    )
    parser.add_argument("--minutes", help="for trying, in --search (default 10); the verdict takes its own time after")
    parser.add_argument("--metrics", default="", help="names with commas between (default: all)")
    parser.add_argument("--evaluation", type=Path, help="your own evaluation sentences, one a line, or labelled clips")
    parser.add_argument("--calibration", type=Path, help="your own calibration sentences, one a line, or clips")
    parser.add_argument("--training", type=Path, help="labelled clips, for passes that train")
    parser.add_argument(
        "--custom", action="append", default=[], metavar="MODULE:CLASS", help="a class that a pass needs to train on"
    )
    parser.add_argument("--force", action="store_true", help="replace the output folder if it exists")
    parser.add_argument("--keep-work", action="store_true", help="keep every candidate and clip beside the output")
    add_settings(parser.add_argument_group("the gate"), Settings)  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> int:
    from vivace.workflows import _task, gate
    from vivace.workflows.optimize import work_folder

    settings = read_settings(args, gate.Settings, "optimize")
    work = _work(args)
    bundle = find_bundle(args.model)
    task = _task.of(bundle, args.evaluation, args.calibration, args.training)
    kept = work_folder(args.out)
    if kept.is_dir() and not args.quiet:
        print(
            f"vivace: goes on where an earlier run stopped, with what fits of it (to begin anew, delete {kept})",
            file=sys.stderr,
        )
    with progress(args) as tell:
        result = work(
            bundle,
            args.out,
            settings=settings,
            metrics=[name.strip() for name in args.metrics.split(",") if name.strip()],
            task=task,
            overwrite=args.force,
            keep_work=args.keep_work,
            command=shlex.join(["vivace", *sys.argv[1:]]),
            progress=tell,
        )
    if args.json:
        print_json(asdict(result.report))
    else:
        show(result.report.details)
        print(f"bundle: {result.bundle.path}\nreport: {result.bundle.path / 'evidence' / 'report.html'}")
    return EXIT_OK if result.met else EXIT_BUDGET_NOT_MET


def _work(args: argparse.Namespace) -> Callable[..., Any]:
    """The workflow that was asked for, with its own arguments. Raises UsageError for flags of another."""
    from vivace.workflows import recipe
    from vivace.workflows.optimize import optimize
    from vivace.workflows.search import Settings, search

    if args.minutes is not None and not args.search:
        raise UsageError("--minutes belongs to --search")
    if args.search:
        if args.set:
            raise UsageError("--set belongs to --pass; a search finds the settings")
        if args.custom:
            raise UsageError("--custom belongs to --pass and --recipe; a search trains nothing")
        given = {key: value for key in ("objective", "minutes") if (value := getattr(args, key)) is not None}
        return partial(search, wanted=parse(Settings, given, "optimize", flags=True))
    if args.recipe and (args.set or args.objective):
        raise UsageError("--set and --objective belong to --pass; a recipe has them in its .toml file")
    if args.recipe:
        return partial(optimize, recipe=recipe.load(args.recipe), custom=args.custom)
    if args.objective not in (None, *recipe.OBJECTIVES):
        raise UsageError(f"--objective is {args.objective!r}; with --pass, choose from {', '.join(recipe.OBJECTIVES)}")
    single = recipe.single(args.pass_, pairs(args.set), args.objective or "")
    return partial(optimize, recipe=single, custom=args.custom)


def show(details: dict[str, Any] | Any) -> None:
    """The verdict, the variants and the passes, as tables on standard output."""
    from vivace.workflows._report_tables import megabytes, named, number
    from vivace.workflows._stopwatch import BUSY, busy_words

    first = details["variants"][0]
    shown = [m for m in ("predicted_mos", "dnsmos", "wer", "accuracy") if m in first["scores"]]
    speed = {row["text"]: f"{row['text']} ms" for row in first["latency"]}
    rows = []
    for v in details["variants"]:
        overall = v["overall"]
        rows.append(
            [
                named(v["label"])[0] + ("" if v["kept"] else " (refused)"),
                megabytes(v["size_mb"]),
                *(number(row["p50_ms"]) for row in v["latency"]),
                "1.00" if overall is None else f"{overall['value']:.2f} [{overall['low']:.2f}, {overall['high']:.2f}]",
                *(f"{v['scores'][m]['value']:.3f}" for m in shown),
            ]
        )
    table("Variants", ["variant", "MB", *speed.values(), "times original", *shown], rows)
    verdicts = [
        [
            named(t["label"])[0],
            "kept" if t["kept"] else "refused",
            "; ".join(t["reasons"]) or "faster or smaller, not worse",
        ]
        for t in details["trials"]
    ]
    candidates = [named(t["label"]) for t in details["trials"]]
    if any(words for _, words in candidates):
        table("Candidates", ["candidate", "verdict", "why"], verdicts)
        print("\n".join(f"{name}: {words}" for name, words in candidates))
    else:
        table("Passes", ["pass", "verdict", "why"], verdicts)
    if (waited := details.get("waited_share") or 0.0) >= BUSY:
        print(busy_words(waited))
    print(details["verdict"])
