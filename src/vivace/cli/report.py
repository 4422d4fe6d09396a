"""vivace report: the evidence of an optimized bundle."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path

from vivace.cli._common import print_json, show_listeners
from vivace.cli.optimize import show
from vivace.core.bundle import EVIDENCE, MANIFEST, atomic_folder, open_bundle
from vivace.core.errors import EXIT_OK, UsageError
from vivace.core.report import Report

HELP = """Shows the verdict of an optimized bundle, or writes its report anew (HTML, Markdown, JSON and clips) from the
figures it holds. Also turns a JSON report of evaluate, benchmark or profile into the same forms.

  vivace report small
  vivace report small -o report
  vivace report evaluation.json -o report
  vivace report small --listened test.sqlite -o report   with what people said in a listening test
"""
AUDIO = "audio"  # the folder of a report's clips


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="an optimized bundle, or a report as JSON")
    parser.add_argument("-o", "--out", type=Path, help="write report.html, report.md, report.json into this folder")
    parser.add_argument("--listened", type=Path, metavar="TEST", help="a listening test that its bundles were rated in")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def run(args: argparse.Namespace) -> int:
    from vivace.workflows.report import render_markdown, write_report

    source: Path = args.source
    if not source.exists():
        raise UsageError(f"{source} does not exist; give an optimized bundle, or a report as JSON")
    if (source / MANIFEST).exists():
        open_bundle(source)
        source = source / EVIDENCE / "report.json"
        if not source.exists():
            raise UsageError(f"{args.source} holds no evidence; it is made by: vivace optimize")
    try:
        report = Report.from_json(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{source} is no report of Vivace ({error})") from None
    if args.listened:
        from vivace.listening.store import Store
        from vivace.workflows.listening import with_listeners

        report = with_listeners(report, Store(args.listened))
    if args.out:
        if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / "report.json").exists():
            raise UsageError(f"{args.out} holds no report and is not replaced; choose another folder")
        with atomic_folder(args.out, overwrite=args.force) as folder:
            names = []
            if (source.parent / AUDIO).is_dir():
                shutil.copytree(source.parent / AUDIO, folder / AUDIO)
                names.append(AUDIO)
            names = [file.name for file in write_report(report, folder)] + names
        files = [args.out / name for name in names]
        if args.json:
            print_json({"files": files})
        else:
            print("\n".join(map(str, files)))
            if AUDIO in names:
                print(f"The report plays the clips in {args.out / AUDIO}: keep that folder beside it.")
    elif args.json:
        print_json(asdict(report))
    elif report.kind == "optimize":
        show(report.details)
        if report.details.get("listening"):
            show_listeners(report.details["listening"])
    else:
        print(render_markdown(report))
    return EXIT_OK
