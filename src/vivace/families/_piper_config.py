"""The JSON of a Piper voice: reading it, and checking the fields that Vivace relies on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelError

MAX_ID = 2**31  # larger than any embedding


def read_config(path: Path) -> dict[str, Any]:
    """The voice's JSON as it is. Raises ModelError naming the wrong field."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); copy the voice's .onnx.json again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; copy the voice's .onnx.json again")

    def need(ok: bool, field: str, what: str) -> None:
        if not ok:
            raise ModelError(f"{path}: field {field} is missing or wrong; it must be {what}")

    need(_whole(_inner(config, "audio", "sample_rate"), 4000, 192_001), "audio.sample_rate", "a whole number of Hz")
    ids = config.get("phoneme_id_map")
    need(
        isinstance(ids, dict)
        and len(ids) > 0
        and all(
            isinstance(v, list) and (v or k in ("^", "$")) and all(_whole(i, 0, MAX_ID) for i in v)
            for k, v in ids.items()
        ),
        "phoneme_id_map",
        "an object of phoneme to list of ids",
    )
    need(isinstance(_inner(config, "espeak", "voice"), str), "espeak.voice", "an espeak-ng voice")
    inference = config.get("inference", {})
    need(isinstance(inference, dict), "inference", "an object")
    for key, low, high in (("noise_scale", 0, 5), ("noise_w", 0, 5), ("length_scale", 0.1, 10)):
        need(_number(inference.get(key, 1), low, high), f"inference.{key}", f"a number from {low} to {high}")
    speakers = config.get("num_speakers", 1)
    need(_whole(speakers, 1, MAX_ID), "num_speakers", "a whole number from 1 up")
    names = config.get("speaker_id_map", {})
    need(
        isinstance(names, dict) and all(_whole(i, 0, speakers) for i in names.values()),
        "speaker_id_map",
        "an object of speaker name to an id below num_speakers",
    )
    need(_whole(config.get("default_speaker_id", 0), 0, speakers), "default_speaker_id", "an id below num_speakers")
    return config


def _inner(config: dict[str, Any], owner: str, key: str) -> Any:
    return config[owner].get(key) if isinstance(config.get(owner), dict) else None


def _whole(value: Any, low: int, end: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < end


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
