"""PyTorch on the CPU: a stage is a module of `vivace.modules`, its file the module's weights (safetensors).

`Stage.options`: `module` and `part` name what computes, `shape` its sizes, `precision` "fp32", "bf16" or "fp16" (fp32
where the processor has it not), `quantized` what is INT8, layer by layer, and `compile` true for Inductor: the stage is
compiled by the machine's own C++ compiler when it is first opened, and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import machine, registry
from vivace.core.errors import MissingDependency, ModelError, VivaceError
from vivace.core.stage import Array, RuntimeOptions, Stage, Tensors
from vivace.runtimes import _prepared

SUMMARY = "PyTorch, CPU, fp32, bf16 or fp16, INT8 layers, Inductor"
FORMATS = ("safetensors",)
NATIVE = {"bf16": machine.BF16_FLAGS, "fp16": {"avx512_fp16", "amx_fp16"}}
TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LONGEST = 2**16  # frames that a compiled stage takes
_COMPILING = threading.Lock()  # tracing is not for two threads at once
FORM = 1  # counts up when stages are compiled differently

Forward = Callable[..., Any]


def precisions() -> tuple[str, ...]:
    if find_spec("torch") is None:
        return ()
    flags = set(machine.describe()["flags"])
    return ("fp32", *(name for name, needed in NATIVE.items() if needed & flags))


class TorchSession:
    """A stage as a module; any number of threads may run it."""

    def __init__(self, forward: Forward, part: Any, threads: int) -> None:
        self._forward: Forward | None = forward
        self._inputs, self._outputs = tuple(part.inputs), tuple(part.outputs)
        self._threads = threads

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Raises ModelError if the module fails on the inputs, or the session is closed."""
        import torch

        forward = self._forward
        if forward is None:
            raise ModelError("the stage is closed; open its bundle again")
        if torch.get_num_threads() != self._threads:  # of the calling thread, which each has its own
            torch.set_num_threads(self._threads)
        try:
            given = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._inputs]
            with torch.inference_mode():
                made = forward(*given)
        except KeyError as error:
            raise ModelError(f"the stage wants an input {error} that its family does not give") from None
        except Exception as error:
            raise ModelError(f"PyTorch failed: {_first_line(error)}") from error
        return {name: value.numpy() for name, value in zip(self._outputs, made, strict=True)}

    def close(self) -> None:
        self._forward = None


def open(stage: Stage, path: Path, options: RuntimeOptions) -> TorchSession:
    """Raises ModelError for a stage that is no module or whose weights do not fit, or that is to be compiled where
    no C++ compiler is."""
    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise MissingDependency("PyTorch", "torch")
    threads = options.threads or machine.cores()
    part = _part(stage, path)
    wanted = stage.options.get("precision", "fp32")
    _lower(part, wanted if wanted in precisions() else "fp32")
    forward: Forward = part
    if stage.options.get("compile"):
        forward = _compiled(part, stage, path, options)
    return TorchSession(forward, part, threads)


def _part(stage: Stage, path: Path) -> Any:
    from safetensors.torch import load_file

    options = stage.options
    try:
        module = registry.load("modules", str(options["module"]))
        part = module.part(options["part"], options["shape"])
        weights = load_file(path)
        registry.load("modules", "quantized").load(part.voice, weights, options.get("quantized", {}))
    except VivaceError as error:
        raise ModelError(f"PyTorch cannot load {path.name}: {error}") from error
    except KeyError as error:
        raise ModelError(
            f"the manifest does not say the {error} of stage {stage.name}; import the model again"
        ) from None
    except Exception as error:
        raise ModelError(f"PyTorch cannot load {path.name}: {_first_line(error)}") from error
    return part


def _lower(part: Any, precision: str) -> None:
    import torch

    if precision not in TYPES:
        raise ModelError(f"PyTorch here computes {', '.join(precisions())}, not {precision}")
    part.lower(getattr(torch, TYPES[precision]))


def compiler() -> str:
    """The C++ compiler that Inductor would call, or empty."""
    import shutil

    named = os.environ.get("CXX", "")
    return next((found for name in (named, "g++", "clang++", "c++") if name and (found := shutil.which(name))), "")


def _compiled(part: Any, stage: Stage, path: Path, options: RuntimeOptions) -> Forward:
    """The part as a shared library that takes any number of frames, made once for a file on a machine."""
    from torch._inductor.package import load_package

    if not part.timed:
        raise ModelError(f"stage {stage.name} cannot be compiled: its length follows from what it reads")
    if not compiler():
        raise ModelError(
            "no C++ compiler is here to compile with; install g++, or use the bundle from before `compile`"
        )
    cache = machine.cache_folder() / "inductor"
    package = cache / _key(stage, path, options) / "stage.pt2"
    try:
        with _COMPILING:
            if not package.is_file():
                _compile(part, package)
        loaded = load_package(str(package), num_runners=options.workers)
    except Exception as error:
        raise ModelError(f"Inductor cannot compile stage {stage.name}: {_first_line(error)}") from error
    finally:
        if package.parent.is_dir():
            _prepared.prune(cache, keep=package.parent)
    forward: Forward = loaded
    return forward


def _compile(part: Any, package: Path) -> None:
    """Writes the package whole or not at all."""
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch.export import Dim

    example = part.example(33)
    frames = Dim("frames", min=2, max=LONGEST)
    lengths = tuple({2: frames} if name in part.timed else None for name in part.inputs)
    # Weights become constants in the layout that the kernels want; the number of threads is the caller's.
    settings = {"freezing": True, "cpp.dynamic_threads": True}
    package.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix=".", dir=package.parent.parent) as temporary:
        program = torch.export.export(part, example, dynamic_shapes=lengths, strict=False)
        made = aoti_compile_and_package(
            program, package_path=str(Path(temporary) / package.name), inductor_configs=settings
        )
        Path(made).replace(package)


def _key(stage: Stage, path: Path, options: RuntimeOptions) -> str:
    """What a compiled stage depends on."""
    import torch

    digest = options.digest or hashlib.sha256(path.read_bytes()).hexdigest()
    facts = [FORM, digest, dict(stage.options), torch.__version__, machine.processor()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
