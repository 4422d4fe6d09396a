"""Where stages run, and in what: labels, reasons, history. What is computed there is tests/runtimes' business."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from families import piper_maker
from vivace.core import machine
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.stage import Stage
from vivace.families import piper
from vivace.passes import place
from vivace.passes.place import Settings, accepts, apply, placed
from vivace.runtimes import openvino

BF16 = Settings(precision="bf16")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has OpenVINO and bf16."""
    monkeypatch.setattr(openvino, "precisions", lambda: ("fp32", "bf16"))


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(machine.HIDE, "avx512_bf16,amx_bf16")
    machine.describe.cache_clear()
    yield
    monkeypatch.undo()
    machine.describe.cache_clear()


def test_stages_are_placed_and_their_files_stay(tmp_path: Path, small: Bundle, context: Context, able: None) -> None:
    child = apply(small, tmp_path / "child", BF16, context)
    assert open_bundle(tmp_path / "child") == child
    text, decoder, postnet = child.stages
    for stage in (text, decoder):
        assert (stage.runtime, stage.precision, stage.options) == ("openvino", "bf16", {"precision": "bf16"})
    assert postnet == small.stage("postnet")  # in another format
    assert child.files == small.files
    assert child.digest != small.digest
    assert (child.history[-1].name, child.history[-1].parent) == ("place", small.digest)
    assert child.history[-1].settings == {"runtime": "openvino", "precision": "bf16", "stages": []}


def test_only_the_stages_asked_for(tmp_path: Path, small: Bundle, context: Context, able: None) -> None:
    child = apply(small, tmp_path / "child", Settings(stages=("decoder",)), context)
    assert [s.runtime for s in child.stages] == ["onnxruntime", "openvino", "elsewhere"]
    assert child.stage("text") == small.stage("text")


def test_there_and_back(tmp_path: Path, small: Bundle, context: Context, able: None) -> None:
    there = apply(small, tmp_path / "there", BF16, context)
    back = apply(there, tmp_path / "back", Settings(runtime="onnxruntime"), context)
    assert [(s.runtime, s.precision) for s in back.stages] == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp32"),
        ("elsewhere", "fp32"),
    ]
    assert [step.name for step in back.history] == ["place", "place"]


@pytest.mark.parametrize(
    ("before", "precision", "after"),
    [
        ("fp32", "bf16", "bf16"),
        ("fp32", "fp32", "fp32"),
        ("bf16", "fp32", "fp32"),
        ("mixed int8", "bf16", "mixed int8, bf16"),
        ("mixed int8, bf16", "fp32", "mixed int8, fp32"),
        ("mixed int8", "fp32", "mixed int8"),
        ("fp32, fp16 weights", "bf16", "bf16, fp16 weights"),
    ],
)
def test_the_label_says_what_float_layers_compute_in(before: str, precision: str, after: str) -> None:
    stage = placed(Stage("a", "a.onnx", precision=before), Settings(precision=precision))
    assert stage.precision == after
    assert stage.options == {"precision": precision}


@pytest.mark.parametrize(
    ("stage", "settings", "reason"),
    [
        ({"name": "flow"}, {"stages": ("decoder",)}, "not among the stages asked for"),
        ({"file": "a.bin"}, {}, "openvino reads onnx files"),
        ({"runtime": "openvino"}, {}, "is there already"),
        ({"runtime": "openvino", "options": {"precision": "bf16"}}, {"precision": "bf16"}, "is there already"),
        ({}, {"runtime": "onnxruntime"}, "is there already"),
        ({}, {"runtime": "onnxruntime", "precision": "bf16"}, "computes fp32 in onnxruntime, not bf16"),
        ({"runtime": "openvino"}, {"precision": "bf16"}, None),
        ({}, {}, None),
    ],
)
def test_reasons(able: None, stage: dict[str, Any], settings: dict[str, Any], reason: str | None) -> None:
    found = accepts(replace(Stage("decoder", "a.onnx"), **stage), Settings(**settings))
    assert found is None if reason is None else found is not None and reason in found


def test_a_machine_without_bf16_says_so(small: Bundle, without_bf16: None) -> None:
    pytest.importorskip("openvino")
    told = accepts(small.stages[0], BF16)
    assert told == "this machine computes fp32 in openvino, not bf16"


def test_without_the_package_the_mend_is_named(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    told = accepts(small.stages[0], BF16)
    assert told == "openvino is not installed; run: pip install 'vivace[openvino]'"


def test_nothing_to_place_names_every_reason(tmp_path: Path, small: Bundle, context: Context, able: None) -> None:
    with pytest.raises(UsageError) as caught:
        apply(small, tmp_path / "child", Settings(runtime="onnxruntime"), context)
    assert str(caught.value) == (
        "place: stage text: is there already; stage decoder: is there already; "
        "stage postnet: onnxruntime reads onnx files"
    )
    assert not (tmp_path / "child").exists()


def test_an_unknown_runtime_is_named(small: Bundle) -> None:
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        accepts(small.stages[0], Settings(runtime="openvin"))


def test_other_tools_get_the_same_files(tmp_path: Path, context: Context, able: None) -> None:
    voice = piper.import_(piper_maker.make(tmp_path, name="hum"), tmp_path / "voice")
    child = place.apply(voice, tmp_path / "child", BF16, context)
    written = [piper.export(bundle, tmp_path / bundle.path.name) for bundle in (voice, replace(child, name=voice.name))]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes()
