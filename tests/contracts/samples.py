"""A small model of each registered family, and voice settings for each registered text front end."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from families import coqui_maker, generic_maker, keras_maker, piper_maker, speecht5_maker, transformer_maker


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


def _generic(folder: Path) -> Path:
    return generic_maker.voice(folder / "plain.onnx")


def _coqui(folder: Path) -> Path:
    return coqui_maker.make(folder, "spoken", speakers=2)


def _keras(folder: Path) -> Path:
    return keras_maker.write(keras_maker.voice(), keras_maker.SPEAKS, folder / "hums.keras")


# Families whose packages are not installed: their models cannot be made.
ABSENT = set() if find_spec("keras") and find_spec("torch") else {"keras_model"}
ABSENT |= set() if find_spec("torch") else {"coqui"}
MODELS: dict[str, Callable[[Path], Path]] = {
    "coqui": _coqui,
    "generic": _generic,
    "keras_model": _keras,
    "piper": _piper,
    "speecht5": _speecht5,
    "toy": _toy,
    "transformer_mel": _transformer,
}
for _name in ABSENT:
    del MODELS[_name]
VOICES: dict[str, dict[str, Any]] = {
    "characters": {"characters": "abcdefghijklmnopqrstuvwxyz .,", "lowercase": True},
    "coqui": coqui_maker.config(),
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
