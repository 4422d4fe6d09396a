"""A VITS voice as Coqui TTS stores it: `config.json`, and `model_file.pth` with the weights under "model".

Read from the package coqui-tts 0.28: it names the parts anew, does not count the flips between flows, and keeps weight
norm, in PyTorch's old spelling (`weight_g`, `weight_v`) or its new one (`parametrizations.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Literal

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.modules.hifigan import GeneratorShape
from vivace.modules.vits import Shape

# Theirs to ours; what training alone needs is None.
NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str] | None], ...] = (
    (r"(disc|posterior_encoder)\..*", None),
    (r"duration_predictor\.post_.*", None),
    (r"duration_predictor\.flows\.1\..*", None),
    (r"text_encoder\.", "enc_p."),
    (r"waveform_decoder\.cond_layer\.", "dec.cond."),
    (r"waveform_decoder\.", "dec."),
    (r"duration_predictor\.flows\.0\.translation", "dp.flows.0.m"),
    (r"duration_predictor\.flows\.0\.log_scale", "dp.flows.0.logs"),
    (r"duration_predictor\.flows\.(\d+)\.", lambda m: f"dp.flows.{2 * int(m[1]) - 1}."),
    (r"duration_predictor\.", "dp."),
    (r"flow\.flows\.(\d+)\.", lambda m: f"flow.flows.{2 * int(m[1])}."),
)
BACK: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"enc_p\.", "text_encoder."),
    (r"dec\.cond\.", "waveform_decoder.cond_layer."),
    (r"dec\.", "waveform_decoder."),
    (r"dp\.flows\.0\.m", "duration_predictor.flows.0.translation"),
    (r"dp\.flows\.0\.logs", "duration_predictor.flows.0.log_scale"),
    (r"dp\.flows\.(\d+)\.", lambda m: f"duration_predictor.flows.{(int(m[1]) + 1) // 2}."),
    (r"dp\.", "duration_predictor."),
    (r"flow\.flows\.(\d+)\.", lambda m: f"flow.flows.{int(m[1]) // 2}."),
)
DEFAULTS: dict[str, Any] = {  # of their VitsArgs, for what a config leaves out
    "num_chars": 100, "hidden_channels": 192, "hidden_channels_ffn_text_encoder": 768, "num_heads_text_encoder": 2,
    "num_layers_text_encoder": 6, "kernel_size_text_encoder": 3, "kernel_size_flow": 5, "dilation_rate_flow": 1,
    "num_layers_flow": 4, "resblock_type_decoder": "1", "resblock_kernel_sizes_decoder": [3, 7, 11],
    "resblock_dilation_sizes_decoder": [[1, 3, 5]] * 3, "upsample_rates_decoder": [8, 8, 2, 2],
    "upsample_initial_channel_decoder": 512, "upsample_kernel_sizes_decoder": [16, 16, 4, 4], "use_sdp": True,
    "use_speaker_embedding": False, "speaker_embedding_channels": 256, "num_speakers": 0,
}  # fmt: skip
UNKNOWN = {  # switches that change the model in ways that are not here
    "use_d_vector_file": "speaks by speaker vectors", "use_language_embedding": "speaks several languages",
    "encoder_sample_rate": "upsamples between encoder and decoder",
}  # fmt: skip
FLOWS, DURATION_FLOWS = 4, 4  # not configurable there
SDP_CHANNELS, DP_CHANNELS, DURATION_KERNEL, WINDOW = 192, 256, 3, 4
DP_LEAST = 1e-4
DILATIONS = {"1": 3, "2": 2}  # convolutions of each residual block; theirs look at no more


def shape(config: Mapping[str, Any]) -> Shape:
    """The sizes of the model that a config describes. Raises ModelError for one that is no plain VITS."""
    if config.get("model") != "vits":
        raise ModelError(f"the config is for {str(config.get('model'))[:40]!r}; of Coqui's models, vits is known here")
    given = config.get("model_args") or {}
    for switch, meaning in UNKNOWN.items():
        if given.get(switch):
            raise ModelError(f"the config has {switch}: a model that {meaning} is not known here")
    if given.get("use_speaker_embedding") and given.get("condition_dp_on_speaker") is False:
        raise ModelError("the config has condition_dp_on_speaker off: durations without the speaker are not known here")
    a = {**DEFAULTS, **{key: value for key, value in given.items() if value is not None}}
    speakers = int(a["num_speakers"]) if a["use_speaker_embedding"] else 0
    speaker_channels = int(a["speaker_embedding_channels"]) if speakers else 0
    resblock: Literal["1", "2"] = "1" if str(a["resblock_type_decoder"]) == "1" else "2"
    rates, first = tuple(a["upsample_rates_decoder"]), int(a["upsample_initial_channel_decoder"])
    made, hop = prod(rates), (config.get("audio") or {}).get("hop_length")
    if hop not in (None, made):
        raise ModelError(
            f"upsample_rates_decoder {list(rates)} makes {made} samples of a frame, and audio.hop_length is {hop}"
        )
    decoder = GeneratorShape(
        channels=a["hidden_channels"],
        widths=tuple(first // 2**k for k in range(len(rates) + 1)),
        rates=rates,
        kernels=tuple(a["upsample_kernel_sizes_decoder"]),
        block_kernels=tuple(a["resblock_kernel_sizes_decoder"]),
        block_dilations=tuple(tuple(d[: DILATIONS[resblock]]) for d in a["resblock_dilation_sizes_decoder"]),
        resblock=resblock,
        speaker_channels=speaker_channels,
    )
    return Shape(
        tokens=a["num_chars"],
        decoder=decoder,
        channels=a["hidden_channels"],
        hidden=a["hidden_channels"],
        filter=a["hidden_channels_ffn_text_encoder"],
        heads=a["num_heads_text_encoder"],
        layers=a["num_layers_text_encoder"],
        kernel=a["kernel_size_text_encoder"],
        window=WINDOW,
        flows=FLOWS,
        flow_layers=a["num_layers_flow"],
        flow_kernel=a["kernel_size_flow"],
        flow_dilation=a["dilation_rate_flow"],
        stochastic=bool(a["use_sdp"]),
        duration_filter=SDP_CHANNELS if a["use_sdp"] else DP_CHANNELS,
        duration_kernel=DURATION_KERNEL,
        duration_flows=DURATION_FLOWS,
        duration_least=Shape.duration_least if a["use_sdp"] else DP_LEAST,
        speakers=speakers,
        speaker_channels=speaker_channels,
    )


def model_args(s: Shape) -> dict[str, Any]:
    """The `model_args` of a config for a voice of these sizes. Raises ModelError for what their VITS cannot have."""
    d = s.decoder
    fixed = {
        "flows": (s.flows, FLOWS), "window": (s.window, WINDOW), "hidden": (s.hidden, s.channels),
        "duration_kernel": (s.duration_kernel, DURATION_KERNEL),
        "duration_filter": (s.duration_filter, SDP_CHANNELS if s.stochastic else DP_CHANNELS),
        "widths": (d.widths, tuple(d.widths[0] // 2**k for k in range(len(d.widths)))),
        "last_bias": (d.last_bias, False),
        "dilations": ({len(each) for each in d.block_dilations}, {DILATIONS[d.resblock]}),
        "duration_least": (s.stochastic or s.duration_least, s.stochastic or DP_LEAST),
    }  # fmt: skip
    for name, (have, can) in fixed.items():
        if have != can:
            raise ModelError(f"Coqui's VITS has {name} {can}, and this voice {have}: it cannot be written as one")
    return {
        "num_chars": s.tokens, "hidden_channels": s.channels, "hidden_channels_ffn_text_encoder": s.filter,
        "num_heads_text_encoder": s.heads, "num_layers_text_encoder": s.layers, "kernel_size_text_encoder": s.kernel,
        "kernel_size_flow": s.flow_kernel, "dilation_rate_flow": s.flow_dilation, "num_layers_flow": s.flow_layers,
        "resblock_type_decoder": d.resblock, "resblock_kernel_sizes_decoder": list(d.block_kernels),
        "resblock_dilation_sizes_decoder": [list(each) for each in d.block_dilations],
        "upsample_rates_decoder": list(d.rates), "upsample_initial_channel_decoder": d.widths[0],
        "upsample_kernel_sizes_decoder": list(d.kernels), "use_sdp": s.stochastic,
        "use_speaker_embedding": bool(s.speakers), "num_speakers": s.speakers,
        "speaker_embedding_channels": s.speaker_channels or DEFAULTS["speaker_embedding_channels"],
        "init_discriminator": False,
    }  # fmt: skip


def read(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Their weights under our names, weight norm folded, what speaks alone."""
    found = {}
    for name, value in _folded(weights).items():
        if ours := renamed(name, NAMES):
            found[ours] = value.reshape(-1) if ours.endswith((".gamma", ".beta")) else value
    return found


