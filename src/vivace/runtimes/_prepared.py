"""Stages as ONNX Runtime has optimized them, kept on disk: a stage that was loaded once loads fast ever after.

An entry is a folder with the optimized graph, its weights in a file of their own (mapped into memory, not copied,
and shared by all processes), and a seal with the SHA-256 of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vivace.core import machine

FORM = 1  # counts up when entries are made differently
GRAPH, WEIGHTS, SEAL = "graph.onnx", "weights.bin", "seal.json"
SMALLEST = 250_000  # bytes of a stage file; a smaller one loads as fast by itself
MOST = 2**30  # bytes of all entries; the ones not used for longest go first
CPU = ["CPUExecutionProvider"]


def session(path: Path, digest: str, settings: Callable[[], Any]) -> Any | None:
    """The stage at `path`, whose SHA-256 is `digest`, from its entry, which is made if it is not there or damaged.

    `settings()` gives new session options. None if there is no entry and none can be kept: a file that is not worth
    it or no model, a cache folder that is full or cannot be written to.
    """
    import onnxruntime as ort

    try:
        if not digest or path.stat().st_size < SMALLEST:
            return None
        folder = machine.cache_folder() / "onnxruntime" / _key(digest)
        if not _sound(folder):
            _make(path, folder, settings())
        ready = settings()
        ready.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        loaded = ort.InferenceSession(str(folder / GRAPH), ready, providers=CPU)
    except Exception:  # noqa: BLE001 - the caller loads the stage itself, and reports what is wrong with it
        return None
    with suppress(OSError):  # a cache that cannot be written to serves all the same
        os.utime(folder)
    return loaded


def _key(digest: str) -> str:
    """What an optimized graph depends on: the stage, the runtime's build, and the processor it was laid out for."""
    import onnxruntime as ort

    facts = machine.processor()
    build = [FORM, digest, ort.__version__, ort.get_build_info(), facts["cpu"], facts["flags"], facts["system"]]
    return hashlib.sha256(json.dumps(build).encode()).hexdigest()[:32]


def _make(path: Path, folder: Path, settings: Any) -> None:
    """Writes the entry whole or not at all. Raises what ONNX Runtime raises, and OSError."""
    import onnxruntime as ort

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        settings.enable_profiling = False
        settings.optimized_model_filepath = str(made / GRAPH)
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        ort.InferenceSession(str(path), settings, providers=CPU)
        seal = {file.name: _sha256(file) for file in sorted(made.iterdir())}
        (made / SEAL).write_text(json.dumps(seal), encoding="utf-8")
        if not _sound(folder):  # another process may have been first
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    prune(folder.parent, keep=folder)


def _sound(folder: Path) -> bool:
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return GRAPH in seal and all(_sha256(folder / name) == sha for name, sha in seal.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def prune(cache: Path, keep: Path) -> None:
    """Removes the entries that were not used for longest until the rest fits."""
    with suppress(OSError):  # somebody else prunes
        entries = sorted((entry for entry in cache.iterdir() if entry != keep), key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: _size(entry) for entry in entries}
        room = MOST - _size(keep) - sum(sizes.values())
        for entry in entries:
            if room >= 0:
                break
            shutil.rmtree(entry, ignore_errors=True)
            room += sizes[entry]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
