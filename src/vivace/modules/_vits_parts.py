"""The stages of a VITS bundle as modules: the same inputs and outputs, by name, as the stages of an exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.modules.hifigan import GeneratorShape
from vivace.modules.vits import Shape, Vits

OWN = {"text": ("enc_p", "dp", "emb_g"), "flow": ("flow",), "decoder": ("dec",)}


class Part(nn.Module):
    """`inputs` are what `forward` takes, in this order, and `outputs` what it gives; `timed` are the inputs whose last
    axis is the frames (none: the number of frames follows from what is read). Float inputs and outputs are float32,
    whatever the weights are; `voice` holds those of this part alone, named as in `Vits`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    timed: tuple[str, ...] = ()

    def __init__(self, voice: Vits, own: tuple[str, ...]) -> None:
        super().__init__()
        for name in [name for name, _ in voice.named_children() if name not in own]:
            delattr(voice, name)
        self.voice = voice
        self.dtype = torch.float32

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Inputs with so many frames, to trace with."""
        raise NotImplementedError

    def lower(self, dtype: torch.dtype) -> None:
        """Computes in a narrower type from here on."""
        self.voice.to(dtype)
        self.dtype = dtype


class TextPart(Part):
    def __init__(self, voice: Vits) -> None:
        super().__init__(voice, OWN["text"])
        s = voice.shape
        self.inputs = ("input", "input_lengths", "scales", *(["duration_noise"] if s.stochastic else []))
        self.inputs += ("sid",) if s.speakers else ()
        self.outputs = ("mean", "log_scale", "mask", *(["speaker"] if s.speakers else []))

    def forward(self, tokens: Tensor, lengths: Tensor, scales: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs[3:], rest, strict=True))
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None])[:, None].to(self.dtype)
        noise = given.get("duration_noise", mask) * scales[2]
        speaker = self.voice.speaker(given.get("sid"))
        mean, log_scale, frames = self.voice.text(tokens, mask, noise.to(self.dtype), speaker, scales[1])
        lasts = frames.sum(1).clamp(min=1)
        spoken = (torch.arange(mean.shape[2]) < lasts[:, None])[:, None].float()
        made = (mean.float(), log_scale.float(), spoken)
        return made if speaker is None else (*made, speaker.float())


class FlowPart(Part):
    inputs: tuple[str, ...] = ("mean", "log_scale", "mask", "prior_noise", "scales")
    outputs = ("latent",)
    timed = ("mean", "log_scale", "mask", "prior_noise")

    def __init__(self, voice: Vits) -> None:
        super().__init__(voice, OWN["flow"])
        self.inputs = (*FlowPart.inputs, *(["speaker"] if voice.shape.speakers else []))

    def forward(
        self,
        mean: Tensor,
        log_scale: Tensor,
        mask: Tensor,
        noise: Tensor,
        scales: Tensor,
        speaker: Tensor | None = None,
    ) -> tuple[Tensor]:
        drawn = mean + noise * torch.exp(log_scale) * scales[0]
        speaker = None if speaker is None else speaker.to(self.dtype)
        latent = self.voice.flow(drawn.to(self.dtype), mask.to(self.dtype), speaker)
        return (latent.float() * mask,)

    def example(self, frames: int) -> tuple[Tensor, ...]:
        s = self.voice.shape
        one = torch.zeros(1, s.channels, frames)
        made = (one, one.clone(), torch.ones(1, 1, frames), one.clone(), torch.ones(3))
        return (*made, torch.zeros(1, s.speaker_channels, 1)) if s.speakers else made


class DecoderPart(Part):
    inputs: tuple[str, ...] = ("latent",)
    outputs = ("output",)
    timed = ("latent",)

    def __init__(self, voice: Vits) -> None:
        super().__init__(voice, OWN["decoder"])
        self.inputs = (*DecoderPart.inputs, *(["speaker"] if voice.shape.decoder.speaker_channels else []))

    def forward(self, latent: Tensor, speaker: Tensor | None = None) -> tuple[Tensor]:
        speaker = None if speaker is None else speaker.to(self.dtype)
        return (self.voice.dec(latent.to(self.dtype), speaker)[:, None].float(),)

    def example(self, frames: int) -> tuple[Tensor, ...]:
        s = self.voice.shape.decoder
        made = (torch.zeros(1, s.channels, frames),)
        return (*made, torch.zeros(1, s.speaker_channels, 1)) if s.speaker_channels else made


PARTS = {"text": TextPart, "flow": FlowPart, "decoder": DecoderPart}


def part(name: str, shape: Mapping[str, Any]) -> Part:
    """An empty part (its weights take no memory until they are loaded), from the shape as a manifest keeps it.
    Raises ModelError for a part or a shape that VITS does not have."""
    if name not in PARTS:
        raise ModelError(f"VITS has no part {name!r}; it has {', '.join(PARTS)}")
    with torch.device("meta"):
        voice = Vits(shape_from(shape))
    return PARTS[name](voice.eval().requires_grad_(False))


def shape_from(plain: Mapping[str, Any]) -> Shape:
    """Raises ModelError if a manifest's shape is not one."""
    try:
        decoder = {key: _tuples(value) for key, value in plain["decoder"].items()}
        return Shape(**{**plain, "decoder": GeneratorShape(**decoder)})
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"the manifest's shape of this voice is damaged ({error}); import the model again") from None


def plain(shape: Shape) -> dict[str, Any]:
    """The shape as a manifest keeps it."""
    made: dict[str, Any] = _lists(asdict(shape))
    return made


def read_parts(models: Mapping[str, Any], known: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shape, as a manifest keeps it, and the weights of each stage, by name, of the ONNX graphs `models` by stage.

    `known` is the shape where some stages are modules already; without it the graphs must be all. Raises ModelError if
    they are no VITS voice as PyTorch exports it, or if the weights are not those of the shape."""
    from vivace.modules._vits_onnx import generator, read, weights

    if known is None:
        shape, found = read(models.values())
    else:
        shape, (found, nodes) = shape_from(known), weights(models.values())
        if "decoder" in models:
            shape = Shape(**{**vars(shape), "decoder": generator(found, nodes)})
    made: dict[str, dict[str, Array]] = {}
    for name in models:
        own = {key: value for key, value in found.items() if key.split(".")[0] in OWN[name]}
        wanted = {key: tuple(value.shape) for key, value in part(name, plain(shape)).voice.state_dict().items()}
        for key in (*wanted, *own):
            if key not in own or wanted.get(key) != own[key].shape:
                raise ModelError(f"the weight {key} of stage {name} is not as it was exported; import the original")
        made[name] = own
    return plain(shape), made


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(v) for key, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, tuple) else value
