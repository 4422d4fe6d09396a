"""Trains a student of a decoder for a given time; interrupted, it goes on from its last checkpoint.

First by regression on what the teacher makes; then, if asked, against critics that tell a student's samples from its
teacher's by their complex spectra (least squares: Mao et al. 2017; multi-scale complex STFT: Defossez et al. 2022).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vivace.core.bundle import atomic_file
from vivace.core.contracts import Progress
from vivace.core.errors import VivaceError
from vivace.core.machine import multiplies_bf16
from vivace.modules._decoder_lessons import Crops, Distance, Pair

CRITIC_FFTS = (1024, 512, 256)
CRITIC_WIDTH = 16
KEEP = 0.999  # of the running mean of the weights
SAVE_EVERY, VALIDATE_EVERY = 60.0, 120.0
HELD_OUT = 24  # crops that nothing is learned from

Guide = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Plan:
    """`adversarial_from`: the share of the time after which critics join; 1: never. `rate`: learning rate at its
    highest. `features`: weight of the distance to the teacher's features, where there are any."""

    rows: int = 8
    frames: int = 64
    margin: int = 8
    rate: float = 1e-3
    warm: int = 200
    features: float = 0.5
    adversarial_from: float = 1.0
    adversarial: float = 1.0
    matching: float = 2.0
    seed: int = 0


class Diverged(VivaceError):
    """The loss is no number any more; the last good checkpoint stays."""


