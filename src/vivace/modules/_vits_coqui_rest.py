"""What a Coqui checkpoint of VITS holds beside what speaks, so that coqui-tts loads one that was written without it.

Posterior encoder and the other half of the stochastic durations are for training. They are written as single numbers
that PyTorch reads as whole tensors, and take no room. Weight norm is spelled as before PyTorch 2, which all versions of
coqui-tts load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NORMED = re.compile(
    r"(flow\.flows\.\d+\.enc\.(in_layers|res_skip_layers)\.\d+|flow\.flows\.\d+\.enc\.cond_layer"
    r"|waveform_decoder\.(ups\.\d+|resblocks\.\d+\.convs[12]?\.\d+))\.weight"
)
SPECTRUM, LAYERS, KERNEL = 513, 16, 5  # of the posterior encoder, where a config does not say


def complete(weights: Mapping[str, Tensor], args: Mapping[str, Any]) -> dict[str, Tensor]:
    """Their weights without weight norm to all that their model of these `model_args` asks for."""
    made: dict[str, Tensor] = {}
    for name, value in weights.items():
        if NORMED.fullmatch(name):
            length = value.double().square().sum(tuple(range(1, value.ndim)), keepdim=True).sqrt()
            made |= {f"{name}_g": length.float(), f"{name}_v": value}
        else:
            made[name] = value
    made |= _posterior(weights, args)
    if args["use_sdp"]:
        made |= _other_durations(weights)
    return made


def _nothing(*size: int) -> Tensor:
    return torch.zeros(1).expand(size)


def _convolution(name: str, out: int, into: int, kernel: int, *, normed: bool = False) -> dict[str, Tensor]:
    made = {f"{name}.bias": _nothing(out)}
    if not normed:
        return made | {f"{name}.weight": _nothing(out, into, kernel)}
    direction = torch.ones(1).expand(out, into, kernel)  # zeros have none, and become no number
    return made | {f"{name}.weight_g": _nothing(out, 1, 1), f"{name}.weight_v": direction}


def _posterior(weights: Mapping[str, Tensor], args: Mapping[str, Any]) -> dict[str, Tensor]:
    wide, own = int(args["hidden_channels"]), "posterior_encoder"
    layers = int(args.get("num_layers_posterior_encoder") or LAYERS)
    kernel = int(args.get("kernel_size_posterior_encoder") or KERNEL)
    made = _convolution(f"{own}.pre", wide, int(args.get("out_channels") or SPECTRUM), 1)
    made |= _convolution(f"{own}.proj", 2 * wide, wide, 1)
    for k in range(layers):
        out = 2 * wide if k < layers - 1 else wide
        made |= _convolution(f"{own}.enc.in_layers.{k}", 2 * wide, wide, kernel, normed=True)
        made |= _convolution(f"{own}.enc.res_skip_layers.{k}", out, wide, 1, normed=True)
    if "emb_g.weight" in weights:
        speaker = weights["emb_g.weight"].shape[1]
        made |= _convolution(f"{own}.enc.cond_layer", 2 * wide * layers, speaker, 1, normed=True)
    return made


def _other_durations(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The flow that is left out when it speaks, and all that looks at the true durations."""
    own = "duration_predictor"
    flow = {
        name.removeprefix(f"{own}.flows.2."): v for name, v in weights.items() if name.startswith(f"{own}.flows.2.")
    }
    stack = {name.removeprefix(f"{own}.convs."): v for name, v in weights.items() if name.startswith(f"{own}.convs.")}
    wide = weights[f"{own}.pre.weight"].shape[0]
    made = {f"{own}.flows.1.{name}": _nothing(*v.shape) for name, v in flow.items()}
    for k in range(1, 5):
        made |= {f"{own}.post_flows.{k}.{name}": _nothing(*v.shape) for name, v in flow.items()}
    made |= {f"{own}.post_flows.0.{name}": _nothing(2, 1) for name in ("translation", "log_scale")}
    made |= {f"{own}.post_convs.{name}": _nothing(*v.shape) for name, v in stack.items()}
    made |= _convolution(f"{own}.post_pre", wide, 1, 1)
    return made | _convolution(f"{own}.post_proj", wide, wide, 1)
