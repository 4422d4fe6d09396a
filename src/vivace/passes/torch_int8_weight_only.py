"""Keeps the weights of PyTorch stages as int8 with a scale for each channel, a quarter of the bytes; they are widened
when the stage is opened and computed as before. `weights_int8` does the same to ONNX stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _torch

SUMMARY = "Stores weights of PyTorch stages as int8 by channel, computes as before"
NEEDS: frozenset[str] = frozenset()
OBJECTIVE = "size"
VERSION = "1"
KINDS = ("linear", "conv1d", "conv_transpose1d", "embedding")


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    layers: tuple[str, ...] = option(KINDS, "kinds of layers; convolutions over one frame are linear", KINDS)
    include: tuple[str, ...] = option((), "shell-style patterns of the names of layers; none: all")
    exclude: tuple[str, ...] = option((), "shell-style patterns of the names of layers to leave alone")
    smallest: int = option(1024, "weights of fewer elements are left alone")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _torch.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no weight matches."""

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        quantized = registry.load("modules", "quantized")
        context.progress(f"storing weights of {stage.name}", 0.0)
        voice, done = _torch.voice(stage), dict(stage.options.get("quantized", {}))
        changed = _torch.whole(stage, weights)
        found = [
            name
            for name in quantized.layers(voice, settings.layers, settings.include, settings.exclude)
            if name not in done and changed[f"{name}.weight"].numel() >= settings.smallest
        ]
        if not found:
            return f"stage {stage.name} has no float weights that match"
        for name in found:
            key, axis = f"{name}.weight", quantized.axis_of(voice.get_submodule(name))
            changed[key], changed[key + quantized.SCALE] = quantized.narrowed(changed[key], axis)
            done[name] = quantized.WEIGHT_ONLY
        return _torch.with_options(stage, quantized=done, pruned=None), changed

    return _torch.edit_stages(bundle, out, ("torch_int8_weight_only", VERSION), settings, edit)
