"""The student that is trained is the one that speaks; training goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from families import piper_maker  # noqa: E402
from vivace.core import registry  # noqa: E402
from vivace.core.bundle import Bundle  # noqa: E402
from vivace.core.errors import MissingDependency, ModelError, UsageError, VivaceError  # noqa: E402
from vivace.core.speech import Request  # noqa: E402
from vivace.core.stage import RuntimeOptions  # noqa: E402
from vivace.engine.engine import Engine, speak  # noqa: E402
from vivace.families import piper  # noqa: E402
from vivace.workflows import _lessons, distill  # noqa: E402
from vivace.workflows._school import School  # noqa: E402
from vivace.workflows._student_shape import StudentShape  # noqa: E402

TEXTS = ("one two three.", "a longer text of several words, with a comma", "and the third one is here.")


@pytest.fixture
def teacher(tmp_path: Path) -> Bundle:
    return piper.import_(piper_maker.make(tmp_path, piper_maker.Shape(), "hum"), tmp_path / "voice")


def small(teacher: Bundle, **changes: Any) -> StudentShape:
    ids = json.loads(teacher.file("voice.json").read_text(encoding="utf-8"))["phoneme_id_map"].values()
    lesson = next(iter(lessons_of(teacher)))
    sizes = {"width": 32, "heads": 2, "hidden": 64, "encoder_layers": 1, "decoder_layers": 2, "prenet": 16}
    return StudentShape(max(i for group in ids for i in group) + 1, lesson.frames.shape[1], **sizes | changes)


def lessons_of(teacher: Bundle) -> list[_lessons.Lesson]:
    opened = _lessons.Teacher(teacher)
    return [opened.lesson(ids) for text in TEXTS for ids in opened.sentences(text)]


def test_a_lesson_is_what_the_teacher_says(teacher: Bundle) -> None:
    for lesson in lessons_of(teacher):
        assert int(lesson.durations.sum()) == len(lesson.frames)
        assert len(lesson.ids) == len(lesson.durations) == len(lesson.prior)
    with Engine(teacher, RuntimeOptions(threads=1)) as engine:
        said = [speak(engine, Request("a", text, noise_scale=0.0, noise_w=0.0)) for text in TEXTS]
    frames = sum(len(lesson.frames) for lesson in lessons_of(teacher))
    assert frames * teacher.defaults["hop"] == sum(len(audio.samples) for audio in said)


def test_the_student_speaks_what_it_learned(teacher: Bundle, tmp_path: Path) -> None:
    """The graph from the weights gives the module's own numbers."""
    shape = small(teacher)
    school = School(shape, lessons_of(teacher), tmp_path / "work")
    school.train(0.02)
    distill.write_student(teacher, school, tmp_path / "student")
    distill.with_vocoder(teacher, tmp_path / "student", tmp_path / "model")
    family = registry.load("families", "transformer_mel")
    bundle = family.import_(tmp_path / "model", tmp_path / "bundle")
    runtime = registry.load("runtimes", "onnxruntime")
    opened = {s.name: runtime.open(s, bundle.file(s.file), RuntimeOptions(threads=1)) for s in bundle.stages}

    school.student.load_state_dict(school.mean)
    student = school.student.half().float().eval()  # the weights as they were stored
    rng = np.random.default_rng(0)
    tokens, steps = rng.integers(0, shape.tokens, (1, 9)), 12
    before = rng.standard_normal((1, steps, shape.outputs)).astype(np.float32)
    reader, phase = np.sort(rng.integers(0, 9, (1, steps))), rng.random((1, steps, 2)).astype(np.float32)
    with torch.no_grad():
        understood, lasts = student.read(torch.from_numpy(tokens), torch.ones(1, 9))
        durations = lasts.expm1().round().clamp(min=1)
        memory = student.remember(understood, durations)
        wanted = student.speak(memory, torch.ones(1, 9), *map(torch.from_numpy, (before, reader, phase)))
    one = np.ones((1, 1, 1), np.float32)
    read = opened["encoder"].run(
        {"tokens": tokens, "token_bias": np.zeros((1, 1, 1, 9), np.float32), "length_scale": one}
    )
    assert np.array_equal(read["durations"][..., 0], durations.numpy())
    assert np.abs(read["memory"] - memory.numpy()).max() < 1e-4
    feed = {**read, "before": before, "reader": reader, "phase": phase, "here": read["memory"][:, reader[0]]}
    feed["token_bias"], feed["frame_bias"] = np.zeros((1, 1, 1, 9), np.float32), np.zeros((1, 1, 1, steps), np.float32)
    made = opened["prefix"].run(feed)
    assert np.abs(made["frames"] - wanted.numpy()).max() < 1e-3
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        assert speak(engine, Request("a", "one two.", max_seconds=3)).seconds > 0


