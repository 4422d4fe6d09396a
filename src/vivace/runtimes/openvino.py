"""OpenVINO on x86 CPUs: bf16 arithmetic where the processor has it. One compiled model for each stage.

`Stage.options["precision"]` is "fp32" (default) or "bf16"; a processor without bf16 computes in fp32 instead.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vivace.core import machine
from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Array, RuntimeOptions, Stage, Tensors
from vivace.runtimes import _prepared

SUMMARY = "OpenVINO, x86 CPU, fp32 or bf16"
FORMATS = ("onnx",)
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def precisions() -> tuple[str, ...]:
    if find_spec("openvino") is None or "x86_64" not in machine.describe()["system"]:
        return ()
    return ("fp32", "bf16") if BF16_FLAGS & set(machine.describe()["flags"]) else ("fp32",)


class OpenVinoSession:
    """A stage compiled by OpenVINO; every calling thread gets an infer request of its own."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._inputs = [i.get_any_name() for i in model.inputs]
        self._outputs = [o.get_any_name() for o in model.outputs]
        self._own = threading.local()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Raises ModelError if the runtime rejects the inputs or fails inside the graph, or the session is closed."""
        if self._model is None:
            raise ModelError("the stage is closed; open its bundle again")
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        try:
            found = self._own.request.infer({name: inputs[name] for name in self._inputs}, share_inputs=True)
            return {name: found[k] for k, name in enumerate(self._outputs)}
        except KeyError as error:
            raise ModelError(f"the stage wants an input {error} that its family does not give") from None
        except Exception as error:
            raise ModelError(f"OpenVINO failed: {_last_line(error)}") from error

    def close(self) -> None:
        self._model = None
        self._own = threading.local()


def open(stage: Stage, path: Path, options: RuntimeOptions) -> OpenVinoSession:
    """Raises ModelError for a file that OpenVINO cannot compile."""
    wanted = stage.options.get("precision", "fp32")
    threads = (options.threads or machine.cores()) * options.workers
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": options.workers,
        "INFERENCE_PRECISION_HINT": "bf16" if wanted == "bf16" and "bf16" in precisions() else "f32",
        # A pinned pool would fight with whatever else runs on its cores, another runtime's threads among them.
        "ENABLE_CPU_PINNING": False,
    }
    core = _core()
    kept = _kept(options.digest)
    if kept:
        settings["CACHE_DIR"] = str(kept)
    try:
        return OpenVinoSession(core.compile_model(str(path), "CPU", settings))
    except Exception as error:
        raise ModelError(f"OpenVINO cannot load {path.name}: {_last_line(error)}") from error
    finally:
        if kept:
            _prepared.prune(kept.parent, keep=kept)


def _kept(digest: str) -> Path | None:
    """Where the compiled stage with this SHA-256 is kept for the next load. OpenVINO tells files apart by path, size
    and seconds only, so that each content needs a folder of its own. None without a digest, or a folder to write in."""
    if not digest:
        return None
    folder = machine.cache_folder() / "openvino" / digest[:32]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        return folder
    return None


@cache
def _core() -> Any:
    """One for the process."""
    try:
        import openvino
    except ImportError:
        raise MissingDependency("openvino", "openvino") from None
    return openvino.Core()


def _last_line(error: Exception) -> str:
    """OpenVINO's messages begin with source locations; what went wrong stands last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
