"""How long VITS speaks each token: by a flow that draws (Kim et al. 2021, with splines of Durkan et al. 2019), or by
plain regression."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vivace.modules._vits_text import ChannelNorm

BINS, TAIL = 10, 5.0  # of a spline: pieces, and where it ends and the identity begins
LEAST = 1e-3  # width, height and slope of a piece


class DepthwiseStack(nn.Module):
    """Dilated depth-separable convolutions, each seeing as far as its kernel to the power of its place."""

    def __init__(self, channels: int, kernel: int, layers: int = 3) -> None:
        super().__init__()
        self.convs_sep = nn.ModuleList()
        for k in range(layers):
            wide = kernel**k
            pad = (kernel * wide - wide) // 2
            self.convs_sep.append(nn.Conv1d(channels, channels, kernel, groups=channels, dilation=wide, padding=pad))
        self.convs_1x1 = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(layers))
        self.norms_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.norms_2 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor, given: Tensor | None = None) -> Tensor:
        if given is not None:
            x = x + given
        for apart, first, across, second in zip(
            self.convs_sep, self.norms_1, self.convs_1x1, self.norms_2, strict=True
        ):
            x = x + F.gelu(second(across(F.gelu(first(apart(x * mask))))))
        return x * mask


class ConvFlow(nn.Module):
    """One channel goes through a monotonic spline whose shape the other channel says; here backwards."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.channels = channels
        self.pre, self.proj = nn.Conv1d(1, channels, 1), nn.Conv1d(channels, 3 * BINS - 1, 1)
        self.convs = DepthwiseStack(channels, kernel)

    def forward(self, x: Tensor, mask: Tensor, given: Tensor) -> Tensor:
        still, moved = x.split(1, 1)
        said = (self.proj(self.convs(self.pre(still), mask, given)) * mask).transpose(1, 2)[:, None]
        widths, heights, slopes = said.split([BINS, BINS, BINS - 1], -1)
        root = math.sqrt(self.channels)
        return torch.cat([still, unspline(moved, widths / root, heights / root, slopes)], 1) * mask


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.logs = nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(2, 1))

    def forward(self, x: Tensor, mask: Tensor, given: Tensor) -> Tensor:  # noqa: ARG002 - as the other flows
        return (x - self.m) * torch.exp(-self.logs) * mask


class StochasticDurations(nn.Module):
    """`flows` are numbered as in the paper's code, which counts the flips and drops the second flow when it speaks."""

    def __init__(self, hidden: int, channels: int, kernel: int, flows: int, speaker: int) -> None:
        super().__init__()
        self.pre, self.proj = nn.Conv1d(hidden, channels, 1), nn.Conv1d(channels, channels, 1)
        self.convs = DepthwiseStack(channels, kernel)
        self.cond = nn.Conv1d(speaker, channels, 1) if speaker else None
        self.flows = nn.ModuleDict({"0": Affine()})
        self.flows.update({str(k): ConvFlow(channels, kernel) for k in range(3, 2 * flows, 2)})

    def forward(self, read: Tensor, mask: Tensor, noise: Tensor, speaker: Tensor | None) -> Tensor:
        """Logarithms of frames [batch, 1, tokens], drawn by `noise` [batch, 2, tokens]."""
        x = self.pre(read)
        if self.cond is not None:
            x = x + self.cond(speaker)
        x = self.proj(self.convs(x, mask)) * mask
        z = noise
        for flow in reversed(list(self.flows.values())):
            z = flow(z.flip(1), mask, x)
        return z[:, :1]


class Durations(nn.Module):
    def __init__(self, hidden: int, channels: int, kernel: int, speaker: int, least: float) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(hidden, channels, kernel, padding=kernel // 2)
        self.conv_2 = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        self.norm_1, self.norm_2 = ChannelNorm(channels, least), ChannelNorm(channels, least)
        self.proj = nn.Conv1d(channels, 1, 1)
        self.cond = nn.Conv1d(speaker, hidden, 1) if speaker else None

    def forward(self, read: Tensor, mask: Tensor, noise: Tensor, speaker: Tensor | None) -> Tensor:  # noqa: ARG002
        """Logarithms of frames [batch, 1, tokens]; nothing is drawn."""
        x = read if self.cond is None else read + self.cond(speaker)
        x = self.norm_1(F.relu(self.conv_1(x * mask)))
        x = self.norm_2(F.relu(self.conv_2(x * mask)))
        made: Tensor = self.proj(x * mask) * mask
        return made


def unspline(y: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """The inverse of a monotonic rational-quadratic spline on -TAIL..TAIL, the identity outside (Durkan et al. 2019,
    equations 6 to 8). `widths`, `heights` [..., BINS] and inner `slopes` [..., BINS - 1] are unnormalized."""
    inside = (y >= -TAIL) & (y <= TAIL)
    xs, ys = _knots(widths), _knots(heights)
    slopes = F.pad(LEAST + F.softplus(slopes), (1, 1), value=1.0)  # the identity's slope at both ends
    at = (y[..., None] >= ys[..., 1:-1]).sum(-1, keepdim=True)  # the piece that y lies in
    x0, x1, y0, y1 = (t.gather(-1, at + k)[..., 0] for t in (xs, ys) for k in (0, 1))
    d0, d1 = (slopes.gather(-1, at + k)[..., 0] for k in (0, 1))
    slope = (y1 - y0) / (x1 - x0)
    rise, bend = y.clamp(-TAIL, TAIL) - y0, d0 + d1 - 2 * slope
    a = (y1 - y0) * (slope - d0) + rise * bend
    b = (y1 - y0) * d0 - rise * bend
    c = -slope * rise
    share = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + share * (x1 - x0), y)


def _knots(sizes: Tensor) -> Tensor:
    """The BINS + 1 ends of pieces whose sizes are a softmax, none below LEAST."""
    shares = LEAST + (1 - LEAST * BINS) * sizes.softmax(-1)
    inner = 2 * TAIL * shares.cumsum(-1)[..., :-1] - TAIL
    return F.pad(F.pad(inner, (1, 0), value=-TAIL), (0, 1), value=TAIL)
