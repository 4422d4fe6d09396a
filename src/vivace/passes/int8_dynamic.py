"""Dynamic INT8 by ONNX Runtime's `quantize_dynamic`: no calibration, activations are measured at every run.

With the default settings this is the recipe found in most guides; it is here to be compared with.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _onnx

SUMMARY = "ONNX Runtime's dynamic INT8, the usual recipe (often slower on convolutions: measure it)"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"
OPERATORS = ("Conv", "MatMul", "Gather", "Attention", "LSTM", "Transpose", "EmbedLayerNormalization")


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    include: tuple[str, ...] = option((), "shell-style patterns of node names to quantize; none: all")
    exclude: tuple[str, ...] = option((), "shell-style patterns of node names to leave in float")
    op_types: tuple[str, ...] = option((), "operators to quantize; none: all that the library knows", OPERATORS)
    per_channel: bool = option(False, "a weight scale for each output channel instead of one for the tensor")
    weight_type: str = option(
        "int8", "type of the weights; uint8 has the faster convolutions on x86", ("int8", "uint8")
    )


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if the library quantizes nothing, ModelError if it fails on a stage."""

    def edit(stage: Stage, model: Any) -> str | None:
        context.progress(f"quantizing {stage.name}", 0.0)
        before = _integers(model)
        names = _names(model, settings)
        if names == []:
            return f"stage {stage.name} has no node that matches"
        quantized = _quantize(model, names, settings)
        if _integers(quantized) == before:
            return f"stage {stage.name} has no operator with constant weights that the library quantizes"
        model.CopyFrom(quantized)
        return None

    return _onnx.edit_stages(bundle, out, ("int8_dynamic", VERSION), settings, edit)


def _names(model: Any, settings: Settings) -> list[str] | None:
    """The nodes that the patterns choose; None, which the library takes for all, where there are no patterns."""
    if not settings.include and not settings.exclude:
        return None
    return [
        node.name
        for node in model.graph.node
        if node.name and _onnx.selected(node.name, settings.include, settings.exclude)
    ]


def _quantize(model: Any, names: list[str] | None, settings: Settings) -> Any:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kind = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}[settings.weight_type]
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        file = Path(folder) / "quantized.onnx"
        try:
            quantize_dynamic(
                model,
                file,
                op_types_to_quantize=list(settings.op_types) or None,
                per_channel=settings.per_channel,
                weight_type=kind,
                nodes_to_quantize=names,
            )
        except Exception as error:  # the library raises whatever its parts raise
            raise ModelError(f"quantize_dynamic fails on this stage: {error}") from error
        return _onnx.read(file)


def _integers(model: Any) -> int:
    """How many tensors are stored in 8 bits."""
    from onnx import TensorProto

    return sum(i.data_type in (TensorProto.INT8, TensorProto.UINT8) for i in model.graph.initializer)


@contextmanager
def _without_advice() -> Iterator[None]:
    """The library warns on the root logger, for every tensor of whole numbers: that is not our user's matter."""
    root = logging.getLogger()
    silent = logging.NullHandler()  # without any handler, `logging.warning` would set one up for the whole program

    def keep(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts

    root.addFilter(keep)
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeFilter(keep)
        root.removeHandler(silent)
