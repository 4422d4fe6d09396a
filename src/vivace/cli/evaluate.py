"""vivace evaluate: the quality of a voice, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from vivace.cli._common import MODEL_HELP, find_bundle, progress, show_listeners, table, write_out
from vivace.core.errors import EXIT_OK
from vivace.core.machine import cache_folder
from vivace.core.report import Report

HELP = """Speaks the evaluation sentences and scores every clip. Each figure comes with its 95% interval
(bootstrap by sentence). Predicted MOS is what a network (DistillMOS) thinks listeners would say, not what they said;
what they said in a listening test (vivace listen) stands in a table of its own.

  vivace evaluate voice
  vivace evaluate small --reference voice        also the metrics that compare clip with clip
  vivace evaluate voice --metrics predicted_mos,wer --texts 40
  vivace evaluate commands --dataset test        a model that listens: accuracy, F1, confusion
  vivace evaluate small --listened test.sqlite   with MOS by listeners, on the sentences that they heard
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--reference", help="a bundle or model that speaks the same sentences, to compare with")
    parser.add_argument("--metrics", default="", help="names with commas between (default: all, see vivace list)")
    parser.add_argument("--texts", type=int, help="how many of the built-in sentences (default 100)")
    parser.add_argument("--file", type=Path, help="your own sentences instead, one a line")
    parser.add_argument("--dataset", type=Path, help="labelled clips for a model that listens: a folder or manifest")
    parser.add_argument("--seed", type=int, help="of the noise (default 0)")
    parser.add_argument(
        "--listened", type=Path, metavar="TEST",
        help="a listening test that the bundle was rated in; its sentences and seed, unless you give others",
    )  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    from vivace.listening.store import Store as Listened
    from vivace.workflows import texts
    from vivace.workflows.clips import Store
    from vivace.workflows.evaluate import evaluate
    from vivace.workflows.listening import heard, with_listeners

    if args.dataset:
        return _listen(args)
    metrics = [name.strip() for name in args.metrics.split(",") if name.strip()]
    bundle = find_bundle(args.model)
    reference = find_bundle(args.reference) if args.reference else None
    store = Listened(args.listened) if args.listened else None
    if store:
        heard([bundle.digest], store)  # or it is told before the work, not after
    theirs = store if not args.file and args.texts is None else None
    if theirs:
        sentences = theirs.texts
    else:
        count = 100 if args.texts is None else args.texts
        sentences = texts.from_file(args.file) if args.file else texts.evaluation(count)
    seed = args.seed if args.seed is not None else theirs.seed if theirs else 0
    with progress(args) as tell:
        report = evaluate(
            bundle,
            sentences,
            metrics=metrics,
            reference=reference,
            seed=seed,
            store=Store(cache_folder() / "evaluate"),
            progress=tell,
        )
    if store:
        report = with_listeners(report, store)
    if args.out:
        write_out(args.out, report.to_json().encode())
    if args.json:
        print(report.to_json())
    else:
        _show(report, bundle.name)
    return EXIT_OK


def _show(report: Report, name: str) -> None:
    worst = report.details["worst_decile"]
    rows = [
        [
            m.name,
            f"{m.value:.3f}",
            f"[{m.low:.3f}, {m.high:.3f}]" if m.low is not None and m.high is not None else "",
            f"{worst[m.name]:.3f}" if m.name in worst else "",
            m.unit,
            {"up": "higher", "down": "lower", "none": ""}[m.better],
        ]
        for m in report.measurements
        if m.name in report.details["scores"]
    ]
    title = f"{name}: {report.settings['texts']} sentences, {report.details['audio_seconds']:.0f} s of speech"
    table(title, ["metric", "mean", "95% interval", "worst tenth", "unit", "better is"], rows)
    if report.details.get("listening"):
        show_listeners(report.details["listening"])
    if report.details["skipped"]:
        print(f"not measured without --reference: {', '.join(report.details['skipped'])}")


def _listen(args: argparse.Namespace) -> int:
    from vivace.workflows.classify import classify
    from vivace.workflows.dataset import read

    bundle = find_bundle(args.model)
    reference = find_bundle(args.reference) if args.reference else None
    with progress(args) as tell:
        report = classify(bundle, read(args.dataset), reference=reference, progress=tell)
    if args.out:
        write_out(args.out, report.to_json().encode())
    if args.json:
        print(report.to_json())
        return EXIT_OK
    rows = [
        [m.name, f"{100 * m.value:.2f}%", "" if m.low is None else f"[{100 * m.low:.2f}, {100 * (m.high or 0):.2f}]"]
        for m in report.measurements
    ]
    table(f"{bundle.name}: {report.measurements[0].scope}", ["metric", "value", "95% interval"], rows)
    columns = ["label", "clips", "precision", "recall", "f1", "taken for"]
    told = [
        [r["label"], str(r["clips"]), *(f"{r[k]:.3f}" for k in ("precision", "recall", "f1")), r["taken_for"]]
        for r in report.details["labels"]
    ]
    table("Labels", columns, told)
    if "mcnemar" in report.details:
        found = report.details["mcnemar"]
        print(
            f"against the reference: {found['only_child_right']} clips only now right, "
            f"{found['only_parent_right']} no longer right (McNemar p = {found['p']:.3g})"
        )
    return EXIT_OK
