"""vivace distill: a small student that speaks step by step, or a cheaper decoder, taught by a voice."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vivace.cli._common import MODEL_HELP, add_settings, find_bundle, print_json, progress, read_settings
from vivace.core.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from vivace.core.bundle import Bundle
    from vivace.workflows.distill import Settings

HELP = """Teaches a small autoregressive student to speak as a Piper voice does. Needs the extras torch and transformer.

  vivace distill voice -o student --texts sentences.txt --minutes 60

The voice speaks the sentences (several thousand, one a line) without noise; the student learns the frames it makes
them of, and the voice's own flow and decoder stay its vocoder. Interrupt it and run the same command again: it goes on
where it was, and more minutes go on from what was learned. What the student is worth, vivace evaluate and vivace
benchmark tell.

  vivace distill sample --student trained -o student

With --student nothing is trained: a student that was made so before gets its voice's vocoder again.

  vivace distill voice --decoder -o lighter --texts sentences.txt --minutes 120

With --decoder the voice stays what it is, but for a decoder that does a third of the work: convolutions up to some kHz
and an inverse STFT. It learns from what the old decoder makes, first by distance, then against critics; the curve is
drawn beside the checkpoints. vivace export writes the voice as one file, as any other.

  vivace distill model --causal -o copy --texts sentences.txt --minutes 30

With --causal, MODEL is a folder with config.json and model.safetensors whose decoder looks ahead, which no cache fits.
Its causal copy learns to say what it says, and how near that came is measured on a tenth of the sentences.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    from vivace.workflows.distill import Settings

    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("-o", "--out", required=True, type=Path, help="the student's bundle")
    parser.add_argument("--texts", type=Path, help="sentences to learn from, one a line")
    parser.add_argument("--student", type=Path, help="a trained student's folder: config.json and model.safetensors")
    parser.add_argument("--work", type=Path, help="where lessons and checkpoints are kept (default: beside the output)")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    parser.add_argument("--decoder", action="store_true", help="teach a cheaper decoder, keep the rest of the voice")
    parser.add_argument("--causal", action="store_true", help="make a causal copy of a model that looks ahead")
    add_settings(parser, Settings)


def run(args: argparse.Namespace) -> int:
    from vivace.workflows import texts
    from vivace.workflows.distill import Settings, distill, with_teacher

    settings = read_settings(args, Settings, "distill")
    if args.student:
        return _told(args, with_teacher(find_bundle(args.model), args.student, args.out, overwrite=args.force))
    if not args.texts:
        raise UsageError("give the sentences to learn from: --texts FILE (or a trained student: --student FOLDER)")
    said = texts.from_file(args.texts)
    if args.causal:
        return _causal(args, said, settings)
    if args.decoder:
        return _decoder(args, said, settings)
    with progress(args) as tell:
        made = distill(
            find_bundle(args.model),
            args.out,
            said,
            settings,
            work=args.work,
            overwrite=args.force,
            progress=tell,
        )
    return _told(args, made)


def _told(args: argparse.Namespace, made: Bundle) -> int:
    if args.json:
        print_json({"bundle": str(made.path), "digest": made.digest})
    else:
        print(f"{made.path}: {made.size / 1e6:.1f} MB")
    return EXIT_OK


def _decoder(args: argparse.Namespace, said: list[str], settings: Settings) -> int:
    from vivace.workflows import distill_decoder

    with progress(args) as tell:
        made = distill_decoder.distill_decoder(
            find_bundle(args.model),
            args.out,
            said,
            distill_decoder.Settings(minutes=settings.minutes, seed=settings.seed),
            work=args.work,
            overwrite=args.force,
            progress=tell,
        )
    return _told(args, made)


def _causal(args: argparse.Namespace, said: list[str], settings: Settings) -> int:
    from vivace.workflows.causal import recover

    with progress(args) as tell:
        found = recover(Path(args.model), args.out, said, settings, overwrite=args.force, progress=tell)
    if args.json:
        away = {"before": found.before, "after": found.after}
        print_json({"bundle": str(found.bundle.path), "digest": found.bundle.digest, "distance": away})
    else:
        print(
            f"{found.bundle.path}: learned from {found.texts} sentences; on the others its frames are "
            f"{found.after:.3f} standard deviations from the original's ({found.before:.3f} before it learned)"
        )
    return EXIT_OK
