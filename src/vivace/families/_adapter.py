"""Adapters: a small JSON beside a plain model that says how it is fed and what its output means. No code in it.

A model that listens:   {"task": "labels", "labels": ["yes", "no"], "seconds": 1.0,
                         "features": {"kind": "log_mel", "rate": 16000, "fft": 512, "hop": 160, "mels": 64}}
                        (or "features": {"kind": "samples", "rate": 16000})
A model that speaks:    {"task": "speech", "rate": 8000, "hop": 80, "characters": "abc .", "lowercase": true}
                        (ids of characters in, samples out, `hop` of them for each frame)
  or, of frames:        {"task": "speech", "text": {"front_end": "piper", ...}, "durations": {"20": 6.5, ...},
                         "context": 2, "places": 16, "mel": {"rate": 22050, "fft": 1024, "hop": 256, "mels": 80}}
                        (ids of frames in, log-mels out: see _mel_speaker)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelError
from vivace.core.features import LogMel

ADAPTER = "adapter.json"
TASKS = ("labels", "speech")
KEYS = {
    "labels": {"task", "labels", "features", "seconds", "input"},
    "speech": {"task", "rate", "hop", "characters", "lowercase", "language", "input"},
}
FRAME_KEYS = {"task", "text", "durations", "context", "places", "mel", "input"}
Adapter = Mapping[str, Any]


def find(model: Path, given: str) -> Adapter:
    """The adapter `given`, or the one beside the model. Raises ModelError if there is none, or it says nonsense."""
    path = Path(given) if given else model.with_suffix(".json")
    if not path.is_file():
        raise ModelError(f'{path} is not there: say in it how the model is fed, for instance {{"task": "labels", ...}}')
    return read(path)


def beside(model: Path) -> bool:
    """Whether an adapter lies beside the model. Never raises."""
    try:
        return json.loads(model.with_suffix(".json").read_text(encoding="utf-8")).get("task") in TASKS
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def read(path: Path) -> Adapter:
    """Raises ModelError naming the wrong field."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(data, dict) or data.get("task") not in TASKS:
        raise ModelError(f'{path}: "task" must be one of {", ".join(TASKS)}')
    framed = data["task"] == "speech" and "mel" in data
    known = FRAME_KEYS if framed else KEYS[data["task"]]
    if unknown := sorted(set(data) - known):
        raise ModelError(f"{path}: unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
    try:
        (_labels if data["task"] == "labels" else _frames if framed else _speech)(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: {error}") from None
    return data


def rate(adapter: Adapter) -> int:
    """Hz of the clips that the model hears or speaks."""
    if adapter["task"] == "labels":
        return int(adapter["features"].get("rate", 16000))
    return int(adapter["mel"]["rate"] if "mel" in adapter else adapter["rate"])


def features(adapter: Adapter) -> Callable[[Any], Any]:
    """What makes the model's input of one clip's samples."""
    settings = dict(adapter["features"])
    kind = settings.pop("kind")
    return LogMel(**settings) if kind == "log_mel" else lambda samples: samples


def tensor(adapter: Adapter) -> tuple[tuple[int | None, ...], str, int]:
    """(shape with None for open axes, type, number of ids) of the model's input, where its file does not say it.

    Raises ModelError if the adapter does not say it either.
    """
    given = adapter.get("input") or {}
    shape = given.get("shape")
    if not isinstance(shape, list) or not shape or given.get("dtype") not in ("float32", "int32", "int64"):
        raise ModelError('the adapter lacks "input": {"shape": ["batch", "time", 64], "dtype": "float32"}')
    return tuple(size if isinstance(size, int) else None for size in shape), given["dtype"], int(given.get("ids", 2))


def _labels(data: dict[str, Any]) -> None:
    labels = data.get("labels")
    if not isinstance(labels, list) or len(set(labels)) != len(labels) or len(labels) < 2:
        raise ValueError('"labels" must be a list of at least two different names')
    if not all(isinstance(label, str) and label for label in labels):
        raise ValueError('"labels" must be names')
    given = dict(data.get("features") or {})
    if given.pop("kind", None) not in ("log_mel", "samples"):
        raise ValueError('"features" needs "kind": "log_mel" or "samples"')
    _numbers("features", given, {f.name for f in fields(LogMel)} if data["features"]["kind"] == "log_mel" else {"rate"})
    if not 4000 <= rate(data) <= 192_000:
        raise ValueError(f"features: rate is {rate(data)}; it must be from 4000 to 192000 Hz")
    seconds = data.get("seconds", 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise ValueError(f'"seconds" is {seconds!r}; it must be above 0')


def _numbers(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise ValueError(f"unknown field {unknown[0]!r} in {where}; known: {', '.join(sorted(known))}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{where}: {name} is {value!r}; it must be a number of 0 or more")


def _whole(where: str, data: Mapping[str, Any], *limits: tuple[str, int, int]) -> None:
    for name, low, high in limits:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f'{where}"{name}" is {value!r}; it must be a whole number from {low} to {high}')


def _frames(data: dict[str, Any]) -> None:
    for name in ("mel", "text", "durations"):
        if not isinstance(data.get(name), dict) or not data[name]:
            raise ValueError(f'"{name}" must be there, with its fields')
    mel, text, durations = data["mel"], data["text"], data["durations"]
    _numbers("mel", mel, {f.name for f in fields(LogMel)})
    _whole("mel: ", mel, ("rate", 4000, 192_000), ("fft", 64, 16384), ("mels", 1, 512))
    _whole("mel: ", mel, ("hop", 1, mel["fft"] // 2))
    _whole("", data, ("context", 0, 16), ("places", 1, 1024))
    if not isinstance(text.get("front_end"), str):
        raise ValueError('"text" needs "front_end", the way to read: "piper", for instance')
    for name, value in durations.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 10_000
        if not name.isdecimal() or not number:
            raise ValueError(f'"durations": {name!r}: {value!r} is no id with its mean number of frames')


def _speech(data: dict[str, Any]) -> None:
    _whole("", data, ("rate", 4000, 192_000), ("hop", 1, 65536))
    characters = data.get("characters")
    if not isinstance(characters, str) or not characters or len(set(characters)) != len(characters):
        raise ValueError('"characters" must be a text in which each character stands once; its id is its place')
