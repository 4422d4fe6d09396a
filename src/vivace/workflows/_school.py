"""Trains a student on a teacher's lessons for a given time; interrupted, it goes on from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivace.core.contracts import Progress
from vivace.core.errors import VivaceError
from vivace.core.machine import multiplies_bf16
from vivace.core.stage import Array
from vivace.workflows._lessons import Lesson
from vivace.workflows._student import Student
from vivace.workflows._student_shape import StudentShape

RATE, WARM, DECAY_FROM = 1e-3, 300, 0.55  # learning rate; steps of warm-up; share of the time after which it falls
KEEP = 0.999  # of the running mean of the weights
BATCH_STEPS, LONGEST = 1000, 260  # decoder steps of a batch, and of one row (longer sentences are cropped)
FREE_FROM = 0.4  # share of the time after which all rows hear themselves,
ALL_OWN = 0.6  # and this share of them hear nothing else
NOISE = 0.15  # standard deviations, on the frames that the student is given as its own
SAVE_EVERY = 60.0


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of each channel: a student works with normalized frames."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> Scale:
        frames = np.concatenate([lesson.frames[::7].astype(np.float32) for lesson in lessons])
        return cls(frames.mean(0), frames.std(0) + 1e-5)


@dataclass(frozen=True, eq=False)
class Batch:
    tokens: Tensor
    token_mask: Tensor
    durations: Tensor
    prior: Tensor
    before: Tensor
    reader: Tensor
    phase: Tensor
    frames: Tensor
    mask: Tensor


class School:
    """`teacher` names whose lessons they are: a checkpoint of another one's is refused."""

    def __init__(
        self, shape: StudentShape, lessons: Sequence[Lesson], folder: Path, seed: int = 0, teacher: str = ""
    ) -> None:
        torch.manual_seed(seed)
        self.shape, self.folder, self._teacher = shape, folder, teacher
        self.scale = Scale.of(lessons)
        self._lessons = [self._steps(lesson) for lesson in lessons]
        self._rng = np.random.default_rng(seed)
        self.student = Student(shape)
        self.mean = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
        self._optimizer = torch.optim.AdamW(self.student.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.seconds, self.count = 0.0, 0
        self._batches = self._endless()

    def train(self, minutes: float, progress: Progress = lambda message, share: None) -> None:
        """Goes on until `minutes` of training are behind it, those before an interruption included. Raises VivaceError
        where the loss is no number, and for a checkpoint of another student or teacher."""
        self._load()
        limit, saved = 60 * minutes, time.monotonic()
        running: dict[str, float] = {}
        self.student.train()
        while self.seconds < limit:
            begun = time.monotonic()
            share = self.seconds / limit
            fall = 1.0 if share < DECAY_FROM else max(0.02, (1 - share) / (1 - DECAY_FROM))
            for group in self._optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (self.count + 1) / WARM) * fall
            losses = self._learn(next(self._batches), share)
            if bad := [name for name, value in losses.items() if not math.isfinite(value)]:
                raise VivaceError(
                    f"the {bad[0]} loss is no number after {self.count} steps; the last good checkpoint is kept in "
                    f"{self.folder}: run it again to go on from there"
                )
            for name, value in losses.items():
                running[name] = 0.98 * running.get(name, value) + 0.02 * value
            self.count += 1
            self.seconds += time.monotonic() - begun
            told = ", ".join(f"{name} {value:.4f}" for name, value in running.items())
            progress(f"step {self.count}: {told}", share)
            if time.monotonic() - saved > SAVE_EVERY or self.seconds >= limit:
                self._save()
                saved = time.monotonic()

    def _learn(self, batch: Batch, share: float) -> dict[str, float]:
        student = self.student
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
            read, lasts = student.read(batch.tokens, batch.token_mask)
            memory = student.remember(read, batch.durations)
            before = batch.before
            if share > 0.03:
                before = self._own(batch, memory, share)
            before = before + NOISE * torch.rand(before.shape[0], 1, 1) * torch.randn_like(before)
            frames = student.speak(memory, batch.token_mask, before, batch.reader, batch.phase)
            prior = student.prior(read)
        frames, lasts, prior = (t.float() for t in (frames, lasts, prior))
        weight = batch.mask / batch.mask.sum()
        error = frames - batch.frames
        near = (error.abs().mean(-1) * weight).sum()
        tokens = batch.token_mask / batch.token_mask.sum()
        prior_loss = ((prior - batch.prior).abs().mean(-1) * tokens).sum()
        lasts_loss = ((lasts - batch.durations.log1p()).abs() * tokens).sum()
        loss = near + lasts_loss + 0.5 * prior_loss
        named = {"frames": near, "durations": lasts_loss, "prior": prior_loss}
        if not torch.isfinite(loss):  # told by who called; no weight has moved
            return {name: float(value.detach()) for name, value in named.items()}
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        self._optimizer.step()
        keep = min(KEEP, (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            for name, value in student.state_dict().items():
                self.mean[name].lerp_(value, 1 - keep)
        return {name: float(value.detach()) for name, value in named.items()}

    def _own(self, batch: Batch, memory: Tensor, share: float) -> Tensor:
        """Half of the rows get some of their own frames in place of the teacher's (scheduled sampling, Bengio 2015);
        later all, most of them nothing else, and what they say after their own frames: two passes come nearer to
        speaking freely than one."""
        late = share > FREE_FROM
        rows = torch.randperm(len(memory))[: len(memory) if late else max(1, len(memory) // 2)]
        part = torch.rand(len(rows), 1, 1) * min(1.0, share / 0.3)
        if late:
            part[torch.rand(len(rows)) < ALL_OWN] = 1.0
        own = torch.rand(len(rows), batch.before.shape[1], 1) < part
        memory, mask, true, reader, phase = (
            tensor[rows] for tensor in (memory, batch.token_mask, batch.before, batch.reader, batch.phase)
        )
        given = true
        for _ in range(1 + late):
            with torch.no_grad():
                said = self.student.speak(memory, mask, given, reader, phase)
            given = torch.where(own, torch.cat([true[:, :1], said[:, :-1].float()], 1), true)
        mixed = batch.before.clone()
        mixed[rows] = given
        return mixed

    def _steps(self, lesson: Lesson) -> dict[str, Array]:
        """The lesson in steps of frames_per_step frames, the last one padded with its last frame."""
        each, s = self.shape.frames_per_step, self.scale
        frames = (lesson.frames.astype(np.float32) - s.mean) / s.std
        steps = -(-len(frames) // each)
        frames = np.pad(frames, [(0, steps * each - len(frames)), (0, 0)], mode="edge")
        owner = np.repeat(np.arange(len(lesson.ids)), lesson.durations)
        reader, at = owner[np.arange(steps) * each], np.arange(steps) * each
        ends = np.cumsum(lesson.durations)
        phase = np.stack([at - (ends - lesson.durations)[reader], ends[reader] - at], -1) / 10
        prior = (lesson.prior.astype(np.float32) - s.mean) / s.std
        frames = frames.reshape(steps, -1).astype(np.float16)
        return {
            "ids": lesson.ids, "durations": lesson.durations, "prior": prior, "frames": frames, "reader": reader,
            "phase": phase,
        }  # fmt: skip

    def _endless(self) -> Iterator[Batch]:
        """Batches of sentences of like length, in another order each time."""
        sizes = np.array([min(len(lesson["frames"]), LONGEST) for lesson in self._lessons])
        while True:
            order = np.argsort(sizes + self._rng.uniform(0, 12, len(sizes)))
            groups: list[list[int]] = []
            group: list[int] = []
            longest = 0
            for k in order:
                longest = max(longest, int(sizes[k]))
                if group and longest * (len(group) + 1) > BATCH_STEPS:
                    groups.append(group)
                    group, longest = [], int(sizes[k])
                group.append(int(k))
            groups.append(group)
            for g in self._rng.permutation(len(groups)):
                yield self._batch([self._lessons[k] for k in groups[g]])

    def _batch(self, lessons: Sequence[dict[str, Array]]) -> Batch:
        each = self.shape.outputs
        tokens = max(len(lesson["ids"]) for lesson in lessons)
        steps = min(LONGEST, max(len(lesson["frames"]) for lesson in lessons))
        shapes: dict[str, tuple[int, ...]] = {
            "tokens": (tokens,), "token_mask": (tokens,), "durations": (tokens,), "prior": (tokens, self.shape.mels),
            "before": (steps, each), "reader": (steps,), "phase": (steps, 2), "frames": (steps, each),
            "mask": (steps,),
        }  # fmt: skip
        whole = {"tokens", "reader"}
        made = {
            name: np.zeros((len(lessons), *shape), np.int64 if name in whole else np.float32)
            for name, shape in shapes.items()
        }
        for k, lesson in enumerate(lessons):
            n, total = len(lesson["ids"]), len(lesson["frames"])
            first = int(self._rng.integers(0, total - steps + 1)) if total > steps else 0
            count = min(steps, total)
            part = slice(first, first + count)
            made["tokens"][k, :n], made["token_mask"][k, :n], made["prior"][k, :n] = lesson["ids"], 1, lesson["prior"]
            made["durations"][k, :n] = lesson["durations"]
            made["frames"][k, :count] = lesson["frames"][part]
            made["before"][k, 1:count] = lesson["frames"][first : first + count - 1]
            if first:
                made["before"][k, 0] = lesson["frames"][first - 1]
            made["reader"][k, :count], made["phase"][k, :count] = lesson["reader"][part], lesson["phase"][part]
            made["mask"][k, :count] = 1
        return Batch(**{name: torch.from_numpy(array) for name, array in made.items()})

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {
            "shape": asdict(self.shape), "student": self.student.state_dict(), "mean": self.mean,
            "optimizer": self._optimizer.state_dict(), "seconds": self.seconds, "count": self.count,
            "teacher": self._teacher,
        }  # fmt: skip
        temporary = self.folder / ".checkpoint.pt"
        torch.save(kept, temporary)
        temporary.replace(self.folder / "checkpoint.pt")

    def _load(self) -> None:
        file = self.folder / "checkpoint.pt"
        if not file.is_file():
            return
        kept = torch.load(file, weights_only=True)
        if kept["shape"] != asdict(self.shape) or kept.get("teacher", self._teacher) != self._teacher:
            raise VivaceError(f"{file} is of another student; give another work folder, or remove it")
        self.student.load_state_dict(kept["student"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self.mean, self.seconds, self.count = kept["mean"], kept["seconds"], kept["count"]
        self._rng = np.random.default_rng(self.count)
