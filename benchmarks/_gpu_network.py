"""The autoregressive challenge's model in PyTorch: encoder, decoder as a prefix and as a cached step, vocoder.

Weights are named as nn.Transformer layers name them, as in the family `transformer_mel`. The cache of a layer is
[slot, position, keys and values], so that what a step adds is one contiguous write.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    tokens: int = 30
    width: int = 512
    heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    mels: int = 80
    channels: tuple[int, ...] = (256, 128, 64, 1)
    strides: tuple[int, ...] = (8, 8, 4, 1)
    longest: int = 1024  # positions
    sample_rate: int = 22050

    @property
    def hop(self) -> int:
        return math.prod(self.strides)


def weights_wanted(s: Sizes) -> dict[str, tuple[int, ...]]:
    d, wanted = s.width, {"embedding.weight": (s.tokens, s.width)}

    def linear(name: str, out: int, into: int) -> None:
        wanted.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    for stack, count, attentions in (
        ("encoder", s.encoder_layers, ("self_attn",)),
        ("decoder", s.decoder_layers, ("self_attn", "multihead_attn")),
    ):
        for name in (f"{stack}.layers.{k}" for k in range(count)):
            for kind in attentions:
                wanted.update({f"{name}.{kind}.in_proj_weight": (3 * d, d), f"{name}.{kind}.in_proj_bias": (3 * d,)})
                linear(f"{name}.{kind}.out_proj", d, d)
            linear(f"{name}.linear1", s.hidden, d)
            linear(f"{name}.linear2", d, s.hidden)
            for k in range(len(attentions) + 1):
                wanted.update({f"{name}.norm{k + 1}.weight": (d,), f"{name}.norm{k + 1}.bias": (d,)})
    linear("mel_in", d, s.mels)
    linear("stop", 1, d)
    linear("mel_out", s.mels, d)
    for k, (into, out, stride) in enumerate(zip((s.mels, *s.channels), s.channels, s.strides, strict=False)):
        wanted[f"vocoder.{k}.weight"] = (into, out, 2 * stride) if stride > 1 else (out, into, 7)
        wanted[f"vocoder.{k}.bias"] = (out,)
    return wanted


def seeded(s: Sizes, seed: int = 0, stop: float = -20.0) -> dict[str, np.ndarray]:
    """Weights by which nothing fades or blows up; with that stop bias no speech ends by itself."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, size in weights_wanted(s).items():
        fan = size[-1] if len(size) == 2 else size[1] if len(size) == 3 else 8
        drawn = np.ones(size) if "norm" in name and name.endswith("weight") else rng.standard_normal(size) / fan**0.5
        made[name] = drawn.astype(np.float32)
    made["stop.weight"] *= stop > -20
    made["stop.bias"][:] = stop
    return made


def joined(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x + y, (x.shape[-1],), weight, bias)


Own = Callable[[int, Tensor], Tensor]  # a layer and its new keys and values: all that it attends to


