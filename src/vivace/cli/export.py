"""vivace export: the model as other tools load it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vivace.cli._common import MODEL_HELP, find_bundle, print_json
from vivace.core.errors import EXIT_OK

HELP = """Writes a bundle in its family's own format. A Piper bundle becomes one NAME.onnx with NAME.onnx.json, as
piper-tts loads them, and NAME.tokens.txt for sherpa-onnx, which finds its metadata inside the model. A Coqui bundle
becomes a folder with config.json and model_file.pth. With --to, a voice of one is written as the other.

  vivace export small -o voices                 voices/NAME.onnx and its companions
  vivace export small -o voices/small.onnx
  vivace export joe -o joe-coqui --to coqui     a Piper voice for coqui-tts

What was proven of a bundle holds for the file where all stages run in ONNX Runtime, as after --recipe small or --search
--objective size; else it says so.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("-o", "--out", required=True, type=Path, help="a folder, or the model file itself")
    parser.add_argument("--to", default="", metavar="FAMILY", help="write another family's format: piper or coqui")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(args: argparse.Namespace) -> int:
    from vivace.workflows.export import export, unproven

    bundle = find_bundle(args.model)
    files = export(bundle, args.out, to=args.to, overwrite=args.force)
    if bundle.evidence and not bundle.history:
        print(f"note: no pass was kept in {bundle.name}: what is written is the original", file=sys.stderr)
    elif why := unproven(bundle):
        print(
            f"note: {why}; other tools run it otherwise, so that neither speed nor voice is proven for these files. "
            "For a file that is: optimize --recipe small, or --search --objective size",
            file=sys.stderr,
        )
    if args.json:
        print_json({"files": files})
    else:
        for file in files:
            size = file.stat().st_size
            print(f"{file} ({size / 1e6:.1f} MB)" if size >= 1e5 else f"{file} ({size / 1e3:.1f} kB)")
    return EXIT_OK