def write(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Our weights (arrays or tensors) under their names, without weight norm and what training alone needs."""
    found = {}
    for name, value in weights.items():
        theirs = renamed(name, BACK)
        assert theirs
        layer_norm = name.startswith("dp.norm_")  # the deterministic predictor's norms have three axes there
        found[theirs] = value.reshape(1, -1, 1) if layer_norm else value
    return found


def renamed(name: str, rules: tuple[Any, ...]) -> str | None:
    """The name in the other spelling (`NAMES`: ours, `BACK`: theirs); None for what does not speak."""
    for pattern, new in rules:
        if re.match(pattern, name):
            return None if new is None else re.sub(f"^{pattern}", new, name)
    return name


def _folded(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Without weight norm (Salimans and Kingma 2016): the direction `v` of each output at the length `g`."""
    found = {}
    spellings = (
        (".weight_g", ".weight_v"),
        (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    )
    for name, value in weights.items():
        for length, direction in spellings:
            if name.endswith(direction):
                base = name.removesuffix(direction)
                wide = np.asarray(value, np.float64)
                norm = np.sqrt(np.square(wide).sum(tuple(range(1, value.ndim)), keepdims=True))
                found[f"{base}.weight"] = (wide * (np.asarray(weights[base + length]) / norm)).astype(np.float32)
                break
            if name.endswith(length):
                break
        else:
            found[name] = value
    return found
