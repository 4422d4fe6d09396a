"""Reads Keras files without running what may hide in them.

The architecture is read as JSON first. Lambda layers (which hold byte code), classes and functions that are not Keras's
own, and modules to be imported are refused there, before Keras sees the file; then Keras loads it in its safe mode.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vivace.core.errors import MissingDependency, ModelError, UsageError
from vivace.families._custom import objects

SUFFIXES = (".keras", ".h5", ".hdf5")
HDF5 = b"\x89HDF\r\n\x1a\n"
# Names that Keras's own serialization uses, and that stand for no class of a layer.
PLAIN = {
    "__keras_tensor__",
    "__tensor__",
    "__numpy__",
    "__bytes__",
    "__ellipsis__",
    "__slice__",
    "__tuple__",
    "__set__",
}


def keras() -> Any:
    """Keras 3 on PyTorch. Raises MissingDependency, or UsageError where another backend was chosen before."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import torch  # noqa: F401

        module = importlib.import_module("keras")
    except ImportError:
        raise MissingDependency("keras (with torch)", "keras") from None
    if module.backend.backend() != "torch":
        raise UsageError(f"Keras runs on {module.backend.backend()}; set KERAS_BACKEND=torch before starting")
    return module


def looks_like_keras(path: Path) -> bool:
    """Whether a .keras or .h5 file, or a SavedModel folder, lies there. Never raises."""
    try:
        return (path.suffix in SUFFIXES and path.is_file()) or (path / "saved_model.pb").is_file()
    except OSError:
        return False


def load(path: Path, custom: Sequence[str] = (), allow_code: bool = False) -> Any:
    """The model without its optimizer. `custom` are "module:Class" names that the file may use; `allow_code` runs
    the byte code of its Lambda layers. Raises ModelError with the mend for everything that cannot be loaded."""
    config = architecture(path)
    if isinstance(config, dict):  # losses and metrics are not loaded
        config = {key: value for key, value in config.items() if key != "compile_config"}
    check(config, {name.partition(":")[2] for name in custom}, allow_code, str(path))
    module, classes = keras(), objects(custom)
    try:
        return module.saving.load_model(path, classes, compile=False, safe_mode=not allow_code)
    except Exception as error:  # Keras raises whatever its layers raise
        raise ModelError(f"Keras cannot load {path}: {_line(error)}") from error


def save(model: Any, path: Path) -> None:
    """Writes the model so that the same model gives the same bytes: without dates, with shared objects numbered."""
    whole = path.with_name(f"dated-{path.name}")
    model.save(whole)
    numbers: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        return f'"shared_object_id": {numbers.setdefault(found[1], len(numbers))}'

    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as written:
        for name in sorted(archive.namelist()):
            data = archive.read(name)
            if name == "metadata.json":
                data = json.dumps({**json.loads(data), "date_saved": ""}).encode()
            elif name == "config.json":
                data = re.sub(r'"shared_object_id": (\d+)', numbered, data.decode()).encode()
            written.writestr(zipfile.ZipInfo(name), data)
    whole.unlink()


def architecture(path: Path) -> Any:
    """The JSON of the model's layers, from which nothing has been made. Raises ModelError."""
    if (path / "saved_model.pb").is_file():
        raise ModelError(f"{path} is a SavedModel, which Keras 3 reads with TensorFlow only: save it as a .keras file")
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ModelError(f"{path} is no Keras file; give a .keras or .h5 file of a whole model")
    try:
        head = path.read_bytes()[:8] if path.stat().st_size < 8 else path.open("rb").read(8)
        if head == HDF5:
            return _from_hdf5(path)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                raise ModelError(f"{path} is damaged: {broken} in it has a wrong checksum; copy the file again")
            return json.loads(archive.read("config.json"))
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise ModelError(f"{path} is truncated or no Keras model ({_line(error)}); save or copy it again") from None


def _from_hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingDependency("h5py", "keras") from None
    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        raise ModelError(f"{path} holds weights only; save the whole model: model.save('model.keras')")
    return json.loads(text)


def check(config: Any, custom: set[str], allow_code: bool, where: str) -> None:
    """Raises ModelError for what would run code of the file, or needs a class that was not given."""
    for entry in _entries(config):
        kind, module = str(entry["class_name"]), entry.get("module")
        body = entry.get("config")
        settings: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
        name = str(settings.get("name") or entry.get("name") or kind)
        if kind in ("Lambda", "__lambda__"):
            if not allow_code:
                raise ModelError(
                    f"{where}: layer {name!r} is a Lambda, code inside the file, and is not run; replace it by a layer "
                    "class (--custom module:Class), or pass --allow-code if you trust the file"
                )
            continue
        own = module is None and "registered_name" in entry and kind not in PLAIN
        foreign = isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins")
        if kind == "function" and isinstance(body, str):
            kind, foreign = body, foreign or module == "builtins"
        called = str(entry.get("registered_name") or kind).rpartition(">")[2]
        if (own or foreign) and not custom & {kind, called}:
            raise ModelError(
                f"{where}: layer {name!r} needs the class {kind}, which is not part of Keras; "
                f"pass --custom MODULE:{kind} with the module that defines it"
            )


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            if "class_name" in found:
                yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