class Network:
    """`fused`: sum and norm are one kernel, compiled by torch.compile, and ReLU is the end of its product."""

    def __init__(
        self, s: Sizes, weights: dict[str, np.ndarray], dtype: torch.dtype, device: str, *, fused: bool = False
    ):
        self.s, self.dtype, self.device, self.fused = s, dtype, device, fused
        self.w = {name: torch.from_numpy(array).to(device, dtype) for name, array in weights.items()}
        d = s.width
        angle = np.arange(s.longest)[:, None] * np.exp(np.arange(0, d, 2) * (-math.log(10_000.0) / d))
        table = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(s.longest, d)
        self.positions = torch.from_numpy(table.astype(np.float32)).to(device, dtype)
        self.join = torch.compile(joined, dynamic=True) if fused else joined
        for k in range(s.decoder_layers):  # keys and values of the text come from one product for all layers
            name = f"decoder.layers.{k}.multihead_attn.in_proj_"
            self.w[f"{name}q_weight"], self.w[f"{name}q_bias"] = self.w[f"{name}weight"][:d], self.w[f"{name}bias"][:d]
        names = [f"decoder.layers.{k}.multihead_attn.in_proj_" for k in range(s.decoder_layers)]
        for part in ("weight", "bias"):  # frames and stop are one product
            self.w[f"out.{part}"] = torch.cat([self.w[f"mel_out.{part}"], self.w[f"stop.{part}"]])
        self.cross_weight = torch.cat([self.w[f"{name}weight"][d:] for name in names])
        self.cross_bias = torch.cat([self.w[f"{name}bias"][d:] for name in names])

    def linear(self, name: str, x: Tensor, join: str = ".") -> Tensor:
        return F.linear(x, self.w[f"{name}{join}weight"], self.w[f"{name}{join}bias"])

    def norm(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        flat = (-1, self.s.width)  # two shapes to compile for: one row, and several
        made = self.join(x.reshape(flat), y.reshape(flat), self.w[f"{name}.weight"], self.w[f"{name}.bias"])
        return made.view(x.shape)

    def attend(self, q: Tensor, kv: Tensor, bias: Tensor | None, *, causal: bool = False) -> Tensor:
        """q [rows, time, width] to kv [rows, positions, 2 width]."""
        heads, head = self.s.heads, self.s.width // self.s.heads
        split = kv.view(*kv.shape[:2], 2, heads, head).permute(2, 0, 3, 1, 4)
        made = F.scaled_dot_product_attention(
            q.view(*q.shape[:2], heads, head).transpose(1, 2), split[0], split[1], attn_mask=bias, is_causal=causal
        )
        return made.transpose(1, 2).reshape(q.shape)

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        if not self.fused:
            return self.linear(f"{name}.linear2", F.relu(self.linear(f"{name}.linear1", x)))
        weight, bias = self.w[f"{name}.linear1.weight"], self.w[f"{name}.linear1.bias"]
        made = torch._addmm_activation(bias, x.reshape(-1, self.s.width), weight.t())
        return self.linear(f"{name}.linear2", made).view(x.shape)

    def encode(self, tokens: Tensor, token_bias: Tensor) -> Tensor:
        """[rows, tokens] to the keys and values of all decoder layers, [layer, rows, tokens, 2 width]."""
        d = self.s.width
        x = F.embedding(tokens, self.w["embedding.weight"]) + self.positions[: tokens.shape[1]]
        for k in range(self.s.encoder_layers):
            name = f"encoder.layers.{k}"
            q, kv = self.linear(f"{name}.self_attn.in_proj", x, "_").split((d, 2 * d), -1)
            y = self.linear(f"{name}.self_attn.out_proj", self.attend(q, kv, token_bias))
            x = self.norm(f"{name}.norm1", x, y)
            x = self.norm(f"{name}.norm2", x, self.feed_forward(name, x))
        made = F.linear(x, self.cross_weight, self.cross_bias)
        return made.view(*tokens.shape, self.s.decoder_layers, 2 * d).permute(2, 0, 1, 3).contiguous()

    def _decode(self, x: Tensor, own: Own, cross: Tensor, token_bias: Tensor, bias: Tensor | None) -> Tensor:
        d = self.s.width
        for k in range(self.s.decoder_layers):
            name = f"decoder.layers.{k}"
            q, kv = self.linear(f"{name}.self_attn.in_proj", x, "_").split((d, 2 * d), -1)
            y = self.attend(q, own(k, kv), bias, causal=bias is None)
            x = self.norm(f"{name}.norm1", x, self.linear(f"{name}.self_attn.out_proj", y))
            q = self.linear(f"{name}.multihead_attn.in_proj_q", x, "_")
            y = self.attend(q, cross[k], token_bias)
            x = self.norm(f"{name}.norm2", x, self.linear(f"{name}.multihead_attn.out_proj", y))
            x = self.norm(f"{name}.norm3", x, self.feed_forward(name, x))
        return x

    def prefix(self, before: Tensor, cross: Tensor, token_bias: Tensor) -> tuple[Tensor, Tensor]:
        """The definition: frames [rows, time, mels], zeros first, to the next frame and stop logit after the last."""
        x = self.linear("mel_in", before.to(self.dtype)) + self.positions[: before.shape[1]]
        x = self._decode(x, lambda k, kv: kv, cross, token_bias, None)[:, -1]
        return self.out(x)

    def step(self, before: Tensor, place: Tensor, own: Own, cross: Tensor, token_bias: Tensor, bias: Tensor) -> Tensor:
        """The last frame of each row [rows, mels], at `place` [rows], to what `out` makes frames and stops of."""
        x = (self.linear("mel_in", before.to(self.dtype)) + self.positions[place])[:, None]
        return self._decode(x, own, cross, token_bias, bias)[:, 0]

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.linear("out", x).float()
        return made[:, :-1], made[:, -1:]

    def vocoder(self, latent: Tensor) -> Tensor:
        """[rows, mels, frames] to samples [rows, frames * hop]."""
        x, last = latent.to(self.dtype), len(self.s.strides) - 1
        for k, stride in enumerate(self.s.strides):
            weight, bias = self.w[f"vocoder.{k}.weight"], self.w[f"vocoder.{k}.bias"]
            if stride > 1:
                x = F.conv_transpose1d(x, weight, bias, stride=stride, padding=stride // 2)
            else:
                x = F.conv1d(x, weight, bias, padding=3)
            x = x.tanh_() if k == last else F.leaky_relu_(x, 0.1)
        return x[:, 0].float()


def recomputed(net: Network, tokens: list[int], frames: int) -> Tensor:
    """[frames, mels]: every step computes all frames before it anew, one text at a time."""
    ids = torch.tensor([tokens], device=net.device)
    shut = torch.zeros((1, 1, 1, len(tokens)), device=net.device, dtype=net.dtype)
    cross = net.encode(ids, shut)
    before = torch.zeros((1, frames + 1, net.s.mels), device=net.device)
    for count in range(1, frames + 1):
        frame, stop = net.prefix(before[:, :count], cross, shut)
        before[:, count] = frame
        if stop.item() > 0:
            return before[0, 1 : count + 1]
    return before[0, 1:]
