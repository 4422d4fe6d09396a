"""Stores weights as fp16, half the bytes; they are widened on loading and computed in float32 as before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Array, Stage
from vivace.passes import _onnx, _storage

SUMMARY = "Stores weights as fp16 (half the size), computes in fp32 as before"
NEEDS: frozenset[str] = frozenset()
OBJECTIVE = "size"
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    include: tuple[str, ...] = option(
        (), "shell-style patterns of the names of nodes whose weights to store; none: all"
    )
    exclude: tuple[str, ...] = option((), "shell-style patterns of the names of nodes whose weights to leave alone")
    smallest: int = option(1024, "weights of fewer elements are left alone")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no weight matches."""

    def edit(stage: Stage, model: Any) -> str | None:
        context.progress(f"storing weights of {stage.name}", 0.0)
        reason = _storage.narrow(model, settings.include, settings.exclude, settings.smallest, half)
        return reason and f"stage {stage.name} {reason}"

    return _onnx.edit_stages(bundle, out, ("weights_fp16", VERSION), settings, edit)


def half(name: str, weight: Array, axis: int) -> tuple[list[Any], list[Any]]:  # noqa: ARG001
    """Values outside fp16's range saturate at its ends rather than become infinite."""
    from onnx import TensorProto, helper, numpy_helper

    limits = np.finfo(np.float16)
    stored = np.clip(weight, limits.min, limits.max).astype(np.float16)
    node = helper.make_node("Cast", [f"{name}/fp16"], [name], name=f"{name}/Cast", to=TensorProto.FLOAT)
    return [node], [numpy_helper.from_array(stored, f"{name}/fp16")]
