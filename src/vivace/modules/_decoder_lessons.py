"""What a student of a decoder learns from: latents, and the samples that its teacher makes of them.

A decoder is a deterministic function of its latent, so there is an exact target, and no recording is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vivace.core.errors import UsageError
from vivace.core.stage import Array

FFTS = (1024, 512, 128)
MELS = 80
COMPLEX, LOG, MEL, SAMPLES = 4.0, 1.0, 2.0, 5.0  # weights of the parts of `distance`
QUIET = 1e-5


@dataclass(frozen=True, eq=False)
class Pair:
    """`latent` [channels, frames] and the `samples` [frames x hop] of it, as kept: in half precision."""

    latent: Array
    samples: Array


class Crops:
    """Endless batches of parts of pairs: latents [rows, channels, frames + 2 margin] and samples [rows, time] of the
    same. What lies in the margins is context, not lesson. Raises UsageError if all pairs are shorter than that."""

    def __init__(self, pairs: Sequence[Pair], hop: int, frames: int = 64, margin: int = 8, seed: int = 0) -> None:
        self.hop, self.frames, self.margin = hop, frames, margin
        self._pairs = [pair for pair in pairs if pair.latent.shape[1] >= frames + 2 * margin]
        if not self._pairs:
            raise UsageError(f"all lessons are shorter than {frames + 2 * margin} frames; give longer texts")
        lengths = np.array([pair.latent.shape[1] for pair in self._pairs], float)
        self._share = lengths / lengths.sum()
        self._rng = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        """What comes next is drawn anew: after an interruption the same crops do not come again."""
        self._rng = np.random.default_rng(seed)

    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        whole = self.frames + 2 * self.margin
        latents, samples = [], []
        for k in self._rng.choice(len(self._pairs), rows, p=self._share):
            pair = self._pairs[k]
            at = int(self._rng.integers(0, pair.latent.shape[1] - whole + 1))
            latents.append(pair.latent[:, at : at + whole].astype(np.float32))
            samples.append(pair.samples[at * self.hop : (at + whole) * self.hop].astype(np.float32))
        return torch.from_numpy(np.stack(latents)), torch.from_numpy(np.stack(samples))

    def inner(self, samples: Tensor) -> Tensor:
        """Without the margins."""
        edge = self.margin * self.hop
        return samples[..., edge : samples.shape[-1] - edge]


class Distance:
    """How far samples [rows, time] are from the teacher's: complex spectra compressed by a square root, log magnitudes,
    log-mels and samples. Phase counts, because the target is exact; mels keep the energy where phase is not learned."""

    def __init__(self, rate: int) -> None:
        self._mels = {n: torch.from_numpy(_mel_filters(n, rate)) for n in FFTS if n >= 512}
        self._windows = {n: torch.hann_window(n) for n in FFTS}

    def __call__(self, said: Tensor, true: Tensor) -> dict[str, Tensor]:
        """The parts, each weighted: their sum is the loss."""
        found = {name: torch.zeros(()) for name in ("complex", "log", "mel")}
        for n in FFTS:
            a, b = self._spectrum(said, n), self._spectrum(true, n)
            la, lb = (torch.sqrt(x.real**2 + x.imag**2 + QUIET**2) for x in (a, b))
            ca, cb = a / torch.sqrt(la), b / torch.sqrt(lb)  # |S|^0.5 with its phase
            gap = torch.sqrt((ca - cb).real ** 2 + (ca - cb).imag ** 2 + QUIET**2).mean()
            found["complex"] = found["complex"] + COMPLEX / len(FFTS) * gap / torch.sqrt(lb).mean()
            found["log"] = found["log"] + LOG / len(FFTS) * F.l1_loss(torch.log(la + 1e-3), torch.log(lb + 1e-3))
            if n in self._mels:
                ma, mb = (torch.log(self._mels[n] @ x + 1e-3) for x in (la, lb))
                found["mel"] = found["mel"] + MEL / len(self._mels) * F.l1_loss(ma, mb)
        found["samples"] = SAMPLES * F.l1_loss(said, true)
        return found

    def _spectrum(self, samples: Tensor, n: int) -> Tensor:
        return torch.stft(samples, n, n // 4, window=self._windows[n], center=False, return_complex=True) / n**0.5


def _mel_filters(fft: int, rate: int) -> Array:
    """Triangles [MELS, fft / 2 + 1] on the mel scale (O'Shaughnessy 1987), each adding up to 1."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    at = np.linspace(0, rate / 2, fft // 2 + 1)
    rise = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    made = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
    filters: Array = made / np.maximum(made.sum(1, keepdims=True), 1e-6)
    return filters
