"""What may be left out of a HiFi-GAN decoder: single weights, or whole channels with all that makes and reads them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vivace.core.errors import UsageError
from vivace.modules.hifigan import Generator, GeneratorShape

OPSET = 17
LAYERS = (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)
Axes = dict[str, tuple[int | None, ...]]  # weight -> for each axis, which of the widths it runs along


def smallest(weights: Mapping[str, Tensor], share: float, *, each: bool) -> dict[str, Tensor]:
    """The weights with the smallest `share` of them zero (Han et al. 2015): of `each` tensor, or of all together."""
    if each:
        return {name: _zeroed(w, _limit(w.abs().reshape(-1), share)) for name, w in weights.items()}
    limit = _limit(torch.cat([w.abs().reshape(-1) for w in weights.values()]), share)
    return {name: _zeroed(w, limit) for name, w in weights.items()}


def prunable(voice: nn.Module) -> list[str]:
    """The names of the weights of convolutions and matrix products, but for those that make the samples."""
    found = [f"{name}.weight" for name, layer in voice.named_modules() if isinstance(layer, LAYERS)]
    return [name for name in found if not name.endswith("conv_post.weight")]


def axes(shape: GeneratorShape) -> Axes:
    """Which channels of a decoder belong together: those of `widths[k]` are what one layer makes, what is added to it,
    and what the next ones read; a channel goes from all of them or from none (Fang et al. 2023, "DepGraph")."""
    found: Axes = {"conv_pre.weight": (0, None), "conv_pre.bias": (0,)}
    if shape.speaker_channels:
        found |= {"cond.weight": (0, None), "cond.bias": (0,)}
    each = len(shape.block_kernels)
    for k in range(len(shape.rates)):
        found |= {f"ups.{k}.weight": (k, k + 1), f"ups.{k}.bias": (k + 1,)}
        for block in range(k * each, (k + 1) * each):
            for kind in ("convs1", "convs2") if shape.resblock == "1" else ("convs",):
                for n in range(len(shape.block_dilations[block - k * each])):
                    layer = f"resblocks.{block}.{kind}.{n}"
                    found |= {f"{layer}.weight": (k + 1, k + 1), f"{layer}.bias": (k + 1,)}
    last = len(shape.widths) - 1
    return found | {"conv_post.weight": (None, last), **({"conv_post.bias": (None,)} if shape.last_bias else {})}


def narrower(
    shape: GeneratorShape, weights: Mapping[str, Tensor], share: float, multiple: int
) -> tuple[GeneratorShape, dict[str, Tensor]]:
    """A decoder without `share` of its channels, each width rounded to a `multiple`. What goes is what weighs least in
    the layers that make and read it: the squared norms, each layer's divided by its mean. Raises UsageError if nothing
    would go."""
    known = axes(shape)
    widths = tuple(max(min(multiple, w), round(w * (1 - share) / multiple) * multiple) for w in shape.widths)
    if widths == shape.widths:
        raise UsageError(f"no channel goes at a share of {share:g} in multiples of {multiple}")
    kept = [
        _heaviest(known, weights, k, old, new) for k, (old, new) in enumerate(zip(shape.widths, widths, strict=True))
    ]
    made = {}
    for name, value in weights.items():
        for axis, width in enumerate(known[name]):
            if width is not None:
                value = value.index_select(axis, kept[width])
        made[name] = value.contiguous()
    return replace(shape, widths=widths), made


def decoder(shape: GeneratorShape, weights: Mapping[str, Tensor]) -> Generator:
    made = Generator(shape)
    made.load_state_dict(dict(weights))
    made.eval()
    return made


def hold_zeros(module: nn.Module) -> None:
    """Zeros stay zeros while the module learns, until `let_go`."""
    for layer in module.modules():
        if isinstance(layer, LAYERS) and bool((layer.weight == 0).any()):
            parametrize.register_parametrization(layer, "weight", _Held((layer.weight != 0).float()))


def let_go(module: nn.Module) -> None:
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def to_onnx(made: Generator) -> Any:
    """The decoder as a ModelProto with the inputs and outputs of a Piper voice's decoder stage; its layers are named as
    in that voice, so that passes and loaders know them."""
    import onnx

    from vivace.modules._vits_export import _fold, _unshare

    s, names = made.shape, ["latent", *(["speaker"] if made.shape.speaker_channels else [])]
    given = (torch.zeros(1, s.channels, 16), *([torch.zeros(1, s.speaker_channels, 1)] if s.speaker_channels else []))
    sizes = {name: {0: "batch_size", 2: "frames"} for name in names[:1]} | {"output": {0: "batch_size", 3: "time"}}
    sizes |= {name: {0: "batch_size"} for name in names[1:]}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter tells its own users that it grows old
        torch.onnx.export(
            _Stage(made).eval(), given, buffer, input_names=names, output_names=["output"], dynamic_axes=sizes,
            opset_version=OPSET, dynamo=False, do_constant_folding=False,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    _unshare(model.graph)
    _fold(model.graph)
    model.graph.name = "decoder"
    return model


class _Stage(nn.Module):
    def __init__(self, dec: Generator) -> None:
        super().__init__()
        self.dec = dec

    def forward(self, latent: Tensor, speaker: Tensor | None = None) -> Tensor:
        made: Tensor = self.dec(latent, speaker)[:, None]
        return made


class _Held(nn.Module):
    def __init__(self, there: Tensor) -> None:
        super().__init__()
        self.register_buffer("there", there, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        there: Tensor = self.there
        return weight * there


def _limit(sizes: Tensor, share: float) -> Tensor:
    count = int(share * sizes.numel())
    return sizes.kthvalue(count).values if count else torch.tensor(-1.0)


def _zeroed(weight: Tensor, limit: Tensor) -> Tensor:
    return torch.where(weight.abs() <= limit, torch.zeros_like(weight), weight)


def _heaviest(known: Axes, weights: Mapping[str, Tensor], width: int, old: int, new: int) -> Tensor:
    """The indices of the `new` channels of a width that weigh most, in order."""
    weight = torch.zeros(old)
    for name, along in known.items():
        value = weights[name].float()
        for axis, own in enumerate(along):
            if own == width and value.ndim > 1:
                norms = value.square().sum([k for k in range(value.ndim) if k != axis])
                weight += norms / norms.mean().clamp(min=1e-12)
    return weight.topk(new).indices.sort().values


def strip(weights: Mapping[str, Tensor], prefix: str = "dec.") -> dict[str, Tensor]:
    """A decoder's own weights, from those of its stage."""
    return {re.sub(f"^{re.escape(prefix)}", "", name): value for name, value in weights.items()}
