"""The flow of VITS, backwards: from the prior to the latent. Affine couplings (Dinh et al. 2017) that only shift, with
WaveNet's gated convolutions inside (van den Oord et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WaveNet(nn.Module):
    def __init__(self, hidden: int, kernel: int, dilation: int, layers: int, speaker: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.in_layers, self.res_skip_layers = nn.ModuleList(), nn.ModuleList()
        for k in range(layers):
            wide = dilation**k
            pad = (kernel - 1) * wide // 2
            self.in_layers.append(nn.Conv1d(hidden, 2 * hidden, kernel, dilation=wide, padding=pad))
            self.res_skip_layers.append(nn.Conv1d(hidden, 2 * hidden if k < layers - 1 else hidden, 1))
        self.cond_layer = nn.Conv1d(speaker, 2 * hidden * layers, 1) if speaker else None

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        total = torch.zeros_like(x)
        layers = len(self.in_layers)
        given = self.cond_layer(speaker).split(2 * self.hidden, 1) if self.cond_layer is not None else [0.0] * layers
        for k, (enter, leave) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            signal, gate = (enter(x) + given[k]).split(self.hidden, 1)
            made = leave(torch.tanh(signal) * torch.sigmoid(gate))
            if k < layers - 1:
                x = (x + made[:, : self.hidden]) * mask
                made = made[:, self.hidden :]
            total = total + made
        return total * mask


class Coupling(nn.Module):
    """One half is shifted by what the other says."""

    def __init__(self, channels: int, hidden: int, kernel: int, dilation: int, layers: int, speaker: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.pre, self.post = nn.Conv1d(self.half, hidden, 1), nn.Conv1d(hidden, self.half, 1)
        self.enc = WaveNet(hidden, kernel, dilation, layers, speaker)
        nn.init.zeros_(self.post.weight)

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        still, moved = x.split(self.half, 1)
        shift = self.post(self.enc(self.pre(still) * mask, mask, speaker)) * mask
        return torch.cat([still, (moved - shift) * mask], 1)


class Flow(nn.Module):
    """Its couplings stand at the even numbers of `flows`: between them the paper's code counts the flips."""

    def __init__(
        self, channels: int, hidden: int, flows: int, layers: int, kernel: int, dilation: int, speaker: int
    ) -> None:
        super().__init__()
        self.flows = nn.ModuleList(
            Coupling(channels, hidden, kernel, dilation, layers, speaker) if k % 2 == 0 else nn.Identity()
            for k in range(2 * flows)
        )

    def forward(self, prior: Tensor, mask: Tensor, speaker: Tensor | None = None) -> Tensor:
        """The prior's sample to the latent, both [batch, channels, frames]."""
        x = prior
        for coupling in reversed(self.flows[::2]):
            x = coupling(x.flip(1), mask, speaker)
        return x