def test_training_goes_on_where_it_was(teacher: Bundle, tmp_path: Path) -> None:
    def school() -> School:
        return School(small(teacher), lessons_of(teacher), tmp_path / "work")

    first = school()
    first.train(0.01)
    second = school()
    second.train(0.005)  # nothing is left to do
    assert second.count == first.count > 0
    assert all(torch.equal(a, b) for a, b in zip(first.mean.values(), second.mean.values(), strict=True))
    third = school()
    third.train(first.seconds / 60 + 0.01)
    assert third.count > first.count


def test_neither_another_teacher_nor_a_loss_that_is_no_number_spoils_a_checkpoint(
    teacher: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def school(name: str = "one") -> School:
        return School(small(teacher), lessons_of(teacher), tmp_path / "work", teacher=name)

    school().train(0.01)
    kept = (tmp_path / "work" / "checkpoint.pt").read_bytes()
    with pytest.raises(VivaceError, match="another student"):
        school("another").train(1.0)
    bad = school()
    monkeypatch.setattr(bad.student.prior, "forward", lambda read: read[..., : bad.shape.mels] * float("nan"))
    with pytest.raises(VivaceError, match="the prior loss is no number"):
        bad.train(1.0)
    assert (tmp_path / "work" / "checkpoint.pt").read_bytes() == kept
    assert all(torch.isfinite(value).all() for value in bad.student.state_dict().values())


def test_what_is_missing_here_is_not_kept_as_unspeakable(
    teacher: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(self: Any, text: str) -> list[Any]:
        raise MissingDependency("piper-tts", "piper")

    monkeypatch.setattr(_lessons.Teacher, "sentences", lacking)
    with pytest.raises(MissingDependency):
        _lessons.write_lessons(teacher, TEXTS, tmp_path / "lessons", lambda message, share: None)
    assert not list((tmp_path / "lessons").iterdir())


def test_only_a_piper_voice_with_one_speaker_teaches(toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a Piper voice"):
        distill.distill(toy, tmp_path / "out", TEXTS)


def test_from_the_texts_to_a_bundle(teacher: Bundle, tmp_path: Path) -> None:
    settings = distill.Settings(minutes=0.01)
    made = distill.distill(teacher, tmp_path / "out", TEXTS, settings, shape=small(teacher), work=tmp_path / "work")
    assert made.family == "transformer_mel"
    assert (tmp_path / "work" / "model" / "model.safetensors").is_file()
    again = distill.with_teacher(teacher, tmp_path / "work" / "student", tmp_path / "again")
    assert again.files["stages/prefix.onnx"] == made.files["stages/prefix.onnx"]
    assert again.files["stages/vocoder.onnx"] == made.files["stages/vocoder.onnx"]
    with pytest.raises(ModelError, match="holds no student"):
        distill.with_vocoder(teacher, tmp_path, tmp_path / "no")
    with pytest.raises(UsageError, match="minutes"):
        distill.Settings(minutes=0)
