"""vivace import: a model becomes a bundle."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from vivace.cli._common import SAMPLE, model_source, print_json, progress
from vivace.core.errors import EXIT_OK

HELP = """Turns a model into a bundle: a folder with the model's stages, its settings, and a digest of every file.
The import proves that the stages together equal the model.

  vivace import voice.onnx -o voice       a Piper voice (voice.onnx.json beside it)
  vivace import folder -o voice           a Coqui TTS voice: config.json and model_file.pth
  vivace import commands.keras -o heard   a Keras model, with the adapter commands.json beside it
  vivace import sample -o joe             the real voice that comes with vivace[samples]
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the model's file or folder, or {SAMPLE!r}")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the bundle's folder")
    parser.add_argument("--family", default="", help="the model's family (default: the one that recognises it)")
    parser.add_argument("--adapter", help="a JSON that says how a Keras or plain model is fed (default: NAME.json)")
    parser.add_argument(
        "--custom", action="append", metavar="MODULE:CLASS", help="a class that a Keras or PyTorch file needs"
    )
    parser.add_argument("--allow-code", action="store_true", help="run the code inside a file (Lambda layers, .pt2)")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def run(args: argparse.Namespace) -> int:
    from vivace.workflows.import_ import import_model

    given = {"adapter": args.adapter, "custom": args.custom, "allow_code": args.allow_code}
    options = {name: value for name, value in given.items() if value}
    with progress(args) as tell:
        tell("converting, and proving that the bundle equals the model", 0.0)
        bundle = import_model(model_source(args.model), args.out, family=args.family, overwrite=args.force, **options)
    if args.json:
        print_json(asdict(bundle))
    else:
        print(f"{bundle.path}: {bundle.family}, {len(bundle.stages)} stages, {bundle.size / 1e6:.1f} MB")
    return EXIT_OK
