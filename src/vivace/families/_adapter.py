"""Adapters: a small JSON beside a plain model that says how it is fed and what its output means. No code in it.

A model that listens:   {"task": "labels", "labels": ["yes", "no"], "seconds": 1.0,
                         "features": {"kind": "log_mel", "rate": 16000, "fft": 512, "hop": 160, "mels": 64}}
                        (or "features": {"kind": "samples", "rate": 16000})
A model that speaks:    {"task": "speech", "rate": 8000, "hop": 80, "characters": "abc .", "lowercase": true}
                        (ids of characters in, samples out, `hop` of them for each frame)
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
    unknown = sorted(set(data) - KEYS[data["task"]])
    if unknown:
        raise ModelError(f"{path}: unknown field {unknown[0]!r}; known: {', '.join(sorted(KEYS[data['task']]))}")
    try:
        (_labels if data["task"] == "labels" else _speech)(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: {error}") from None
    return data


def rate(adapter: Adapter) -> int:
    """Hz of the clips that the model hears or speaks."""
    return int(adapter["rate"] if adapter["task"] == "speech" else adapter["features"].get("rate", 16000))


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
    known = {f.name for f in fields(LogMel)} if data["features"]["kind"] == "log_mel" else {"rate"}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"unknown field {unknown[0]!r} in features; known: {', '.join(sorted(known))}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"features: {name} is {value!r}; it must be a number of 0 or more")
    if not 4000 <= rate(data) <= 192_000:
        raise ValueError(f"features: rate is {rate(data)}; it must be from 4000 to 192000 Hz")
    seconds = data.get("seconds", 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise ValueError(f'"seconds" is {seconds!r}; it must be above 0')


def _speech(data: dict[str, Any]) -> None:
    for name, low, high in (("rate", 4000, 192_000), ("hop", 1, 65536)):
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f'"{name}" is {value!r}; it must be a whole number from {low} to {high}')
    characters = data.get("characters")
    if not isinstance(characters, str) or not characters or len(set(characters)) != len(characters):
        raise ValueError('"characters" must be a text in which each character stands once; its id is its place')
