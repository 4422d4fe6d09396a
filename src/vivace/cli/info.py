"""vivace info: what a bundle holds."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vivace.cli._common import MODEL_HELP, find_bundle, print_json, table
from vivace.core.errors import EXIT_OK

HELP = """Shows a bundle's stages, voices and history. Opening it checks the digest of every file."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)


def run(args: argparse.Namespace) -> int:
    bundle = find_bundle(args.model)
    if args.json:
        print_json(asdict(bundle) | {"size": bundle.size})
        return EXIT_OK
    voices = f"{len(bundle.voices)} voices: {', '.join(bundle.voices[:6])}" if bundle.voices else "one voice"
    print(f"{bundle.name}: {bundle.family}, {bundle.sample_rate} Hz, {voices}, {bundle.size / 1e6:.1f} MB")
    print(f"digest {bundle.digest[:16]}, all files as written")
    rows = [
        [s.name, s.runtime, s.precision, f"{bundle.file(s.file).stat().st_size / 1e6:.2f}", ", ".join(s.inputs)]
        for s in bundle.stages
    ]
    table("Stages", ["stage", "runtime", "precision", "MB", "inputs"], rows)
    if bundle.history:
        made = [
            [s.name, s.version, ", ".join(f"{k}={v}" for k, v in s.settings.items()), s.parent[:12]]
            for s in bundle.history
        ]
        table("History", ["pass", "version", "settings", "parent"], made)
    if bundle.evidence:
        print(f"Evidence of how it was judged: vivace report {args.model} ({len(bundle.evidence)} files)")
    return EXIT_OK
