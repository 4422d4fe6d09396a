"""The text encoder of VITS: a transformer whose attention knows the distance of near tokens (Shaw et al. 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [batch, channels, time]."""

    def __init__(self, channels: int, least: float = 1e-5) -> None:
        super().__init__()
        self.least = least  # added to the variance
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, self.least).transpose(1, 2)


class RelativeAttention(nn.Module):
    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, head = heads, window, channels // heads
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * window + 1, head) * head**-0.5)
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * window + 1, head) * head**-0.5)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """`allowed` [batch, 1, time, time] is 1 where one token may see another."""
        batch, _, time = x.shape
        q, k, v = (
            conv(x).reshape(batch, self.heads, -1, time).transpose(2, 3)
            for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        q = q / math.sqrt(q.shape[-1])
        scores, by_offset = q @ k.transpose(-2, -1), q @ self.emb_rel_k[0].T
        places = torch.arange(time, device=x.device)
        offset = places - places[:, None] + self.window
        near = (offset >= 0) & (offset <= 2 * self.window)
        scores = scores + by_offset.gather(-1, (offset * near).expand_as(scores)) * near
        shares = scores.masked_fill(allowed == 0, -1e4).softmax(-1)
        seen = places[:, None] + torch.arange(-self.window, self.window + 1, device=x.device)
        inside = (seen >= 0) & (seen < time)
        by_offset = shares.gather(-1, (seen * inside).expand_as(by_offset)) * inside
        mixed = shares @ v + by_offset @ self.emb_rel_v[0]
        made: Tensor = self.conv_o(mixed.transpose(2, 3).flatten(1, 2))
        return made


class FeedForward(nn.Module):
    def __init__(self, channels: int, inner: int, kernel: int) -> None:
        super().__init__()
        # An even kernel is padded by one less on the left, as the paper's code does it.
        self.pads = ((kernel - 1) // 2, kernel // 2)
        self.conv_1, self.conv_2 = nn.Conv1d(channels, inner, kernel), nn.Conv1d(inner, channels, kernel)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.relu(self.conv_1(F.pad(x * mask, self.pads)))
        made: Tensor = self.conv_2(F.pad(x * mask, self.pads)) * mask
        return made


class Encoder(nn.Module):
    def __init__(self, channels: int, inner: int, heads: int, layers: int, kernel: int, window: int) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(RelativeAttention(channels, heads, window) for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(FeedForward(channels, inner, kernel) for _ in range(layers))
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        allowed = mask[:, :, None] * mask[..., None]
        x = x * mask
        for attend, first, feed, second in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True
        ):
            x = first(x + attend(x, allowed))
            x = second(x + feed(x, mask))
        return x * mask


class TextEncoder(nn.Module):
    def __init__(
        self, tokens: int, channels: int, hidden: int, inner: int, heads: int, layers: int, kernel: int, window: int
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(hidden)
        self.emb = nn.Embedding(tokens, hidden)
        nn.init.normal_(self.emb.weight, 0.0, hidden**-0.5)
        self.encoder = Encoder(hidden, inner, heads, layers, kernel, window)
        self.channels, self.proj = channels, nn.Conv1d(hidden, 2 * channels, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is read [batch, hidden, tokens], and mean and log scale [batch, channels, tokens]."""
        x = self.encoder((self.emb(tokens) * self.scale).transpose(1, 2), mask)
        mean, log_scale = (self.proj(x) * mask).split(self.channels, 1)
        return x, mean, log_scale
