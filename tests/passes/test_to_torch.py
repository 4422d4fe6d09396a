"""Modules in the place of exported stages: the same samples, one stage or all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from passes import torch_voice
from passes.torch_voice import apart, apply, say
from vivace.core import registry
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import ModelError, UsageError

CLOSE = 1e-4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return torch_voice.make(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("speakers", "resblock", "stochastic"), [(1, "2", True), (2, "1", True), (2, "2", False)])
def test_modules_say_what_the_graph_says(tmp_path: Path, speakers: int, resblock: Any, stochastic: bool) -> None:
    voice = torch_voice.make(tmp_path / "voice", speakers, resblock, stochastic)
    child = apply("to_torch", voice, tmp_path / "child")
    assert open_bundle(child.path) == child
    assert {(stage.runtime, Path(stage.file).suffix) for stage in child.stages} == {("torch", ".safetensors")}
    assert not list(child.path.rglob("*.onnx"))
    for name in voice.voices or ("",):
        assert apart(say(voice, voice=name), say(child, voice=name)) < CLOSE


@pytest.mark.parametrize("stage", ["text", "flow", "decoder"])
def test_one_stage_alone_and_then_the_others(tiny: Bundle, tmp_path: Path, stage: str) -> None:
    one = apply("to_torch", tiny, tmp_path / "one", stages=stage)
    assert [s.name for s in one.stages if s.runtime == "torch"] == [stage]
    rest = apply("to_torch", one, tmp_path / "rest")
    assert {s.runtime for s in rest.stages} == {"torch"}
    expected = say(tiny)
    assert apart(expected, say(one)) < CLOSE
    assert apart(expected, say(rest)) < CLOSE


@pytest.mark.voice
def test_the_real_voice(real_voice: Bundle, tmp_path: Path) -> None:
    child = apply("to_torch", real_voice, tmp_path / "child")
    text = "The quick brown fox jumps over the lazy dog."
    assert apart(say(real_voice, text), say(child, text)) < 1e-3  # -60 dB


def test_what_it_refuses(tiny: Bundle, tmp_path: Path, toy: Bundle) -> None:
    moved = apply("to_torch", tiny, tmp_path / "moved")
    with pytest.raises(UsageError, match="stage text is a module already"):
        apply("to_torch", moved, tmp_path / "again")
    with pytest.raises(UsageError, match="no stage 'vocoder'; it has text, flow, decoder"):
        apply("to_torch", tiny, tmp_path / "unknown", stages="vocoder")
    with pytest.raises(UsageError, match=r"no part of a VITS voice|no VITS voice as it was exported"):
        apply("to_torch", toy, tmp_path / "toy")
    with pytest.raises(UsageError, match=r"import the original|begin with the original"):
        apply("to_torch", apply("weights_fp16", tiny, tmp_path / "narrow", smallest=8), tmp_path / "changed")
    assert {p.name for p in tmp_path.iterdir()} == {"moved", "narrow"}


def test_a_voice_of_modules_is_no_piper_file(tiny: Bundle, tmp_path: Path) -> None:
    child = apply("to_torch", tiny, tmp_path / "child", stages="flow")
    with pytest.raises(ModelError, match=r"stage flow .* no ONNX graph"):
        registry.load("families", "piper").export(child, tmp_path / "out")


def test_place_says_who_makes_modules(tiny: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass to_torch makes"):
        apply("place", tiny, tmp_path / "placed", runtime="torch")
    place = registry.load("passes", "place")
    stage = replace(apply("to_torch", tiny, tmp_path / "moved").stage("flow"))
    lowered = place.placed(stage, place.Settings("torch", "bf16"))
    assert lowered.options == {**stage.options, "precision": "bf16"}