class Critic(nn.Module):
    """Complex spectra [batch, 2, frames, bins] to opinions, and what it saw on its way to them."""

    def __init__(self, fft: int, width: int = CRITIC_WIDTH) -> None:
        super().__init__()
        self.fft = fft
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        wide = [(2, width, 1, 1), *[(width, width, 2, d) for d in (1, 2, 4)]]
        self.convs = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv2d(a, b, (3, 8 if stride > 1 else 9), (1, stride), padding=(d, 4), dilation=(d, 1))
            )
            for a, b, stride, d in wide
        )
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
        s = torch.stft(samples, self.fft, self.fft // 4, window=self.window, center=False, return_complex=True)
        loud = torch.sqrt(s.real**2 + s.imag**2 + 1e-6)
        s = s / torch.sqrt(loud)  # so that what is quiet is seen as well
        x, seen = torch.stack([s.real, s.imag], 1).transpose(2, 3), []
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
            for conv in self.convs:
                x = F.leaky_relu(conv(x), 0.2)
                seen.append(x)
            opinion: Tensor = self.last(x)
        return opinion.float(), seen


class School:
    """`student` makes samples [rows, 1, time] of latents. `guide`, where given, makes of latents the features that the
    student's `with_features` should be near to, where the two have the same shape. `teacher` names whose pairs they
    are: a checkpoint of another one's is refused."""

    def __init__(
        self, student: nn.Module, pairs: Sequence[Pair], hop: int, rate: int, folder: Path, plan: Plan | None = None,
        guide: Guide | None = None, teacher: str = "",
    ) -> None:  # fmt: skip
        self.plan = p = plan or Plan()
        torch.manual_seed(p.seed)
        self.student, self.folder, self._guide, self._teacher = student, folder, guide, teacher
        pairs = [pair for pair in pairs if pair.latent.shape[1] >= p.frames + 2 * p.margin] or pairs
        held = max(1, len(pairs) // 20)
        self._crops = Crops(pairs[held:], hop, p.frames, p.margin, p.seed)
        self._held = Crops(pairs[:held], hop, p.frames, p.margin, p.seed + 1).batch(HELD_OUT)
        self._distance = Distance(rate)
        self.mean = {name: value.detach().clone() for name, value in student.state_dict().items()}
        self._optimizer = torch.optim.AdamW(student.parameters(), p.rate, betas=(0.8, 0.98), weight_decay=0.0)
        self._critics = nn.ModuleList(Critic(n) for n in CRITIC_FFTS)
        self._critics_optimizer = torch.optim.AdamW(self._critics.parameters(), 3e-4, betas=(0.8, 0.98))
        self.seconds, self.count = 0.0, 0
        self.curve: list[dict[str, float]] = []

    def train(self, minutes: float, progress: Progress = lambda message, share: None) -> nn.Module:
        """Goes on until `minutes` are behind it, those before an interruption included; the student then has the
        running mean of its weights. Raises Diverged where the loss is no number."""
        self._load()
        limit, saved, validated = 60 * minutes, time.monotonic(), self.seconds
        running: dict[str, float] = {}
        self.student.train()
        while self.seconds < limit:
            begun = time.monotonic()
            share = self.seconds / limit
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(share)
            losses = self._learn(share)
            bad = [name for name, value in losses.items() if not math.isfinite(value)]
            if bad:
                raise Diverged(
                    f"the {bad[0]} loss is no number after {self.count} steps; the last good checkpoint is kept in "
                    f"{self.folder}: go on from there with a lower learning rate"
                )
            for name, value in losses.items():
                running[name] = 0.98 * running.get(name, value) + 0.02 * value
            self.count += 1
            self.seconds += time.monotonic() - begun
            told = ", ".join(f"{name} {value:.3f}" for name, value in running.items())
            progress(f"step {self.count}: {told}", share)
            if self.seconds - validated > VALIDATE_EVERY or self.seconds >= limit:
                validated = self.seconds
                self._validate()
            if time.monotonic() - saved > SAVE_EVERY or self.seconds >= limit:
                self._save()
                saved = time.monotonic()
        self.student.load_state_dict(self.mean)
        return self.student.eval()

    def _rate(self, share: float) -> float:
        """Rises, then falls as a cosine does to a twentieth."""
        p = self.plan
        return p.rate * min(1.0, (self.count + 1) / p.warm) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))

    def _learn(self, share: float) -> dict[str, float]:
        p, crops = self.plan, self._crops
        latents, true = crops.batch(p.rows)
        true = crops.inner(true)
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
            if self._guide is not None:
                made, known = self.student.with_features(latents)
            else:
                made, known = self.student(latents), []
        said = crops.inner(made[:, 0].float())
        named = self._distance(said, true)
        if self._guide is not None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
                right = self._guide(latents)
            pairs = [(a.float(), b.float()) for a, b in zip(known, right, strict=False) if a.shape == b.shape]
            gaps = [(a - b).abs().mean() / b.abs().mean() for a, b in pairs]
            named["features"] = p.features * torch.stack(gaps).sum()
        if share >= p.adversarial_from:
            named["critics"] = self._argue(said.detach(), true)
            named |= self._persuade(said, true)
        loss = torch.stack([value for name, value in named.items() if name != "critics"]).sum()
        if torch.isfinite(loss):
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
            self._optimizer.step()
            keep = min(KEEP, (1 + self.count) / (10 + self.count))
            with torch.no_grad():
                for name, value in self.student.state_dict().items():
                    self.mean[name].lerp_(value, 1 - keep)
        return {name: float(value.detach()) for name, value in named.items()}

    def _argue(self, said: Tensor, true: Tensor) -> Tensor:
        """The critics learn to tell the two apart."""
        wrong = torch.zeros(())
        for critic in self._critics:
            wrong = wrong + ((critic(true)[0] - 1) ** 2).mean() + (critic(said)[0] ** 2).mean()
        self._critics_optimizer.zero_grad(set_to_none=True)
        wrong.backward()
        self._critics_optimizer.step()
        return wrong.detach() / len(self._critics)

    def _persuade(self, said: Tensor, true: Tensor) -> dict[str, Tensor]:
        """The student learns to be taken for its teacher."""
        liked, near = [], []
        for critic in self._critics:
            with torch.no_grad():
                right = critic(true)[1]
            opinion, seen = critic(said)
            liked.append(((opinion - 1) ** 2).mean())
            near += [(a.float() - b.float()).abs().mean() / b.float().abs().mean() for a, b in zip(seen, right)]  # noqa: B905
        p = self.plan
        return {"liked": p.adversarial * torch.stack(liked).mean(), "matching": p.matching * torch.stack(near).mean()}

    def _validate(self) -> None:
        """The distance of the mean student on crops that nothing is learned from goes to the curve."""
        kept = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
        self.student.load_state_dict(self.mean)
        self.student.eval()
        latents, true = self._held
        with torch.no_grad():
            said = self._crops.inner(self.student(latents)[:, 0].float())
            parts = self._distance(said, self._crops.inner(true))
        point = {"minutes": self.seconds / 60, "steps": float(self.count)}
        self.curve.append(point | {name: float(value) for name, value in parts.items()})
        self.student.load_state_dict(kept)
        self.student.train()

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {
            "student": self.student.state_dict(), "mean": self.mean, "optimizer": self._optimizer.state_dict(),
            "critics": self._critics.state_dict(), "critics_optimizer": self._critics_optimizer.state_dict(),
            "seconds": self.seconds, "count": self.count, "curve": self.curve, "teacher": self._teacher,
        }  # fmt: skip
        temporary = self.folder / ".checkpoint.pt"
        torch.save(kept, temporary)
        temporary.replace(self.folder / "checkpoint.pt")
        atomic_file(self.folder / "curve.json", json.dumps(self.curve, indent=1).encode())

    def _load(self) -> None:
        file = self.folder / "checkpoint.pt"
        if not file.is_file():
            return
        kept = torch.load(file, weights_only=True)
        shapes = {name: value.shape for name, value in kept["student"].items()}
        another = kept.get("teacher", self._teacher) != self._teacher
        if another or shapes != {name: value.shape for name, value in self.student.state_dict().items()}:
            raise VivaceError(f"{file} is of another student; give another work folder, or remove it")
        self.student.load_state_dict(kept["student"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self._critics.load_state_dict(kept["critics"])
        self._critics_optimizer.load_state_dict(kept["critics_optimizer"])
        self.mean, self.curve = kept["mean"], kept["curve"]
        self.seconds, self.count = kept["seconds"], kept["count"]
        self._crops.reseed(self.plan.seed + self.count)
