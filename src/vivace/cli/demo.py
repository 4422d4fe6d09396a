"""vivace demo: the whole road on a real voice."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from vivace.cli._common import SAMPLE, model_source, print_json, progress, write_out
from vivace.cli.optimize import show
from vivace.core.bundle import atomic_folder
from vivace.core.errors import EXIT_BUDGET_NOT_MET, EXIT_OK, BundleError

HELP = """Takes the real voice en_US-joe-medium (vivace[samples]) down the whole road in one command: imports it, makes
it smaller and faster by a recipe behind the gate, speaks with both, exports the result as a standard Piper voice, and
writes a report to look at and to listen to. Some minutes on two cores.
"""
SENTENCE = "This voice was made smaller and faster, and measured to be as good as it was."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, default=Path("demo"), help="folder for all of it (default demo)")
    parser.add_argument("--recipe", default="small", help="see vivace list recipes (default small)")
    parser.add_argument(
        "--texts", type=int, default=24, help="evaluation sentences (default 24; the gate's own is 100)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="timing rounds (default 15)")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def run(args: argparse.Namespace) -> int:
    from vivace.core.bundle import open_bundle
    from vivace.workflows import gate, recipe
    from vivace.workflows.export import export
    from vivace.workflows.import_ import import_model
    from vivace.workflows.optimize import optimize
    from vivace.workflows.synthesize import synthesize

    out: Path = args.out
    if out.exists() and not args.force:
        raise BundleError(f"{out} exists; pass --force to replace it, or choose another with -o")
    if out.exists() and not (out / "optimized").is_dir():
        raise BundleError(f"{out} is no folder of the demo and is not replaced; choose another with -o")
    plan = recipe.load(args.recipe)
    settings = gate.Settings(texts=args.texts, rounds=args.rounds, damage_texts=min(12, args.texts))
    begun = time.perf_counter()
    # Beside the demo's folder and kept on Ctrl-C, so that a second run goes on where the first one stopped.
    parts = out.with_name(f".{out.name}.parts")
    source = model_source(SAMPLE)
    original = (
        open_bundle(parts / "original") if (parts / "original").exists() else import_model(source, parts / "original")
    )
    with progress(args) as tell:
        command = f"vivace demo --recipe {args.recipe} --texts {args.texts} --rounds {args.rounds}"
        result = optimize(original, parts / "optimized", plan, settings, overwrite=True, command=command, progress=tell)
    with atomic_folder(out, overwrite=args.force) as folder:
        import shutil

        shutil.copytree(original.path, folder / "original")
        shutil.copytree(result.bundle.path, folder / "optimized")
        export(result.bundle, folder / "piper")
        for name, bundle in {"before": original, "after": result.bundle}.items():
            write_out(folder / f"{name}.wav", synthesize(bundle, SENTENCE).wav())
    shutil.rmtree(parts, ignore_errors=True)
    if args.json:
        print_json(asdict(result.report))
    else:
        show(result.report.details)
        print(
            f"\nlisten:  {out}/before.wav and {out}/after.wav\n"
            f"report:  {out}/optimized/evidence/report.html\n"
            f"use it:  {out}/piper/{original.name}.onnx loads in piper-tts and sherpa-onnx\n"
            f"({time.perf_counter() - begun:.0f} s)"
        )
    return EXIT_OK if result.met else EXIT_BUDGET_NOT_MET
