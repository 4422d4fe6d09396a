"""HiFi-GAN (Kong et al. 2020) as Hugging Face keeps it: its configuration, its weights, its graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.families._graph_builder import Builder, floats
from vivace.families._stepping import VOCODER
from vivace.families._transformer_config import CONFIG

TYPES = ("hifigan", "speecht5_hifigan")
EDGE = 7  # kernel of the first and the last convolution


@dataclass(frozen=True)
class Vocoder:
    """`dilations` has a list for each of `kernels`. `centred`: mels are given as they are, and centred here."""

    mels: int
    sample_rate: int
    channels: int
    rates: tuple[int, ...]
    up_kernels: tuple[int, ...]
    kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    slope: float
    centred: bool


def is_vocoder(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"] in TYPES)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def find(folder: Path) -> Path:
    """The vocoder's folder: in the model's own, else beside it. Raises ModelError unless there is exactly one."""
    for place in (folder, folder.resolve().parent):
        found = [child for child in sorted(place.iterdir()) if child != folder and is_vocoder(child)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelError(f"{place} holds {len(found)} vocoders ({found[0].name}, {found[1].name}); leave one there")
    raise ModelError(
        f'{folder} has no vocoder: put its folder (a {CONFIG} with "model_type": "hifigan" and its weights) into it'
    )


def read(folder: Path) -> Vocoder:
    """Raises ModelError naming the wrong field."""
    file = folder / CONFIG
    data = json.loads(file.read_text(encoding="utf-8"))

    def whole(name: str, default: int) -> int:
        value = data.get(name, default)
        need(isinstance(value, int) and not isinstance(value, bool) and value > 0, name, "a whole number")
        return int(value)

    def several(name: str, default: Any, values: Any = None) -> tuple[int, ...]:
        values = data.get(name, default) if values is None else values
        good = isinstance(values, list) and values and all(type(v) is int and v > 0 for v in values)
        need(good, name, "a list of whole numbers")
        return tuple(values)

    def need(holds: Any, name: str, what: str) -> None:
        if not holds:
            raise ModelError(f"{file}: field {name} is wrong; it must be {what}")

    rates, ups = several("upsample_rates", [4] * 4), several("upsample_kernel_sizes", [8] * 4)
    fits = len(rates) == len(ups) and all(k >= r and (k - r) % 2 == 0 for k, r in zip(ups, rates, strict=True))
    need(fits, "upsample_kernel_sizes", "one for each rate, larger by an even number")
    kernels, dilations = (
        several("resblock_kernel_sizes", [3, 7, 11]),
        data.get("resblock_dilation_sizes", [[1, 3, 5]] * 3),
    )
    need(
        isinstance(dilations, list) and len(dilations) == len(kernels), "resblock_dilation_sizes", "one for each kernel"
    )
    need(all(k % 2 for k in kernels), "resblock_kernel_sizes", "odd")
    channels, slope = whole("upsample_initial_channel", 512), data.get("leaky_relu_slope", 0.1)
    need(channels % 2 ** len(rates) == 0, "upsample_initial_channel", "divisible by two for each rate")
    need(isinstance(slope, (int, float)), "leaky_relu_slope", "a number")
    centred = data.get("normalize_before", True)
    need(isinstance(centred, bool), "normalize_before", "true or false")
    each = tuple(several("resblock_dilation_sizes", None, sizes) for sizes in dilations)
    rate = whole("sampling_rate", 16_000)
    return Vocoder(whole("model_in_dim", 80), rate, channels, rates, ups, kernels, each, float(slope), centred)


def weights_wanted(v: Vocoder) -> dict[str, tuple[int, ...]]:
    def conv(name: str, out: int, into: int, kernel: int, *, turned: bool = False) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (into, out, kernel) if turned else (out, into, kernel), f"{name}.bias": (out,)}

    wanted: dict[str, tuple[int, ...]] = {"mean": (v.mels,), "scale": (v.mels,)}
    wanted |= conv("conv_pre", v.channels, v.mels, EDGE)
    for k, kernel in enumerate(v.up_kernels):
        channels = v.channels >> (k + 1)
        wanted |= conv(f"upsampler.{k}", channels, 2 * channels, kernel, turned=True)
        for j, (size, dilations) in enumerate(zip(v.kernels, v.dilations, strict=True)):
            for i in range(len(dilations)):
                for part in ("convs1", "convs2"):
                    wanted |= conv(f"resblocks.{k * len(v.kernels) + j}.{part}.{i}", channels, channels, size)
    return wanted | conv("conv_post", 1, v.channels >> len(v.rates), EDGE)


def build(v: Vocoder, weights: Mapping[str, Array]) -> Any:
    """The ModelProto: `latent` [batch, mels, frames] to `output` [batch, 1, samples]. The weights must fit."""
    g = Builder(weights, 0, 1)

    def conv(name: str, x: str, *, kernel: int, dilation: int = 1, **own: Any) -> str:
        pad = dilation * (kernel - 1) // 2
        own = {"kernel_shape": [kernel], "dilations": [dilation], "pads": [pad, pad]} | own
        inputs = [x, *(g.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))]
        return g.add("ConvTranspose" if "strides" in own else "Conv", name, inputs, **own)

    def bent(name: str, x: str, slope: float = v.slope) -> str:
        return g.add("LeakyRelu", f"{name}.bent", [x], alpha=slope)

    x = "latent"
    if v.centred:
        mean, scale = (g.constant(name, weights[name][:, None]) for name in ("mean", "scale"))
        x = g.add("Div", "centred", [g.add("Sub", "centred", [x, mean]), scale])
    x = conv("conv_pre", x, kernel=EDGE)
    for k, (rate, size) in enumerate(zip(v.rates, v.up_kernels, strict=True)):
        name, pad = f"upsampler.{k}", (size - rate) // 2
        x = conv(name, bent(name, x), kernel=size, pads=[pad, pad], strides=[rate])
        made = []
        for j, (kernel, dilations) in enumerate(zip(v.kernels, v.dilations, strict=True)):
            y, block = x, f"resblocks.{k * len(v.kernels) + j}"
            for i, dilation in enumerate(dilations):
                first, second = f"{block}.convs1.{i}", f"{block}.convs2.{i}"
                z = conv(first, bent(first, y), kernel=kernel, dilation=dilation)
                y = g.add("Add", f"{block}.{i}", [conv(second, bent(second, z), kernel=kernel), y])
            made.append(y)
        for j, y in enumerate(made[1:]):
            made[0] = g.add("Add", f"blocks.{k}.{j}", [made[0], y])
        x = g.add("Div", f"blocks.{k}", [made[0], g.constant("blocks", np.float32(len(v.kernels)))])
    x = conv("conv_post", bent("conv_post", x, 0.01), kernel=EDGE)
    g.add("Tanh", "output", [x], "output")
    return g.model(VOCODER, [floats("latent", "batch", v.mels, "frames")], [floats("output", "batch", 1, "samples")])
