"""A student comes nearer to its teacher, goes on after an interruption, and a loss that is no number harms nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vivace.core.errors import UsageError, VivaceError  # noqa: E402
from vivace.modules import decoder_school  # noqa: E402
from vivace.modules._decoder_lessons import Crops, Distance, Pair  # noqa: E402
from vivace.modules.decoder_school import Diverged, Plan, School  # noqa: E402
from vivace.modules.hifigan import Generator, GeneratorShape  # noqa: E402
from vivace.modules.istft_decoder import DecoderShape, IstftDecoder, from_teacher  # noqa: E402

RATE, HOP = 8000, 64
SHAPE = GeneratorShape(6, (8, 8, 4), (8, 8), (16, 16), (3, 5), ((1, 2), (1, 3)))
SMALL = DecoderShape(6, 8, (8,), (16,), (8,), (((1, 2),),), 32)
PLAN = Plan(rows=2, frames=32, margin=4, warm=5)


@pytest.fixture
def teacher() -> Any:
    torch.manual_seed(1)
    return Generator(SHAPE).eval().requires_grad_(False)


def pairs(teacher: Any, count: int = 6, frames: int = 60) -> list[Pair]:
    made = []
    for _ in range(count):
        latent = torch.randn(1, 6, frames)
        made.append(Pair(latent[0].numpy().astype(np.float16), teacher(latent).numpy().ravel().astype(np.float16)))
    return made


def school(teacher: Any, folder: Path, plan: Plan = PLAN) -> School:
    student = from_teacher(teacher, SMALL)
    return School(student, pairs(teacher), HOP, RATE, folder, plan, lambda x: teacher.with_features(x)[1][:1])


def test_crops_hold_what_belongs_together() -> None:
    latent = np.arange(60, dtype=np.float32)[None].repeat(2, 0)
    crops = Crops([Pair(latent, np.repeat(latent[0], HOP))], HOP, 16, 4)
    latents, samples = crops.batch(3)
    assert latents.shape == (3, 2, 24) and samples.shape == (3, 24 * HOP)
    assert torch.equal(latents[:, 0].repeat_interleave(HOP, 1), samples)
    assert torch.equal(crops.inner(samples), samples[:, 4 * HOP : -4 * HOP])
    with pytest.raises(UsageError, match="shorter than 80 frames"):
        Crops([Pair(latent, np.repeat(latent[0], HOP))], HOP)


def test_distance_knows_phase_and_loudness() -> None:
    distance = Distance(RATE)
    true = 0.1 * torch.randn(2, 4000)

    def total(said: Any) -> float:
        return float(sum(distance(said, true).values()))

    assert total(true) < 1e-3
    assert total(-true) > 1 and distance(-true, true)["log"] < 1e-3  # only the phase differs
    assert total(true) < total(0.9 * true) < total(0.5 * true)


@pytest.mark.parametrize("critics_from", [1.0, 0.0])
def test_a_student_comes_nearer_and_goes_on(teacher: Any, tmp_path: Path, critics_from: float) -> None:
    first = school(teacher, tmp_path, replace(PLAN, adversarial_from=critics_from))
    first._validate()
    before = sum(first.curve[0][name] for name in ("complex", "log", "mel", "samples"))
    told: list[str] = []
    first.train(0.08, lambda message, share: told.append(message))
    after = sum(first.curve[-1][name] for name in ("complex", "log", "mel", "samples"))
    assert after < before
    assert ("liked" in told[-1]) == (critics_from == 0)
    second = school(teacher, tmp_path)
    second.train(0.01)  # nothing is left to do
    assert second.count == first.count and second.curve == first.curve
    assert all(
        torch.equal(a, b) for a, b in zip(first.mean.values(), second.student.state_dict().values(), strict=True)
    )
    other = IstftDecoder(replace(SMALL, widths=(4,)))
    with pytest.raises(VivaceError, match="another student"):
        School(other, pairs(teacher), HOP, RATE, tmp_path, PLAN).train(0.1)
    stranger = School(from_teacher(teacher, SMALL), pairs(teacher), HOP, RATE, tmp_path, PLAN, teacher="another voice")
    with pytest.raises(VivaceError, match="another student"):
        stranger.train(0.1)


def test_a_short_sentence_in_front_is_no_obstacle(teacher: Any, tmp_path: Path) -> None:
    lessons = [*pairs(teacher, 1, 3), *pairs(teacher)]
    taught = School(from_teacher(teacher, SMALL), lessons, HOP, RATE, tmp_path, PLAN)
    taught._validate()
    assert taught.curve


def test_a_loss_that_is_no_number_stops_and_loses_nothing(teacher: Any, tmp_path: Path) -> None:
    good = school(teacher, tmp_path)
    good.train(0.03)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    bad = school(teacher, tmp_path)

    def broken(said: Any, true: Any) -> dict[str, Any]:
        return {"log": (said * float("nan")).mean()}

    bad._distance = broken  # type: ignore[assignment]
    with pytest.raises(Diverged, match="the log loss is no number"):
        bad.train(1.0)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert all(torch.isfinite(value).all() for value in bad.student.state_dict().values())


def test_critics_tell_two_signals_apart() -> None:
    torch.manual_seed(0)
    critic = decoder_school.Critic(64, 4)
    opinion, seen = critic(torch.randn(2, 2000))
    assert opinion.shape[:2] == (2, 1) and len(seen) == 4
