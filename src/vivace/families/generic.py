"""Any model with one input and one output and an adapter beside it (see _adapter): NAME.onnx, NAME.pt2 or NAME.pt.

A .pt2 file is what torch.export saves; PyTorch unpickles what is in it, which can run any program, so it is read only
with `--allow-code`. A .pt file holds a state dict, nothing else; its class comes by
`--custom module:Class`, its input by the adapter: "input": {"shape": ["batch", "time", 64], "dtype": "float32"}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle, write_bundle
from vivace.core.errors import MissingDependency, ModelError, UsageError
from vivace.core.stage import Session
from vivace.families import _adapter, _tasks
from vivace.families._custom import objects

SUMMARY = "any ONNX or PyTorch model: NAME.onnx, NAME.pt2 or NAME.pt with an adapter NAME.json beside it"
SUFFIXES = (".onnx", ".pt2", ".pt")
FILE = _tasks.FILE


def recognise(path: Path) -> bool:
    path = Path(path)
    return path.suffix in SUFFIXES and _adapter.beside(path)


def import_(
    path: Path,
    out: Path,
    *,
    overwrite: bool = False,
    custom: Sequence[str] = (),
    adapter: str = "",
    allow_code: bool = False,
) -> Bundle:
    """`custom` names the class of a state dict as "module:Class"; `allow_code` reads .pt2 files. Raises ModelError for
    what cannot be read."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ModelError(f"{path} is no {', '.join(SUFFIXES)} file")
    model = _read_onnx(path) if path.suffix == ".onnx" else None
    told = _adapter.find(path, adapter)
    if model is None:
        if path.suffix == ".pt2" and not allow_code:
            raise ModelError(
                f"{path} holds pickles, which can run any program when PyTorch reads them; pass --allow-code if you "
                "trust the file, or save its state dict (NAME.pt), or an ONNX file"
            )
        model = _from_torch(path, told, custom)
    stage = _tasks.stage_of(model)
    if len(stage.inputs) != 1 or len(stage.outputs) != 1:
        raise ModelError(f"{path} has {len(stage.inputs)} inputs and {len(stage.outputs)} outputs; give one of each")
    defaults = {"task": told["task"], "saved": {"file": path.stat().st_size}}
    bundle = Bundle(out, path.stem, "generic", _adapter.rate(told), (stage,), defaults=defaults)

    def fill(folder: Path) -> None:
        (folder / FILE).write_bytes(model.SerializeToString())
        (folder / _adapter.ADAPTER).write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """NAME.onnx, and the adapter NAME.json beside it. `out` is a folder, or NAME.onnx."""
    return _tasks.exported(bundle, out)


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> _tasks.Classifier | _tasks.Speaker:
    return _tasks.opened(bundle, sessions)


def _read_onnx(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"{path} is no readable ONNX model ({_line(error)})") from error
    return model


def _from_torch(path: Path, adapter: _adapter.Adapter, custom: Sequence[str]) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependency("torch", "keras") from None
    from vivace.families import _torch_onnx

    given = _torch_onnx.Input(*_adapter.tensor(adapter))
    try:
        if path.suffix == ".pt2":
            module = torch.export.load(str(path)).module()
        else:
            state = torch.load(str(path), map_location="cpu", weights_only=True)
            module = _made(path, custom)
            module.load_state_dict(state)
            module.eval()
    except (UsageError, ModelError):
        raise
    except Exception as error:  # torch raises whatever its parts raise
        raise ModelError(f"{path} cannot be loaded ({_line(error)}); save it again") from error

    def call(x: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    try:
        return _torch_onnx.convert(module, call, given)
    except (ModelError, MissingDependency):
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be converted to ONNX: {_line(error)}") from error


def _made(path: Path, custom: Sequence[str]) -> Any:
    if len(custom) != 1:
        raise UsageError(f"{path} holds weights only; name the class they belong to: --custom module:Class")
    (kind,) = objects(custom).values()
    return kind()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
