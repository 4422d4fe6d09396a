"""Structured pruning of a HiFi-GAN decoder: whole channels go, with all that makes and reads them, so that every layer
is a smaller dense one. Work falls with the square of what is kept; the voice suffers much, and learns some of it again.

The decoder is written back as an ONNX graph, for ONNX Runtime, OpenVINO and Piper's files, or as a module."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _onnx, _recovery, _torch

SUMMARY = "Takes whole channels out of a HiFi-GAN decoder: smaller and faster, with recovery by distillation"
NEEDS = frozenset({"calibration"})  # where it recovers
VERSION = "1"
DECODER = "decoder"


@dataclass(frozen=True)
class Settings:
    share: float = option(0.25, "share of the channels that goes, at every width")
    multiple: int = option(8, "widths are rounded to multiples of this: what the kernels like")
    runtime: str = option("onnxruntime", "what the decoder is written for", ("onnxruntime", "torch"))
    recover_minutes: float = option(0.0, _recovery.MINUTES)
    recover_texts: str = option("", _recovery.TEXTS)
    recover_rate: float = option(5e-4, "learning rate of the recovery at its highest")

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"prune_channels: share is {self.share:g}; it must lie between 0 and 1")
        if self.multiple < 1:
            raise UsageError(f"prune_channels: multiple is {self.multiple}; it must be 1 or more")
        _recovery.check("prune_channels", self.recover_minutes, self.recover_texts)


def accepts(stage: Stage, settings: Settings) -> str | None:  # noqa: ARG001
    if reason := _torch.unfit(stage, (DECODER,)):
        return reason
    if _torch.is_module(stage) and (stage.options.get("pruned") or stage.options.get("quantized")):
        return f"stage {stage.name} is pruned or quantized already; take channels out before"
    return None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if the voice has no HiFi-GAN decoder as it was exported, or no channel would go."""

    def edit(stage: Stage, weights: _torch.Weights) -> _torch.Edited | str:
        context.progress("taking channels out", 0.0)
        if reason := accepts(stage, settings):
            return reason
        if settings.recover_minutes and "speaker" in stage.inputs:
            return _recovery.ONE_SPEAKER
        pruning = registry.load("modules", "pruning")
        own = {name: value.float() for name, value in pruning.strip(weights).items()}
        try:
            shape, narrow = pruning.narrower(_torch.voice(stage).shape.decoder, own, settings.share, settings.multiple)
        except UsageError as error:
            return str(error)
        decoder = pruning.decoder(shape, narrow)
        if settings.recover_minutes:
            told = ("prune_channels", VERSION, asdict(settings) | {"recover_minutes": 0, "runtime": ""})
            decoder = _recovery.recovered(
                decoder, bundle, {"pass": told}, settings.recover_minutes, settings.recover_texts,
                settings.recover_rate, context,
            )  # fmt: skip
        return _written(stage, decoder, bundle.stage(DECODER), settings.runtime)

    return _torch.edit_stages(bundle, out, ("prune_channels", VERSION), settings, edit, stages=(DECODER,))


def _written(stage: Stage, decoder: Any, parent: Stage, runtime: str) -> _torch.Edited:
    if runtime == "onnxruntime":
        model = registry.load("modules", "pruning").to_onnx(decoder)
        file = str(Path(stage.file).with_suffix(".onnx"))
        own = parent.runtime if parent.runtime != _torch.RUNTIME else runtime
        options = {} if parent.runtime == _torch.RUNTIME else parent.options
        made = replace(stage, file=file, runtime=own, precision=_onnx.precision(model), options=options)
        return made, {"onnx": model}
    shape = stage.options["shape"]
    narrow = {**shape, "decoder": {**shape["decoder"], "widths": list(decoder.shape.widths)}}
    weights = {f"dec.{name}": value.detach() for name, value in decoder.state_dict().items()}
    return _torch.with_options(stage, shape=narrow, precision="fp32"), weights
