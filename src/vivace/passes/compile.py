"""Has PyTorch stages compiled by Inductor (Ansel et al. 2024, "PyTorch 2") ahead of time: one shared library for any
length, made by the C++ compiler of the machine that opens the bundle, when it first does (10 to 30 seconds), and kept
in the cache folder. The weights stay as they are. The text stage cannot be: its length follows from what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _torch

SUMMARY = "Has PyTorch stages compiled by Inductor when they are opened (needs a C++ compiler)"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option(("flow", "decoder"), "stages to compile; none: all that can be")


def accepts(stage: Stage, settings: Settings) -> str | None:
    if reason := _torch.unfit(stage, settings.stages):
        return reason
    if not registry.load("runtimes", _torch.RUNTIME).compiler():
        return "no C++ compiler is here; install g++ or clang++, or set CXX"
    if stage.name == "text":
        return "stage text cannot be compiled: its length follows from what it reads"
    if "mixed int8" in stage.precision and _torch.is_module(stage):
        return f"stage {stage.name} has INT8 layers, whose operators cannot be compiled"
    return f"stage {stage.name} is compiled already" if stage.options.get("compile") else None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no stage can be compiled, or there is no C++ compiler."""

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        context.progress(f"compiling {stage.name}", 0.0)
        return accepts(stage, settings) or (_torch.with_options(stage, compile=True), weights)

    return _torch.edit_stages(bundle, out, ("compile", VERSION), settings, edit)
