"""ONNX Runtime on the CPU. One session for each stage; no state of its own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.machine import cores
from vivace.core.stage import Array, RuntimeOptions, Stage, Tensors
from vivace.runtimes import _prepared

SUMMARY = "ONNX Runtime, CPU"
FORMATS = ("onnx",)
# <ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Identity(x) }
IDENTITY = bytes.fromhex(
    "08083a390a120a017812017922084964656e746974793a001201675a0f0a0178120a0a08080112040a020801620f0a017912"
    "0a0a08080112040a02080142040a001011"
)


def precisions() -> tuple[str, ...]:
    return ("fp32",)


class OrtSession:
    """A stage loaded into ONNX Runtime."""

    def __init__(self, session: Any, traced: bool) -> None:
        self._session = session
        self._traced = traced
        self._outputs = [output.name for output in session.get_outputs()]
        self._inputs = [i.name for i in session.get_inputs()]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Raises ModelError if the runtime rejects the inputs or fails inside the graph, or the session is closed."""
        if self._session is None:
            raise ModelError("the stage is closed; open its bundle again")
        try:
            outputs = self._session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        except KeyError as error:
            raise ModelError(f"the stage wants an input {error} that its family does not give") from None
        except Exception as error:
            raise ModelError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def trace(self) -> list[dict[str, Any]]:
        """Per-operator events of all runs so far; ends the trace. Empty if the session was opened without one."""
        if not self._traced:
            return []
        self._traced = False
        path = Path(self._session.end_profiling())
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        return events

    def rest(self) -> None:
        """Hands back what the arena keeps for the next run; it is every session's."""
        session, options = _shrinking()
        session.run(None, {"x": np.zeros(1, np.float32)}, options)

    def close(self) -> None:
        self.trace()
        self._session = None


def open(stage: Stage, path: Path, options: RuntimeOptions) -> OrtSession:
    """Raises ModelError for a file that ONNX Runtime cannot load."""
    import onnxruntime as ort

    def settings() -> Any:
        return _settings(stage, options)

    session = _prepared.session(path, options.digest, settings)
    try:
        session = session or ort.InferenceSession(str(path), settings(), providers=_prepared.CPU)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from error
    return OrtSession(session, bool(options.trace))


def _settings(stage: Stage, options: RuntimeOptions) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or cores()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # Threads that spin on after a run steal the cores from what runs next, another runtime's threads among them.
    settings.add_session_config_entry("session.force_spinning_stop", "0" if options.spin else "1")
    # Planned reuse takes time quadratic in the operators of a graph, and gains nothing over the arena's.
    settings.enable_mem_reuse = False
    # A pattern is kept for every length of a text that ever came by, and each holds one block for the whole run.
    settings.enable_mem_pattern = False
    # One arena for all stages: they run one after another, and each would keep the most that it ever took.
    _share_arena()
    settings.add_session_config_entry("session.use_env_allocators", "1")
    if options.trace:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(options.trace) / stage.name)
    return settings


@cache
def _share_arena() -> None:
    """Registers the arena of this process, with ONNX Runtime's own settings; a second registration changes nothing."""
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    own = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": 0, **own}))


@cache
def _shrinking() -> tuple[Any, Any]:
    """A session of one operator, Identity, and the options by which a run of it shrinks the shared arena: ONNX Runtime
    has no other call for that."""
    import onnxruntime as ort

    _share_arena()
    settings, options = ort.SessionOptions(), ort.RunOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.use_env_allocators", "1")
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return ort.InferenceSession(IDENTITY, settings, providers=_prepared.CPU), options


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
