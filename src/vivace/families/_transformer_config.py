"""The files of a transformer_mel model: config.json, model.safetensors, and the vocoder.

    {"model_type": "transformer_mel", "sample_rate": 22050,
     "text": {"front_end": "characters", "characters": "abc ...", "lowercase": true, "language": "en"},
     "width": 512, "heads": 8, "hidden": 2048, "encoder_layers": 6, "decoder_layers": 6,
     "mels": 80, "frames_per_step": 1, "causal": true, "positions": "sinusoidal", "norm": "post", "activation": "relu",
     "max_steps": 500, "stop_threshold": 0.5,
     "vocoder": {"channels": [256, 128, 64, 1], "strides": [8, 8, 4, 1]}}

`vocoder` may also name an ONNX file beside config.json: [1, mels, frames] in, samples out. What has run away is said by
`repeat_seconds`, `repeat_tolerance`, `still_seconds` and `still_tolerance` (see _runaway; for models with a stop head).
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Array
from vivace.families._runaway import Guard
from vivace.families._transformer_graph import Shape

TYPE = "transformer_mel"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
CHOICES = {"positions": ("sinusoidal", "rotary", "none"), "norm": ("post", "pre"), "activation": ("relu", "gelu")}
LARGEST = 2**20


@dataclass(frozen=True)
class Config:
    """`text` is what the front end is given; `vocoder` the layers (channels, strides), or a file name."""

    shape: Shape
    sample_rate: int
    text: dict[str, Any]
    vocoder: dict[str, list[int]] | str
    max_steps: int
    stop_threshold: float
    guard: Guard


def recognise(path: Path) -> bool:
    try:
        return bool(json.loads(_config_file(path).read_text(encoding="utf-8"))["model_type"] == TYPE)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def read_config(path: Path) -> Config:
    """Raises ModelError naming the wrong field."""
    file = _config_file(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON ({error})") from None
    if not isinstance(data, dict) or data.get("model_type") != TYPE:
        raise ModelError(f'{file} is no such model: it needs "model_type": "{TYPE}"')

    def need(holds: bool, name: str, what: str) -> None:
        if not holds:
            raise ModelError(f"{file}: field {name} is missing or wrong; it must be {what}")

    need(_whole(data.get("sample_rate"), 4000, 192_000), "sample_rate", "a whole number of Hz")
    text: Any = data.get("text")
    need(isinstance(text, dict) and isinstance(text.get("front_end", "characters"), str), "text", "an object")
    tokens = data.get("tokens", len(text.get("characters", ())))
    need(_whole(tokens, 1, LARGEST), "tokens", "how many ids there are, or text.characters a list")
    given: dict[str, Any] = {"tokens": tokens}
    for field in fields(Shape):
        if field.name not in data or field.name == "tokens":
            continue
        value, default = data[field.name], field.default
        assert default is not MISSING
        if isinstance(default, bool):
            need(isinstance(value, bool), field.name, "true or false")
        elif isinstance(default, int):
            need(_whole(value, default > 0, LARGEST), field.name, f"a whole number from {int(default > 0)} up")
        else:
            need(value in CHOICES[field.name], field.name, " or ".join(CHOICES[field.name]))
        given[field.name] = value
    shape = Shape(**given)
    need(shape.width % (2 * shape.heads) == 0, "width", "a multiple of twice the heads")
    vocoder: Any = data.get("vocoder")
    if not isinstance(vocoder, str):
        need(_layers(vocoder, shape.mels), "vocoder", "channels (the last is 1) and as many strides, or a file name")
    steps, stop = data.get("max_steps", 500), data.get("stop_threshold", 0.5)
    need(_whole(steps, 1, shape.longest), "max_steps", f"a whole number from 1 to longest ({shape.longest})")
    need(isinstance(stop, (int, float)) and 0 < stop < 1, "stop_threshold", "a probability")
    limits = {field.name: data[field.name] for field in fields(Guard) if field.name in data}
    for name, value in limits.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        need(number and 0 <= value <= LARGEST, name, "a number from 0 up")
    return Config(shape, data["sample_rate"], text, vocoder, steps, float(stop), Guard(**limits))


def read_weights(path: Path) -> dict[str, Array]:
    """Raises ModelError for a damaged file, MissingDependency without safetensors."""
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise MissingDependency("safetensors", "transformer") from None
    file = _config_file(path).with_name(WEIGHTS)
    if not file.is_file():
        raise ModelError(f"{file.name} is not beside {CONFIG}; save the weights there with safetensors")
    try:
        found: dict[str, Array] = {name: array.astype("float32") for name, array in load_file(file).items()}
    except Exception as error:
        raise ModelError(f"{file} is no readable safetensors file ({error})") from error
    return found


def vocoder_file(path: Path, config: Config) -> Path:
    """Where the vocoder's ONNX file lies. A name that leads out of the folder is refused."""
    assert isinstance(config.vocoder, str)
    if Path(config.vocoder).name != config.vocoder:
        raise ModelError(f"vocoder is {config.vocoder!r}; it must name a file beside {CONFIG}")
    file = _config_file(path).with_name(config.vocoder)
    if not file.is_file():
        raise ModelError(f"the vocoder {config.vocoder} is not beside {CONFIG}")
    return file


def _config_file(path: Path) -> Path:
    path = Path(path)
    return path / CONFIG if path.is_dir() else path


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _layers(value: Any, mels: int) -> bool:
    if not isinstance(value, dict) or set(value) != {"channels", "strides"}:
        return False
    channels, strides = value["channels"], value["strides"]
    return (
        isinstance(channels, list)
        and isinstance(strides, list)
        and len(channels) == len(strides) > 0
        and all(_whole(n, 1, LARGEST) for n in (*channels, *strides, mels))
        and channels[-1] == 1
    )
