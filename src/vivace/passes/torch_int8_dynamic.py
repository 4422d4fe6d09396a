"""Dynamic INT8 in PyTorch: weights are int8 with a scale for each channel, inputs are measured and rounded in each run.

A VITS voice is nearly all convolutions; those over one frame are matrix products (`linear`), the others `conv1d`.
torchao has the first, with a scale for each frame; PyTorch's own operators have both, with one scale for all of an
input, which is faster and coarser. Upsampling layers (transposed convolutions) stay in float: no backend has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _torch

SUMMARY = "Computes Linear and Conv1d layers of PyTorch stages in INT8, inputs measured in each run"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    layers: tuple[str, ...] = option(
        ("linear", "conv1d"), "kinds of layers; convolutions over one frame are linear", ("linear", "conv1d")
    )
    include: tuple[str, ...] = option((), "shell-style patterns of the names of layers; none: all")
    exclude: tuple[str, ...] = option(
        ("dp.*", "dec.conv_post"), "patterns of the names of layers that stay in float: here durations, last layer"
    )
    linear: str = option("torchao", "who computes linear layers (torch: coarser, faster)", ("torchao", "torch"))


def accepts(stage: Stage, settings: Settings) -> str | None:
    if reason := _torch.unfit(stage, settings.stages):
        return reason
    if "linear" in settings.layers and settings.linear == "torchao" and find_spec("torchao") is None:
        return "torchao is not installed; run: pip install 'vivace[torchao]', or set linear=torch"
    return _unfit(stage)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no layer matches, or a stage is not in fp32."""

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        quantized = registry.load("modules", "quantized")
        context.progress(f"quantizing {stage.name}", 0.0)
        if reason := accepts(stage, settings):
            return reason
        done = dict(stage.options.get("quantized", {}))
        found = quantized.layers(_torch.voice(stage), settings.layers, settings.include, settings.exclude)
        found = {name: kind for name, kind in found.items() if name not in done}
        if not found:
            return f"stage {stage.name} has no such layer in float"
        changed = _torch.whole(stage, weights)
        for name, kind in found.items():
            key = f"{name}.weight"
            changed[key], changed[key + quantized.SCALE] = quantized.narrowed(changed[key])
            by_torchao = kind == "linear" and settings.linear == "torchao"
            done[name] = quantized.TORCHAO if by_torchao else quantized.DYNAMIC
        return _torch.with_options(stage, quantized=done, pruned=None), changed

    return _torch.edit_stages(bundle, out, ("torch_int8_dynamic", VERSION), settings, edit)


def _unfit(stage: Stage) -> str | None:
    if stage.options.get("precision", "fp32") != "fp32" and _torch.is_module(stage):
        return f"stage {stage.name} computes in {stage.options['precision']}; INT8 layers need fp32 around them"
    if stage.options.get("compile"):
        return f"stage {stage.name} is compiled; quantize before"
    return None
