"""OpenVINO on x86 CPUs: bf16 arithmetic where the processor has it. One compiled model for each stage and worker.

`Stage.options["precision"]` is "fp32" (default) or "bf16"; a processor without bf16 computes in fp32 instead.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
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
PER_SIZE = True  # compiles for every length that it meets


def precisions() -> tuple[str, ...]:
    if find_spec("openvino") is None or "x86_64" not in machine.describe()["system"]:
        return ()
    return ("fp32", "bf16") if machine.BF16_FLAGS & set(machine.describe()["flags"]) else ("fp32",)


class _Trace:
    """Events in the form of ONNX Runtime's trace, of the runs of one thread."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._runs = 0
        self._sums: dict[str, int] = {}

    def add(self, begun: float, nodes: Iterable[tuple[str, str, int]]) -> None:
        """`nodes`: name, type and microseconds, which OpenVINO tells as the mean of all runs so far; what this run
        took is what the sum grew by."""
        self._runs += 1
        self.events.append({"cat": "Session", "name": "model_run", "ts": 1e6 * begun})
        for name, kind, mean in nodes:
            spent = max(0, self._runs * mean - self._sums.get(name, 0))
            self._sums[name] = self._runs * mean
            name = name.removesuffix("/WithoutBiases")  # a convolution whose bias was taken off and fused again
            node = {"name": f"{name}_kernel_time", "args": {"op_name": kind}}
            self.events.append({"cat": "Node", "ts": 1e6 * begun, "dur": spent, **node})


class OpenVinoSession:
    """A stage compiled by OpenVINO, once for each worker: one of two streams would hand every run to another thread.
    Every calling thread gets an infer request of its own."""

    def __init__(
        self, models: Sequence[Any], stage: Stage, trace: _Trace | None = None, kept: Path | None = None
    ) -> None:
        self._models = list(models)
        self._kept = kept
        self._next = itertools.cycle(self._models)
        self._trace = trace
        self._inputs = [_name(port, stage.inputs) for port in models[0].inputs]
        self._outputs = [_name(port, stage.outputs) for port in models[0].outputs]
        self._own = threading.local()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Raises ModelError if the runtime rejects the inputs or fails inside the graph, or the session is closed."""
        if not self._models:
            raise ModelError("the stage is closed; open its bundle again")
        if not hasattr(self._own, "request"):
            self._own.request, self._own.sizes = next(self._next).create_infer_request(), set()
        try:
            begun = time.perf_counter()
            found = self._own.request.infer({name: inputs[name] for name in self._inputs}, share_inputs=True)
            if self._kept and (sizes := tuple(inputs[name].shape for name in self._inputs)) not in self._own.sizes:
                self._own.sizes.add(sizes)
                machine.forget_mapped(self._kept)  # layers have copies of their weights now, as this size wants them
            if self._trace:
                self._trace.add(begun, _executed(self._own.request))
            return {name: found[k] for k, name in enumerate(self._outputs)}
        except KeyError as error:
            raise ModelError(f"the stage wants an input {error} that its family does not give") from None
        except Exception as error:
            raise ModelError(f"OpenVINO failed: {_last_line(error)}") from error

    def trace(self) -> list[dict[str, Any]]:
        """Per-operator events of all runs so far; ends the trace. Empty if the session was opened without one."""
        trace, self._trace = self._trace, None
        return trace.events if trace else []

    def rest(self) -> None:
        """Hands back what runs took for what lies between their operators."""
        for model in self._models:
            with suppress(RuntimeError):  # busy: it does not rest
                model.release_memory()

    def close(self) -> None:
        self._models, self._next, self._trace = [], itertools.cycle(()), None
        self._own = threading.local()


def open(stage: Stage, path: Path, options: RuntimeOptions) -> OpenVinoSession:
    """Raises ModelError for a file that OpenVINO cannot compile."""
    wanted = stage.options.get("precision", "fp32")
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": options.threads or machine.cores(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if wanted == "bf16" and "bf16" in precisions() else "f32",
        # A pinned pool would fight with whatever else runs on its cores, another runtime's threads among them.
        "ENABLE_CPU_PINNING": False,
    }
    core = _core()
    if options.trace:
        settings["PERF_COUNT"] = True
    kept = None if options.trace else _kept(options.digest)
    if kept:
        settings["CACHE_DIR"] = str(kept)
    try:
        compiled = [core.compile_model(str(path), "CPU", settings) for _ in range(options.workers)]
        return OpenVinoSession(compiled, stage, _Trace() if options.trace else None, kept)
    except Exception as error:
        raise ModelError(f"OpenVINO cannot load {path.name}: {_last_line(error)}") from error
    finally:
        if kept:
            _prepared.prune(kept.parent, keep=kept)


def _executed(request: Any) -> list[tuple[str, str, int]]:
    import openvino

    done, tick = openvino.ProfilingInfo.Status.EXECUTED, timedelta(microseconds=1)
    return [(i.node_name, i.node_type, i.real_time // tick) for i in request.profiling_info if i.status == done]


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


def _name(port: Any, known: Iterable[str]) -> str:
    """The stage's own name of an input or output: OpenVINO joins tensors that are the same, and all their names."""
    names: set[str] = port.get_names()
    return next((name for name in known if name in names), port.get_any_name())


@cache
def _core() -> Any:
    """One for the process."""
    try:
        return _imported().Core()
    except ImportError:
        raise MissingDependency("openvino", "openvino") from None


def _imported() -> Any:
    """The package without its converter of other frameworks' models, which is 21 MB and 0.15 s that nothing here needs.
    It does without one that cannot be imported; whoever else wants it in this process gets it when it is called."""
    converter = "openvino.tools.ovc"
    if {"openvino", converter} & set(sys.modules):
        return importlib.import_module("openvino")
    sys.modules[converter] = None  # type: ignore[assignment]  # the import system's word for "not to be found"
    try:
        openvino = importlib.import_module("openvino")
    finally:
        del sys.modules[converter]

    def convert_model(*given: Any, **named: Any) -> Any:
        return importlib.import_module("openvino.tools.ovc").convert_model(*given, **named)

    if not hasattr(openvino, "convert_model"):
        openvino.convert_model = convert_model  # type: ignore[attr-defined]
    return openvino


def _last_line(error: Exception) -> str:
    """OpenVINO's messages begin with source locations; what went wrong stands last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
