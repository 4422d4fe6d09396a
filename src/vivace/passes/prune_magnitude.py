"""Unstructured pruning: the smallest weights become zero (Han et al. 2015), of each layer or of all together.

It saves bytes only: kept sparse (a bit for each weight, and the others), or in a file that is compressed. It saves no
time: the kernels multiply zeros as fast as anything else. For speed see prune_channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _recovery, _torch

SUMMARY = "Zeroes the smallest weights of PyTorch stages: fewer bytes where kept sparse, no speed"
NEEDS = frozenset({"calibration"})  # where it recovers
OBJECTIVE = "size"
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to prune; none: all")
    share: float = option(0.3, "share of the weights that becomes zero")
    scope: str = option("global", "smallest of a stage's weights together, or of each layer's", ("global", "layer"))
    sparse: bool = option(True, "keep zeros as bits; false: as they are, for a file that is compressed elsewhere")
    recover_minutes: float = option(0.0, f"{_recovery.MINUTES}; the decoder alone learns")
    recover_texts: str = option("", _recovery.TEXTS)
    recover_rate: float = option(3e-4, "learning rate of the recovery at its highest")

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"prune_magnitude: share is {self.share:g}; it must lie between 0 and 1")
        _recovery.check("prune_magnitude", self.recover_minutes, self.recover_texts)


def accepts(stage: Stage, settings: Settings) -> str | None:
    if reason := _torch.unfit(stage, settings.stages):
        return reason
    if _torch.is_module(stage) and (stage.options.get("pruned") or stage.options.get("quantized")):
        return f"stage {stage.name} is {'pruned' if stage.options.get('pruned') else 'quantized'} already"
    return None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if there is nothing to prune."""

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        context.progress(f"pruning {stage.name}", 0.0)
        if reason := accepts(stage, settings):
            return reason
        pruning, quantized = registry.load("modules", "pruning"), registry.load("modules", "quantized")
        voice = _torch.voice(stage)
        names = pruning.prunable(voice)
        zeroed = pruning.smallest({n: weights[n] for n in names}, settings.share, each=settings.scope == "layer")
        changed = {**weights, **zeroed}
        if stage.name == "decoder" and settings.recover_minutes:
            if "speaker" in stage.inputs:
                return _recovery.ONE_SPEAKER
            student = pruning.decoder(voice.shape.decoder, {n: w.float() for n, w in pruning.strip(changed).items()})
            pruning.hold_zeros(student)
            told = ("prune_magnitude", VERSION, asdict(settings) | {"recover_minutes": 0})
            _recovery.recovered(
                student, bundle, {"pass": told}, settings.recover_minutes, settings.recover_texts,
                settings.recover_rate, context,
            )  # fmt: skip
            pruning.let_go(student)
            changed = {f"dec.{n}": w.detach().to(changed[f"dec.{n}"].dtype) for n, w in student.state_dict().items()}
        if settings.sparse:
            for name in names:
                changed |= quantized.sparse(name, changed.pop(name))
        return _torch.with_options(stage, pruned=settings.share), changed

    return _torch.edit_stages(bundle, out, ("prune_magnitude", VERSION), settings, edit)
