"""Quantization-aware training for Keras models (Jacob et al., CVPR 2018): the weights learn to live on 8-bit grids.

In every step the products compute with weights and inputs rounded as int8_static will round them (per-channel
symmetric weights, one range for each input, found on the training clips); gradients pass through the rounding as if it
were not there. The trained model is then quantized by int8_static itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _calibration, _onnx, _retrain, int8_static

SUMMARY = "Keras models: trained on with 8-bit rounding in every product, then INT8 (needs --training)"
NEEDS = frozenset({"calibration"})
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    epochs: int = option(2, "times through the training clips")
    rate: float = option(0.0001, "learning rate at the beginning")
    batch: int = option(48, "clips in a step")

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.rate <= 0:
            raise UsageError("qat: epochs, batch and rate must be above 0")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError without training clips, or for a model that keeps no Keras source or has nothing to round."""
    begun = time.perf_counter()
    x, y = _retrain.data(bundle, "qat", context)
    model = registry.load("families", bundle.family).source(bundle, context.custom)
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    if not layers:
        raise UsageError("qat would change nothing: the model has no layer with a kernel")
    restore = [_rounded(layer) for layer in layers]
    try:
        _retrain.train(
            model,
            x,
            y,
            epochs=settings.epochs,
            rate=settings.rate,
            batch=settings.batch,
            checkpoint=_retrain.checkpoint_of(out),
            tell=context.progress,
        )
    finally:
        for undo in restore:
            undo()

    def quantize(graph: Any, stage: Stage) -> Stage:
        static = int8_static.Settings()
        nodes = int8_static.targets(graph, static)
        rows = context.calibration(stage.name)
        tensors = int8_static.to_calibrate(graph, nodes)
        ranges = _calibration.ranges(
            graph, tensors, rows, static.method, static.percentile, context.threads, lambda share: None
        )
        int8_static.quantize(graph, nodes, ranges, static)
        return replace(stage, precision=_onnx.precision(graph))

    return _retrain.write(bundle, out, model, ("qat", VERSION, settings, begun), quantize)


def _rounded(layer: Any) -> Any:
    """Makes the layer compute with rounded weights and inputs; returns what undoes it."""
    plain = layer.call

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        weight = layer.kernel
        kept = weight._value
        weight._value = _through(kept, _on_grid_by_channel(kept))
        try:
            return plain(_through(inputs, _on_grid(inputs)), *args, **kwargs)
        finally:
            weight._value = kept

    layer.call = call

    def undo() -> None:
        layer.call = plain

    return undo


def _through(value: Any, rounded: Any) -> Any:
    """The rounded value, with the gradient of the plain one (Bengio et al., 2013)."""
    return value + (rounded - value).detach()


def _on_grid_by_channel(weight: Any) -> Any:
    """Symmetric, 127 steps, a scale for each output channel, which is the last axis of a Keras kernel."""
    import torch

    with torch.no_grad():
        axes = tuple(range(weight.ndim - 1))
        scale = torch.clamp(weight.abs().amax(dim=axes, keepdim=True) / 127, min=int8_static.SMALLEST_SCALE)
        return torch.clamp(torch.round(weight / scale), -127, 127) * scale


def _on_grid(value: Any) -> Any:
    """255 steps between the least and the largest value of the batch, zero among them."""
    import torch

    with torch.no_grad():
        low, high = torch.clamp(value.amin(), max=0.0), torch.clamp(value.amax(), min=0.0)
        scale = torch.clamp((high - low) / 255, min=int8_static.SMALLEST_SCALE)
        zero = torch.round(-low / scale)
        return (torch.clamp(torch.round(value / scale) + zero, 0, 255) - zero) * scale
