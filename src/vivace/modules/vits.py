"""VITS (Kim et al. 2021, arXiv:2106.06103) as a PyTorch module, to speak with and to train parts of.

The parts are `enc_p` (text encoder), `dp` (durations), `flow` and `dec` (HiFi-GAN), and the weights are named as in the
paper's own code, which is what Piper exports; weight norm is folded. What only training of the whole needs (posterior
encoder, discriminators) is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.modules._vits_durations import Durations, StochasticDurations
from vivace.modules._vits_flow import Flow
from vivace.modules._vits_text import TextEncoder
from vivace.modules.hifigan import Generator, GeneratorShape


@dataclass(frozen=True)
class Shape:
    """Sizes; `speakers` 0: one voice, no speaker embedding. The defaults are those of the paper and of Piper."""

    tokens: int
    decoder: GeneratorShape
    channels: int = 192
    hidden: int = 192
    filter: int = 768
    heads: int = 2
    layers: int = 6
    kernel: int = 3
    window: int = 4
    flows: int = 4
    flow_layers: int = 4
    flow_kernel: int = 5
    flow_dilation: int = 1
    stochastic: bool = True
    duration_filter: int = 192
    duration_kernel: int = 3
    duration_flows: int = 4
    duration_least: float = 1e-5  # what the norms of deterministic durations add to the variance: Coqui's 1e-4
    speakers: int = 0
    speaker_channels: int = 0


class Vits(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = s = shape
        self.enc_p = TextEncoder(s.tokens, s.channels, s.hidden, s.filter, s.heads, s.layers, s.kernel, s.window)
        self.flow = Flow(
            s.channels, s.hidden, s.flows, s.flow_layers, s.flow_kernel, s.flow_dilation, s.speaker_channels
        )
        self.dec = Generator(s.decoder)
        sizes = (s.hidden, s.duration_filter, s.duration_kernel)
        if s.stochastic:
            self.dp = StochasticDurations(*sizes, s.duration_flows, s.speaker_channels)
        else:
            self.dp = Durations(*sizes, s.speaker_channels, s.duration_least)
        self.emb_g = nn.Embedding(s.speakers, s.speaker_channels) if s.speakers else None

    def speaker(self, sid: Tensor | None) -> Tensor | None:
        """[batch] numbers of speakers to their embeddings [batch, speaker_channels, 1]."""
        if self.emb_g is None or sid is None:
            return None
        found: Tensor = self.emb_g(sid)[..., None]
        return found

    def text(
        self, tokens: Tensor, mask: Tensor, noise: Tensor, speaker: Tensor | None = None, length_scale: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, tokens], their mask [batch, 1, tokens] and scaled normal `noise` [batch, 2, tokens] to the prior's
        mean and log scale [batch, channels, frames] and the frames of each token [batch, tokens]."""
        read, mean, log_scale = self.enc_p(tokens, mask)
        lasts = torch.exp(self.dp(read, mask, noise, speaker)) * mask * length_scale
        frames = torch.ceil(lasts)[:, 0].long()
        path = expansion(frames).to(mean.dtype)
        return mean @ path, log_scale @ path, frames

    def forward(
        self,
        tokens: Tensor,
        noise_scale: float = 0.667,
        length_scale: float = 1.0,
        noise_w: float = 0.8,
        sid: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One text's tokens [1, tokens] to samples [1, 1, samples] in -1..1."""
        mask = torch.ones_like(tokens, dtype=torch.float32)[:, None]
        noise = noise_w * torch.randn(1, 2, tokens.shape[1], generator=generator)
        speaker = self.speaker(sid)
        mean, log_scale, _ = self.text(tokens, mask, noise, speaker, length_scale)
        drawn = torch.randn(mean.shape, generator=generator)
        latent = self.flow(mean + drawn * torch.exp(log_scale) * noise_scale, torch.ones_like(mean[:, :1]), speaker)
        made: Tensor = self.dec(latent, speaker)
        return made


def from_onnx(models: Iterable[Any]) -> Vits:
    """The voice of exported ONNX graphs, whole or cut into stages. Raises ModelError if they are no VITS voice as
    PyTorch exports it."""
    from vivace.modules._vits_onnx import read

    return _filled(*read(models))


def from_coqui(config: Mapping[str, Any], weights: Mapping[str, Array]) -> Vits:
    """The voice of a Coqui `config.json` and the weights of its checkpoint. Raises ModelError if it is no plain VITS,
    or the two do not fit, naming the first weight that does not."""
    from vivace.modules._vits_coqui import read, shape

    return _filled(shape(config), read(weights))


def part(name: str, shape: Mapping[str, Any]) -> Any:
    """A stage of a bundle as a module with `inputs`, `outputs` and `timed`; its weights are loaded into its `voice`."""
    from vivace.modules import _vits_parts

    return _vits_parts.part(name, shape)


def parts_from_onnx(
    models: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """The shape, as a manifest keeps it, and the weights of each of the stages `models`. `known` is the shape where
    other stages are modules already. Raises ModelError if they are not as PyTorch exported them."""
    from vivace.modules import _vits_parts

    return _vits_parts.read_parts(models, known)


def to_onnx(module: Vits) -> Any:
    """The module as a ModelProto with the signature of Piper's voices; `from_onnx` gives the same module again."""
    from vivace.modules._vits_export import to_onnx

    return to_onnx(module)


def built(shape: Mapping[str, Any], weights: Mapping[str, Any]) -> Vits:
    """The module of a shape, as a manifest keeps it, and its weights. Raises ModelError if they do not fit."""
    from vivace.modules._vits_parts import shape_from

    return _filled(shape_from(shape), weights)


def read_coqui(config: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The shape, as a manifest keeps it, that a Coqui `config.json` describes, and the weights under their own names:
    weight norm folded, what speaks alone, what is quantized as it is. Raises ModelError if it is no plain VITS."""
    from vivace.modules._vits_coqui import read, shape
    from vivace.modules._vits_parts import plain

    return plain(shape(config)), {name: torch.as_tensor(value) for name, value in read(weights).items()}


def to_coqui(
    shape: Mapping[str, Any], weights: Mapping[str, Tensor], known: Mapping[str, Any], *, whole: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The `model_args` of a Coqui config (`known` are those it has) and the weights under Coqui's names. `whole`: with
    weight norm and what training needs, as coqui-tts loads them; else as they are.

    Raises ModelError for a voice that Coqui's VITS cannot be."""
    from vivace.modules._vits_coqui import model_args, write
    from vivace.modules._vits_coqui_rest import complete
    from vivace.modules._vits_parts import shape_from

    args = {**known, **model_args(shape_from(shape))}
    named = write(weights)
    return args, complete(named, args) if whole else named


def coqui_layer(name: str, *, back: bool = False) -> str:
    """Coqui's name of a layer, or, `back`, ours of theirs."""
    from vivace.modules import _vits_coqui as coqui

    found = coqui.renamed(f"{name}.weight", coqui.NAMES if back else coqui.BACK)
    return (found or "").removesuffix(".weight")


def floats(shape: Mapping[str, Any], weights: Mapping[str, Tensor], quantized: Mapping[str, str]) -> dict[str, Tensor]:
    """All weights as float32 in full size: what is quantized or sparse is widened. `quantized` names the layers.
    Raises ModelError for layers that the voice does not have, or whose scales are missing."""
    from vivace.modules._vits_parts import shape_from
    from vivace.modules.quantized import SCALE, axis_of, dense, widened

    with torch.device("meta"):
        voice = Vits(shape_from(shape))
    found = dense(weights, {name: tuple(value.shape) for name, value in voice.state_dict().items()})
    layers = dict(voice.named_modules())
    for name in quantized:
        layer, key = layers.get(name), f"{name}.weight"
        if layer is None or key not in found or key + SCALE not in found:
            raise ModelError(f"the settings say that {name} is quantized; the checkpoint does not have it so")
        found[key] = widened(found[key], found.pop(key + SCALE), axis_of(layer))
    return {name: value.float() for name, value in found.items()}


def _filled(shape: Shape, weights: Mapping[str, Any]) -> Vits:
    made = Vits(shape)
    wanted = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    for name, size in wanted.items():
        if name not in weights:
            raise ModelError(f"the weight {name} is missing: the settings ask for {size}")
        if weights[name].shape != size:
            raise ModelError(f"the weight {name} is {tuple(weights[name].shape)}; the settings ask for {size}")
    if extra := sorted(set(weights) - set(wanted)):
        raise ModelError(f"the weight {extra[0]} belongs to nothing that the settings ask for")
    made.load_state_dict(
        {name: value.clone() if isinstance(value, Tensor) else torch.tensor(value) for name, value in weights.items()}
    )
    made.eval()
    return made


def expansion(frames: Tensor) -> Tensor:
    """[batch, tokens] numbers of frames to the 0/1 matrix [batch, tokens, frames] that repeats each token so often."""
    ends = frames.cumsum(1)[..., None]
    at = torch.arange(ends[:, -1].max().clamp(min=1), device=frames.device)
    return ((at < ends) & (at >= ends - frames[..., None])).float()
