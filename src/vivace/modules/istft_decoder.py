"""A decoder with fewer operations than HiFi-GAN: dense residual convolutions at 0.7 kHz, and an inverse STFT there.

iSTFTNet (Kaneko et al. 2022, arXiv:2203.02395) stops upsampling early and lets the inverse short-time Fourier transform
do the rest. The transform is a transposed convolution with fixed weights, so that any runtime executes it and its reach
is that of its kernel. Convolutions are dense and without norms: on a CPU these do most arithmetic in a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vivace.core.errors import UsageError
from vivace.modules.hifigan import SLOPE, Generator

LOUDEST = 4.0  # of a bin's logarithmic magnitude: keeps a strange latent from overflowing


@dataclass(frozen=True)
class DecoderShape:
    """`rates`, `kernels`, `widths`: of each upsampling (a rate of 1 only changes the width); `dilations`: for each of
    them, the pair of each residual block. `fft` samples of a window, a quarter of it between two. The defaults, whose
    first part stands where the teacher's first part does, take 0.26 of the time of Piper's medium decoder."""

    channels: int = 192
    first: int = 256
    rates: tuple[int, ...] = (8, 1)
    kernels: tuple[int, ...] = (16, 1)
    widths: tuple[int, ...] = (128, 192)
    dilations: tuple[tuple[tuple[int, int], ...], ...] = (((1, 2), (2, 6), (3, 12)), ((1, 3), (1, 3), (2, 6)))
    fft: int = 128

    @property
    def hop(self) -> int:
        """Samples of a latent frame."""
        return int(np.prod(self.rates)) * self.fft // 4


class Block(nn.Module):
    def __init__(self, width: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.leaky_relu(y, SLOPE))
        return x + y


class IstftDecoder(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = s = shape
        self.conv_pre = nn.Conv1d(s.channels, s.first, 7, padding=3)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        before = s.first
        for rate, kernel, width, dilations in zip(s.rates, s.kernels, s.widths, s.dilations, strict=True):
            self.ups.append(nn.ConvTranspose1d(before, width, kernel, rate, padding=(kernel - rate) // 2))
            self.blocks.append(nn.Sequential(*(Block(width, pair) for pair in dilations)))
            before = width
        self.head = nn.Conv1d(before, s.fft + 2, 7, padding=3)
        self.register_buffer("basis", inverse_basis(s.fft), persistent=False)
        with torch.no_grad():  # near silence at first: it is easier to grow louder than to unlearn noise
            self.head.weight *= 0.1
            self.head.bias[: s.fft // 2 + 1] = -3.0

    def forward(self, latent: Tensor) -> Tensor:
        """[batch, channels, frames] to samples [batch, 1, frames x hop]."""
        return self.with_features(latent)[0]

    def with_features(self, latent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The samples, and what is known behind each upsampling [batch, width, time]."""
        x, known = self.conv_pre(latent), []
        for up, blocks in zip(self.ups, self.blocks, strict=True):
            x = blocks(up(F.leaky_relu(x, SLOPE)))
            known.append(x)
        told = self.head(F.leaky_relu(x, SLOPE)).float()
        bins = self.shape.fft // 2 + 1
        loud, phase = torch.exp(torch.clamp(told[:, :bins], max=LOUDEST)), told[:, bins:]
        spectrum = torch.cat([loud * torch.cos(phase), loud * torch.sin(phase)], 1)
        hop = self.shape.fft // 4
        made = F.conv_transpose1d(spectrum, self.basis, stride=hop, padding=(self.shape.fft - hop) // 2)
        return made, known


def from_teacher(teacher: Generator, shape: DecoderShape | None = None) -> IstftDecoder:
    """A student whose first layers, where their sizes fit, are the teacher's. Raises UsageError if its hop differs."""
    shape = shape or DecoderShape(channels=teacher.shape.channels, first=teacher.shape.widths[0])
    hop = int(np.prod(teacher.shape.rates))
    if shape.hop != hop:
        raise UsageError(f"the student makes {shape.hop} samples of a frame; its teacher makes {hop}")
    made = IstftDecoder(shape)
    ours, theirs = made.state_dict(), teacher.state_dict()
    same = {name: theirs[name] for name, value in ours.items() if name in theirs and theirs[name].shape == value.shape}
    made.load_state_dict({**ours, **same})
    return made


def inverse_basis(fft: int) -> Tensor:
    """The weight [fft + 2, 1, fft] of a transposed convolution that is the inverse STFT of real and imaginary parts
    [fft / 2 + 1 each], with a Hann window on both sides and a quarter of `fft` between two windows."""
    bins, window = fft // 2 + 1, np.hanning(fft + 1)[:-1]
    loudness = np.zeros(fft)  # of the overlapped squared windows: the same at every sample
    for shift in range(0, fft, fft // 4):
        loudness += np.roll(window**2, shift)
    parts = [np.fft.irfft(np.eye(bins) * factor, fft) for factor in (1, 1j)]
    basis = np.concatenate(parts) * window / loudness
    return torch.from_numpy(basis[:, None].astype(np.float32))
