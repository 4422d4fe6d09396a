"""The sentences that voices are calibrated, timed and judged on. The three built-in sets share no five words in a row.

All were written for this project. Any prefix of the evaluation set is a balanced mix of short, medium and long
sentences, so that a quick run with the first 24 asks for the same as the whole.
"""

from __future__ import annotations

from pathlib import Path

from vivace.core.errors import UsageError

DATA = Path(__file__).parent / "data"
LENGTHS = ("short", "medium", "long")


def evaluation(n: int | None = None) -> list[str]:
    """The first `n` evaluation sentences (all: 120). Raises UsageError if the set has fewer, or n is below 1."""
    return _first("evaluation", n)


def calibration(n: int | None = None) -> list[str]:
    """The first `n` calibration sentences (all: 64). Raises UsageError if the set has fewer, or n is below 1."""
    return _first("calibration", n)


def latency() -> dict[str, str]:
    """One sentence of each length to take times on: short (13 characters), medium (50), long (258)."""
    return dict(zip(LENGTHS, _first("latency", None), strict=True))


def from_file(path: Path | str) -> list[str]:
    """One text a line, UTF-8; blank lines are skipped. Raises UsageError if nothing can be read from it."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; save it as UTF-8, one text a line") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name a text file with one text a line") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UsageError(f"{path} holds no text; write one text a line")
    return texts


def _first(name: str, n: int | None) -> list[str]:
    texts = from_file(DATA / f"{name}.txt")
    if n is None:
        return texts
    if not 1 <= n <= len(texts):
        raise UsageError(f"--texts is {n}; choose 1 to {len(texts)} {name} sentences, or give a file of your own")
    return texts[:n]
