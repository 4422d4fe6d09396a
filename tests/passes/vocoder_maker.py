"""Tiny HiFi-GAN decoders with seeded weights: the layers and the joints of the real one."""

from __future__ import annotations

from typing import Any

import numpy as np

from passes.graph_maker import GraphMaker
from vivace.core.stage import Array

INPUTS = 6


def decoder(
    channels: int = 64,
    rates: tuple[int, ...] = (4, 2),
    seed: int = 0,
    kernels: tuple[int, ...] = (3, 5),
    tail: str = "",
) -> Any:
    """latent [batch, 6, frames] -> output [batch, 1, 1, samples]. `tail` names one more output: a tensor's shape."""
    rng = np.random.default_rng(seed)
    g = GraphMaker(latent=["batch", INPUTS, "frames"])

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(shape[1] * shape[2])).astype(np.float32)

    def conv(x: str, name: str, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> str:
        pad = dilation * (kernel - 1) // 2
        given = [x, weight(outputs, inputs, kernel), rng.standard_normal(outputs).astype(np.float32) / 10]
        return g.op("Conv", *given, name=name, kernel_shape=[kernel], pads=[pad, pad], dilations=[dilation])

    x = conv("latent", "/dec/conv_pre/Conv", INPUTS, channels, 7)
    for stage, rate in enumerate(rates):
        x = g.op("LeakyRelu", x, alpha=0.1)
        name = f"/dec/ups.{stage}/ConvTranspose"
        given = [
            x,
            weight(channels, channels // 2, 2 * rate),
            rng.standard_normal(channels // 2).astype(np.float32) / 10,
        ]
        shape = {"kernel_shape": [2 * rate], "strides": [rate], "pads": [rate // 2, rate - rate // 2]}
        x = g.op("ConvTranspose", *given, name=name, **shape)
        channels //= 2
        total = ""
        for k, kernel in enumerate(kernels):
            y = x
            for layer, dilation in enumerate((1, 2 + k)):
                name = f"/dec/resblocks.{stage * len(kernels) + k}/convs.{layer}/Conv"
                y = g.op("Add", conv(g.op("LeakyRelu", y, alpha=0.1), name, channels, channels, kernel, dilation), y)
            total = g.op("Add", total, y) if total else y
        x = g.op("Div", total, np.float32(len(kernels)))
    x = g.op("LeakyRelu", x, alpha=0.01)
    x = g.op("Conv", x, weight(1, channels, 7), name="/dec/conv_post/Conv", kernel_shape=[7], pads=[3, 3])
    x = g.op("Unsqueeze", g.op("Tanh", x, name="/dec/Tanh"), g.ints(1))
    return g.model(x, *([g.op("Shape", tail)] if tail else []))


def latent(frames: int, batch: int = 1, seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {"latent": rng.standard_normal((batch, INPUTS, frames)).astype(np.float32)}
