"""Computes PyTorch stages in 16 bits, and keeps their weights so: half the bytes. bf16 has 8 bits of mantissa and all
of float32's range; fp16 has 11, and overflows above 65504. Durations move in either, so the text stage is left alone
unless it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _torch

SUMMARY = "Computes PyTorch stages in bf16 or fp16, where the processor has it, and halves their weights"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option(("flow", "decoder"), "stages to work on; none: all")
    precision: str = option("bf16", "what they compute in", ("bf16", "fp16"))


def accepts(stage: Stage, settings: Settings) -> str | None:
    if reason := _torch.unfit(stage, settings.stages):
        return reason
    offered = registry.load("runtimes", _torch.RUNTIME).precisions()
    if settings.precision not in offered:
        return f"this machine computes {', '.join(offered)} in PyTorch, not {settings.precision}"
    if _torch.is_module(stage) and "mixed int8" in stage.precision:
        return f"stage {stage.name} has INT8 layers, which need fp32 around them"
    if _torch.is_module(stage) and stage.options["precision"] == settings.precision:
        return f"stage {stage.name} is there already"
    return None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no stage can be, or this processor does not have that precision."""

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        import torch

        context.progress(f"lowering {stage.name}", 0.0)
        if reason := accepts(stage, settings):
            return reason
        narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
        changed = {
            k: v.to(narrow) if v.is_floating_point() and not k.endswith("_scale") else v for k, v in weights.items()
        }
        return _torch.with_options(stage, precision=settings.precision), changed

    return _torch.edit_stages(bundle, out, ("bf16", VERSION), settings, edit)
