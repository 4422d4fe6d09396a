"""Stores weights as int8 with a scale for each output channel, a quarter of the bytes; they are widened on loading
and computed in float32."""

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

SUMMARY = "Stores weights as int8 by channel (a quarter of the size), computes in fp32"
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
        reason = _storage.narrow(model, settings.include, settings.exclude, settings.smallest, whole)
        return reason and f"stage {stage.name} {reason}"

    return _onnx.edit_stages(bundle, out, ("weights_int8", VERSION), settings, edit)


def whole(name: str, weight: Array, axis: int) -> tuple[list[Any], list[Any]]:
    """Symmetric, one scale along `axis`: the largest error of a weight is half its channel's peak / 127."""
    from onnx import TensorProto, helper, numpy_helper

    others = tuple(k for k in range(weight.ndim) if k != axis % weight.ndim)
    scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True) / np.float32(127), np.float32(1e-12))
    stored = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
    nodes = [
        helper.make_node("Cast", [f"{name}/int8"], [f"{name}/wide"], name=f"{name}/Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}/wide", f"{name}/scale"], [name], name=f"{name}/Mul"),
    ]
    constants = [numpy_helper.from_array(stored, f"{name}/int8"), numpy_helper.from_array(scale, f"{name}/scale")]
    return nodes, constants
