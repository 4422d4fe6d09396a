"""Keras models: a .keras or .h5 file, with a small JSON beside it that says how it is fed (see _adapter).

The bundle holds the ONNX graph (proven equal to Keras when imported) and the Keras model without its optimizer, from
which passes that train start again. Needs Keras 3 and PyTorch to import, neither of them to run.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle, write_bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.stage import Session, Stage
from vivace.families import _adapter, _keras_file, _tasks
from vivace.families._keras_file import save as save

SUMMARY = "Keras model: NAME.keras or NAME.h5 with an adapter NAME.json beside it"
SOURCE = "source/model.keras"
FILE = _tasks.FILE


def recognise(path: Path) -> bool:
    return _keras_file.looks_like_keras(Path(path))


def import_(
    path: Path,
    out: Path,
    *,
    overwrite: bool = False,
    custom: Sequence[str] = (),
    allow_code: bool = False,
    adapter: str = "",
) -> Bundle:
    """`custom` are "module:Class" names of layers that are not Keras's own; `allow_code` runs Lambda layers."""
    path = Path(path)
    _keras_file.architecture(path)
    model = _keras_file.load(path, custom, allow_code)
    told = _adapter.find(path, adapter)
    sizes = {"file": path.stat().st_size, "optimizer": _optimizer(path), "parameters": model.count_params()}
    return write(model, told, out, path.stem, {"custom": list(custom), "saved": sizes}, overwrite=overwrite)


def write(
    model: Any,
    adapter: _adapter.Adapter,
    out: Path,
    name: str,
    defaults: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Bundle:
    """A bundle of a Keras model in memory."""
    onnx_model, stage = converted(model)
    task = {"task": adapter["task"]}
    bundle = Bundle(out, name, "keras_model", _adapter.rate(adapter), (stage,), defaults={**task, **defaults})

    def fill(folder: Path) -> None:
        (folder / FILE).write_bytes(onnx_model.SerializeToString())
        (folder / _adapter.ADAPTER).write_text(json.dumps(adapter, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / SOURCE).parent.mkdir()
        save(model, folder / SOURCE)

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def converted(model: Any) -> tuple[Any, Stage]:
    """The ONNX graph of a Keras model, and the stage that runs it. Raises ModelError."""
    from vivace.families import _keras_onnx

    made = _keras_onnx.convert(model, _keras_file.keras())
    return made, _tasks.stage_of(made)


def source(bundle: Bundle, custom: Sequence[str] = ()) -> Any:
    """The Keras model that a bundle was made from, to be trained on. Raises ModelError if it keeps none, and UsageError
    if it wants classes that are not in `custom`: a bundle may come from anywhere, and imports nothing by itself."""
    if SOURCE not in bundle.files:
        raise ModelError(f"{bundle.path} keeps no Keras model to train; import the .keras file again")
    if wanted := [name for name in bundle.defaults.get("custom", ()) if name not in custom]:
        asked = " ".join(f"--custom {name}" for name in wanted)
        raise UsageError(f"{bundle.path} was made with classes of your own; to import them again, pass {asked}")
    return _keras_file.load(bundle.file(SOURCE), custom)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """NAME.onnx, and the adapter NAME.json beside it. `out` is a folder, or NAME.onnx."""
    return _tasks.exported(bundle, out)


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> _tasks.Classifier | _tasks.Speaker:
    return _tasks.opened(bundle, sessions)


def _optimizer(path: Path) -> int:
    """Bytes of the optimizer's state in the file."""
    import h5py

    def size(group: Any) -> int:
        found: list[int] = []
        group.visititems(lambda _, item: found.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
        return sum(found)

    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            return size(file["optimizer_weights"]) if "optimizer_weights" in file else 0
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as stored:
        try:
            with h5py.File(stored, "r") as file:
                return size(file["optimizer"]) if "optimizer" in file else 0
        except OSError as error:
            raise ModelError(f"{path}: its weights cannot be read ({error}); save it again") from error
