"""Makes stages of a VITS voice PyTorch modules: the same numbers up to the order of sums, run by runtime `torch`.

By itself it is no faster than ONNX Runtime. It is where INT8, bf16, Inductor and pruning of modules begin; those passes
make modules of what they need themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _torch

SUMMARY = "Runs stages of a VITS voice as PyTorch modules, in fp32"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to move; none: all")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _torch.unfit(stage, settings.stages) or (_there(stage) if _torch.is_module(stage) else None)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if all stages are modules already, or the voice is not as it was exported."""
    before = {stage.name: stage for stage in bundle.stages}

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        context.progress(f"moving {stage.name}", 0.0)
        return _there(stage) if _torch.is_module(before[stage.name]) else (stage, weights)

    return _torch.edit_stages(bundle, out, ("to_torch", VERSION), settings, edit)


def _there(stage: Stage) -> str:
    return f"stage {stage.name} is a module already"
