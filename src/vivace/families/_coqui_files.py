"""The files of a Coqui TTS voice: `config.json`, the checkpoint beside it, the table of speakers.

A checkpoint is a pickle, and a pickle can run any program when it is read: it is read by PyTorch's loader of weights
alone, which refuses everything else.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vivace.core.errors import MissingDependency, ModelError

CONFIG, MODEL = "config.json", "model_file.pth"
NAMES = (MODEL, "best_model.pth", "model.pth")  # what a folder with several checkpoints is asked for, in this order
TABLES = ("speakers.pth", "speaker_ids.pth", "speaker_ids.json", "speakers.json")
NO_MODELS = {*TABLES, "language_ids.pth"}


@dataclass(frozen=True)
class Files:
    config: Path
    model: Path
    speakers: Path | None


def find(path: Path) -> Files:
    """`path` is the folder or the checkpoint. Raises ModelError if the files of a Coqui voice are not there."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG
    if not path.is_dir() and path.suffix != ".pth":
        raise ModelError(f"{path} is no Coqui checkpoint (.pth)")
    if not config.is_file():
        raise ModelError(f"{CONFIG} is not in {folder}; a Coqui voice needs it beside its checkpoint")
    model = path
    if path.is_dir():
        found = sorted(p for p in path.glob("*.pth") if p.name not in NO_MODELS)
        named = [folder / name for name in NAMES if folder / name in found]
        if not found:
            raise ModelError(f"{folder} has no checkpoint (.pth); a Coqui voice needs one beside its {CONFIG}")
        if not named and len(found) > 1:
            raise ModelError(f"{folder} holds {len(found)} checkpoints; name the one to import")
        model = named[0] if named else found[0]
    return Files(config, model, next((folder / name for name in TABLES if (folder / name).is_file()), None))


def looks_like_one(path: Path) -> bool:
    """Whether the files are there and the config has what Coqui's have. Never raises."""
    try:
        return _is_coqui(read_config(find(path).config))
    except (ModelError, OSError):
        return False


def lacks(path: Path) -> str:
    """What stands between `path` and a Coqui voice, where some of it is there; else empty. Never raises."""
    folder = path if path.is_dir() else path.parent
    checkpoints = {p.name for p in folder.glob("*.pth")} - NO_MODELS if path.is_dir() else {path.name}
    if not path.is_dir() and path.suffix != ".pth":
        return ""
    try:
        config = read_config(folder / CONFIG) if (folder / CONFIG).is_file() else None
        own = config is not None and _is_coqui(config)
        if own or (config is None and checkpoints):
            find(path)
    except (ModelError, OSError) as error:
        return str(error)
    if checkpoints and not own:
        return f"{folder / CONFIG} has no fields model and audio; a Coqui voice's has both"
    return ""


def _is_coqui(config: dict[str, Any]) -> bool:
    return isinstance(config.get("model"), str) and isinstance(config.get("audio"), dict)


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); copy the voice's {CONFIG} again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; copy the voice's {CONFIG} again")
    return config


def sample_rate(config: dict[str, Any], path: Path) -> int:
    audio = config.get("audio")
    rate = audio.get("sample_rate") if isinstance(audio, dict) else None
    if not isinstance(rate, int) or isinstance(rate, bool) or not 4000 <= rate <= 192_000:
        raise ModelError(f"{path}: field audio.sample_rate is missing or wrong; it must be a whole number of Hz")
    return rate


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors under "model". Raises ModelError for a file that is no checkpoint, or holds more than data."""
    import torch

    state = _load(path)
    model = state.get("model") if isinstance(state, dict) else None
    if not isinstance(model, dict) or not model:
        raise ModelError(f'{path} has no weights under "model"; give the checkpoint that coqui-tts saved')
    if wrong := [name for name, value in model.items() if not isinstance(value, torch.Tensor)]:
        raise ModelError(f"{path}: {str(wrong[0])[:60]!r} is no tensor; give the checkpoint that coqui-tts saved")
    return {str(name).removeprefix("module."): value for name, value in model.items()}


def _load(path: Path) -> Any:
    if find_spec("torch") is None:
        raise MissingDependency("PyTorch", "torch")
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|(?:function|class|type) ([\w.]+)", str(error))
        what = f" ({named[1] or named[2]})" if named else ""
        raise ModelError(
            f"{path} holds more than data{what}; reading that could run a program: save its weights alone"
        ) from None
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ModelError(f"{path} is no readable checkpoint ({first}); copy it again") from error


def read_speakers(path: Path) -> dict[str, int]:
    """Name to number. Raises ModelError for a table of another kind."""
    table = read_config(path) if path.suffix == ".json" else _load(path)
    fits = isinstance(table, dict) and all(
        isinstance(name, str) and isinstance(i, int) and not isinstance(i, bool) and i >= 0 for name, i in table.items()
    )
    if not fits or not table:
        raise ModelError(f"{path} is no table of speakers by number; give the one that belongs to the voice")
    return {name: table[name] for name in sorted(table, key=lambda name: table[name])}
