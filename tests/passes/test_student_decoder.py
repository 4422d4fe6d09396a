"""A student takes the decoder's place if it fits; what does not fit is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import vivace
from families import piper_maker
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError
from vivace.families import piper
from vivace.passes import student_decoder
from vivace.passes.student_decoder import Settings

CONTEXT = Context(lambda stage: [])


@pytest.fixture
def voice(tmp_path: Path) -> Bundle:
    return piper.import_(piper_maker.make(tmp_path, piper_maker.Shape(), "hum"), tmp_path / "voice")


def student(path: Path, voice: Bundle, *, channels: int = 6, hop: int = 32, kernel: int = 3) -> Path:
    """One convolution and one transposed convolution."""
    dice = np.random.default_rng(0)
    weights = {
        "w": dice.standard_normal((4, channels, kernel)).astype(np.float32) / 9,
        "up": dice.standard_normal((4, 1, hop)).astype(np.float32) / 9,
    }
    audio = next(iter(voice.stage("decoder").outputs))
    nodes = [
        helper.make_node("Conv", ["latent", "w"], ["x"], pads=[kernel // 2] * 2),
        helper.make_node("ConvTranspose", ["x", "up"], [audio], strides=[hop]),
    ]
    graph = helper.make_graph(
        nodes, "decoder",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, channels, "frames"])],
        [helper.make_tensor_value_info(audio, TensorProto.FLOAT, [1, 1, "samples"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))
    return path


def apply(voice: Bundle, out: Path, file: Path) -> Bundle:
    return student_decoder.apply(voice, out, Settings(str(file)), CONTEXT)


def test_the_student_speaks_and_the_rest_stays(voice: Bundle, tmp_path: Path) -> None:
    child = apply(voice, tmp_path / "child", student(tmp_path / "decoder.onnx", voice))
    assert child.history[-1].settings["file"] == "decoder.onnx" and len(child.history[-1].settings["sha256"]) == 64
    changed = {name for name in voice.files if voice.files[name] != child.files[name]}
    assert changed == {voice.stage("decoder").file}
    before, after = (vivace.synthesize(b, "one two three.", seed=1).samples for b in (voice, child))
    assert len(before) == len(after) and not np.allclose(before, after)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": 5}, "take other latents"),
        ({"hop": 16}, "makes 16 samples of a frame; this voice has 32"),
        ({"kernel": 301}, "looks further than"),
    ],
)
def test_a_student_that_does_not_fit(voice: Bundle, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        apply(voice, tmp_path / "child", student(tmp_path / "decoder.onnx", voice, **changes))
    assert not (tmp_path / "child").exists()


def test_no_student_and_no_decoder(voice: Bundle, toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no student is given; name its file: --set file"):
        student_decoder.apply(voice, tmp_path / "child", Settings(), CONTEXT)
    with pytest.raises(UsageError, match=r"none\.onnx is no file"):
        apply(voice, tmp_path / "child", tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="take other latents"):
        apply(toy, tmp_path / "child", student(tmp_path / "decoder.onnx", voice))
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError):
        apply(voice, tmp_path / "child", tmp_path / "broken.onnx")
