"""A small model of each registered family, and voice settings for each registered text front end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from families import piper_maker, speecht5_maker, transformer_maker


def _toy(folder: Path) -> Path:
    path = folder / "hum.json"
    path.write_text(json.dumps({"toy": 1, "voices": ["ann", "bob"], "steps": 3}), encoding="utf-8")
    return path


def _piper(folder: Path) -> Path:
    return piper_maker.make(folder, piper_maker.Shape(speakers=2), "hum")


def _speecht5(folder: Path) -> Path:
    voices = {"ann": speecht5_maker.voice(1), "bob": speecht5_maker.voice(2)}
    return speecht5_maker.make(folder, "t5", voices=voices, maxlenratio=12.0)


def _transformer(folder: Path) -> Path:
    return transformer_maker.make(folder, "steps", max_steps=100)


MODELS: dict[str, Callable[[Path], Path]] = {
    "piper": _piper,
    "speecht5": _speecht5,
    "toy": _toy,
    "transformer_mel": _transformer,
}
VOICES: dict[str, dict[str, Any]] = {
    "characters": {"characters": "abcdefghijklmnopqrstuvwxyz .,", "lowercase": True},
    "pieces": {
        "characters": {c: i for i, c in enumerate("\u2581abcdefghijklmnopqrstuvwxyzHT.,", 4)},
        "unknown": 3,
        "end": 2,
        "longest": 100,
        "form": "NFKC",
        "prefix": True,
        "squeeze": True,
    },
    "piper": piper_maker.config(),
}
