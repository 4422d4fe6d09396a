"""What a listener hears of a student's frames: the teacher's own decoder speaks them, and the spectra are compared.

Frames that are near the teacher's on average are blurred where the text leaves them open, and that is heard; spectra
forgive what the ear forgives, such as phase (multi-resolution STFT loss: Yamamoto et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.stage import Array

SIZES = (256, 1024)  # samples of a window; a quarter of it between two
QUIET = 1e-3  # of full scale: what is added before the logarithm


class Ear:
    """`decoder` makes samples [batch, 1, time] of latent frames [batch, channels, frames]; it learns nothing."""

    def __init__(self, decoder: Any, mean: Array, std: Array) -> None:
        self._decoder = decoder.eval().requires_grad_(False)
        self._mean, self._std = (torch.from_numpy(x)[None, :, None].float() for x in (mean, std))

    def distance(self, said: Tensor, true: Tensor) -> Tensor:
        """Of normalized frames [batch, frames, channels]: the mean difference of log magnitudes."""
        with torch.no_grad():
            right = self._spoken(true)
        heard = self._spoken(said)
        return torch.stack([F.l1_loss(_spectrum(heard, n), _spectrum(right, n)) for n in SIZES]).mean()

    def _spoken(self, frames: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            made = self._decoder(frames.transpose(1, 2) * self._std + self._mean)
        return made[:, 0].float()


def decoder(teacher: Bundle) -> Any:
    """The teacher's decoder as a module. Raises ModelError for a voice that PyTorch did not export."""
    import onnx

    graphs = (onnx.load(str(teacher.file(stage.file))) for stage in teacher.stages)
    return registry.load("modules", "vits").from_onnx(graphs).dec


def _spectrum(samples: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size)
    found = torch.stft(samples, size, size // 4, window=window, return_complex=True) / (window.sum() / 2)
    return torch.log(found.abs() + QUIET)
