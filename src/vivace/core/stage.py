"""A stage: one graph of a model, with the tensors that go in and out, and the session contract that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UsageError

Array = NDArray[Any]
Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """Element type (NumPy name) and shape; a named dimension is dynamic."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Stage:
    """One graph of a bundle.

    `loop` is "once" (one run for an utterance) or "frame" (one run for each output frame).
    `precision` is a label for people ("fp32", "int8", "mixed int8", "fp16 weights").
    `frame_rate` is that of the stage's main output in Hz, 0 where frames mean nothing.
    `options` tell the runtime how to run it, e.g. {"precision": "bf16"}.
    """

    name: str
    file: str
    runtime: str = "onnxruntime"
    precision: str = "fp32"
    loop: str = "once"
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    frame_rate: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime may use this machine. `threads` 0 means: one for each core that the process may use.

    `workers` is how many threads may call `run` of one session at the same time, each with `threads` of its own.
    `digest` is the SHA-256 of the stage's file where it is known: what a runtime may keep under it for the next load.
    """

    threads: int = 0
    workers: int = 1
    spin: bool = False
    trace: str = ""  # a folder for the runtime's own per-operator trace; empty: none
    digest: str = ""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise UsageError(f"threads is {self.threads}; it must be 0 (all cores) or more")
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}; it must be at least 1")


class Session(Protocol):
    """A loaded stage."""

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """All outputs by name, from all inputs by name. Safe to call from `RuntimeOptions.workers` threads at once."""
        ...

    def close(self) -> None:
        """Gives memory back; closes the trace, if one is written."""
        ...


def seeded(seed: int, *path: int) -> np.random.Generator:
    """The generator of one request's noise: the same numbers whatever is computed beside it."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *path])))
