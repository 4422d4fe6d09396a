"""A voice gets a cheaper decoder and stays a voice that every tool loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import vivace  # noqa: E402
from vivace.core import registry  # noqa: E402
from vivace.core.bundle import Bundle  # noqa: E402
from vivace.core.errors import ModelError, UsageError  # noqa: E402
from vivace.workflows import distill_decoder  # noqa: E402
from vivace.workflows.distill_decoder import Settings  # noqa: E402

TEXTS = [
    "The lamp by the window burned until morning, and nobody came to put it out.",
    "Every letter that she wrote that winter was answered within the week.",
]


@pytest.mark.voice
def test_from_texts_to_a_voice_with_another_decoder(real_voice: Bundle, tmp_path: Path) -> None:
    work = tmp_path / "work"
    made = distill_decoder.distill_decoder(
        real_voice, tmp_path / "out", TEXTS, Settings(minutes=0.03, rows=1), work=work
    )
    assert made.family == "piper" and made.history[-1].name == "distill_decoder"
    assert made.defaults["hop"] == real_voice.defaults["hop"]
    assert (work / "curve.png").is_file() and json.loads((work / "curve.json").read_text())[-1]["steps"] >= 1
    before, after = (vivace.synthesize(b, "One clear sentence.", seed=3) for b in (real_voice, made))
    assert len(before.samples) == len(after.samples)  # text, durations and flow are the teacher's
    assert not np.array_equal(before.samples, after.samples)
    paths = distill_decoder.write_pairs(real_voice, TEXTS, work / "pairs", lambda message, share: pytest.fail("anew"))
    assert len(distill_decoder.read_pairs(paths)) == 2
    with pytest.raises(UsageError, match="exists"):
        distill_decoder.distill_decoder(real_voice, tmp_path / "out", TEXTS, work=work)


@pytest.mark.voice
def test_a_graph_that_is_not_the_student_is_refused(
    real_voice: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = registry.load("modules", "istft_decoder").from_teacher(distill_decoder.teacher_decoder(real_voice))
    real = torch.onnx.export

    def wrong(module: Any, *given: Any, **named: Any) -> None:
        kept = module.head.bias.detach().clone()
        with torch.no_grad():
            module.head.bias += 1
        real(module, *given, **named)
        with torch.no_grad():
            module.head.bias.copy_(kept)

    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(ModelError, match="away from the student"):
        distill_decoder.decoder_graph(student, real_voice)


def test_what_cannot_teach(toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a VITS voice with one speaker"):
        distill_decoder.distill_decoder(toy, tmp_path / "out", TEXTS)
    with pytest.raises(UsageError, match="none of the texts"):
        distill_decoder.read_pairs([])
    stages = tuple(replace(toy.stages[0], name=name) for name in ("text", "flow", "decoder"))
    coqui = replace(toy, family="coqui", voices=(), stages=stages)
    with pytest.raises(UsageError, match="vivace export --to piper"):  # before hours of training, not after
        distill_decoder.distill_decoder(coqui, tmp_path / "out", TEXTS)


@pytest.mark.parametrize(
    ("name", "value"), [("minutes", 0), ("minutes", 1e9), ("adversarial_from", 2), ("rate", 0), ("rows", 0)]
)
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name.replace("_", "-")):
        Settings(**{name: value})
