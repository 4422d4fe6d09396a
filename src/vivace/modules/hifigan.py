"""HiFi-GAN's generator (Kong et al. 2020, arXiv:2010.05646), as VITS uses it: latent frames to samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SLOPE = 0.1


@dataclass(frozen=True)
class GeneratorShape:
    """`widths`: channels after the first convolution and after each upsampling. `resblock` is the paper's kind."""

    channels: int
    widths: tuple[int, ...]
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    resblock: Literal["1", "2"] = "2"
    speaker_channels: int = 0
    last_bias: bool = False


class ResBlock1(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(_same(channels, kernel, 1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class ResBlock2(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_same(channels, kernel, d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, SLOPE))
        return x


class Generator(nn.Module):
    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.shape = s = shape
        self.conv_pre = nn.Conv1d(s.channels, s.widths[0], 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        block = ResBlock1 if s.resblock == "1" else ResBlock2
        for k, (rate, kernel) in enumerate(zip(s.rates, s.kernels, strict=True)):
            into, out = s.widths[k : k + 2]
            self.ups.append(nn.ConvTranspose1d(into, out, kernel, rate, padding=(kernel - rate) // 2))
            self.resblocks.extend(block(out, *each) for each in zip(s.block_kernels, s.block_dilations, strict=True))
        self.conv_post = nn.Conv1d(s.widths[-1], 1, 7, padding=3, bias=s.last_bias)
        self.cond = nn.Conv1d(s.speaker_channels, s.widths[0], 1) if s.speaker_channels else None

    def forward(self, latent: Tensor, speaker: Tensor | None = None) -> Tensor:
        """[batch, channels, frames] to samples [batch, 1, frames x hop] in -1..1."""
        return self.with_features(latent, speaker)[0]

    def with_features(self, latent: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The samples, and what is known behind each upsampling [batch, width, time]."""
        x, known = self.conv_pre(latent), []
        if self.cond is not None:
            x = x + self.cond(speaker)
        each = len(self.shape.block_kernels)
        for k, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            made = [block(x) for block in self.resblocks[k * each : (k + 1) * each]]
            x = sum(made[1:], made[0]) / each
            known.append(x)
        return torch.tanh(self.conv_post(F.leaky_relu(x))), known  # the paper's code leaves the last slope at 0.01


def _same(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel * dilation - dilation) // 2)
