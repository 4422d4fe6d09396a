"""Models that are no Piper voice, damaged ones, and configurations with wrong fields: each is told in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from families import piper_maker
from families.piper_maker import Shape, edit_config
from vivace.core.bundle import open_bundle
from vivace.core.errors import ModelError, VivaceError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.families import piper

ONE = RuntimeOptions(threads=1)


# --- models that are none ---


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model(tmp_path: Path, share: float) -> None:
    model = piper_maker.make(tmp_path)
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError) as caught:
        piper.import_(model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_model_with_a_damaged_byte_is_refused_or_speaks(tmp_path: Path, place: float, byte: int) -> None:
    """Most bytes are weights, which nobody can check; the others must not crash the import."""
    model = piper_maker.make(tmp_path)
    data = bytearray(model.read_bytes())
    data[int(place * len(data))] = byte
    model.write_bytes(bytes(data))
    try:
        piper.import_(model, tmp_path / "out", overwrite=True)
    except ModelError as error:
        assert "\n" not in str(error)


def other_model(inputs: list[str]) -> bytes:
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in inputs]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", [inputs[0]], ["output"])], "g", made, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["x"], "no Piper voice: its inputs are x"),
        (["input", "input_lengths", "scales", "other"], "its inputs are input, input_lengths, other, scales"),
        (["input", "input_lengths", "scales"], "not a VITS voice"),
    ],
)
def test_another_onnx_model_is_told_why(tmp_path: Path, inputs: list[str], words: str) -> None:
    model = piper_maker.make(tmp_path)
    model.write_bytes(other_model(inputs))
    with pytest.raises(ModelError) as caught:
        piper.import_(model, tmp_path / "out")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("speakers", "claimed", "words"), [(1, 3, "which has no speaker"), (3, 1, "which has a speak")]
)
def test_the_json_of_another_voice_is_noticed(tmp_path: Path, speakers: int, claimed: int, words: str) -> None:
    model = edit_config(piper_maker.make(tmp_path, Shape(speakers=speakers)), num_speakers=claimed, speaker_id_map={})
    with pytest.raises(ModelError, match="num_speakers does not fit") as caught:
        piper.import_(model, tmp_path / "out")
    assert words in str(caught.value)


def test_weights_in_another_file_are_not_looked_for(tmp_path: Path) -> None:
    """A model must not make Vivace read files that its author names."""
    model = piper_maker.make(tmp_path)
    loaded = onnx.load(str(model))
    onnx.save(loaded, str(model), save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match="keeps weights in another file"):
        piper.import_(model, tmp_path / "out")


def test_phonemes_that_the_model_does_not_have_are_noticed(tmp_path: Path) -> None:
    ids = {symbol: [k] for k, symbol in enumerate([*piper_maker.SYMBOLS, "ŋ"])}
    model = edit_config(piper_maker.make(tmp_path), phoneme_id_map=ids)
    with pytest.raises(ModelError, match="does not run on its own phonemes"):
        piper.import_(model, tmp_path / "out")


def test_a_decoder_that_loses_samples_at_the_edges_is_refused(tmp_path: Path) -> None:
    """Its chunks would not fit together."""
    model = piper_maker.make(tmp_path)
    loaded = onnx.load(str(model))
    last = next(n for n in loaded.graph.node if n.name == "/dec/conv_post/Conv")
    next(a for a in last.attribute if a.name == "pads").ints[:] = [0, 0]
    onnx.save(loaded, str(model))
    with pytest.raises(ModelError, match="not 32 of each"):
        piper.import_(model, tmp_path / "out")


# --- configurations ---

WRONG = [
    ({"audio": None}, "audio.sample_rate"),
    ({"audio": {"sample_rate": "8000"}}, "audio.sample_rate"),
    ({"audio": {"sample_rate": True}}, "audio.sample_rate"),
    ({"phoneme_id_map": {}}, "phoneme_id_map"),
    ({"phoneme_id_map": {"a": 1}}, "phoneme_id_map"),
    ({"phoneme_id_map": {"a": []}}, "phoneme_id_map"),
    ({"phoneme_id_map": {"a": [-1]}}, "phoneme_id_map"),
    ({"phoneme_id_map": {"a": [10**30]}}, "phoneme_id_map"),
    ({"espeak": None}, "espeak.voice"),
    ({"espeak": {}}, "espeak.voice"),
    ({"espeak": {"voice": 5}}, "espeak.voice"),
    ({"inference": []}, "inference"),
    ({"inference": {"noise_scale": "loud"}}, "inference.noise_scale"),
    ({"inference": {"noise_w": -1}}, "inference.noise_w"),
    ({"inference": {"noise_w": float("inf")}}, "inference.noise_w"),
    ({"inference": {"length_scale": 0}}, "inference.length_scale"),
    ({"inference": {"length_scale": float("nan")}}, "inference.length_scale"),
    ({"num_speakers": 0}, "num_speakers"),
    ({"num_speakers": True}, "num_speakers"),
    ({"num_speakers": None}, "num_speakers"),
    ({"speaker_id_map": []}, "speaker_id_map"),
    ({"speaker_id_map": {"ann": 1}}, "speaker_id_map"),
    ({"default_speaker_id": 1}, "default_speaker_id"),
    ({"default_speaker_id": "ann"}, "default_speaker_id"),
]


@pytest.mark.parametrize(("change", "field"), WRONG, ids=[str(change)[:60] for change, _ in WRONG])
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    model = edit_config(piper_maker.make(tmp_path), **change)
    with pytest.raises(ModelError) as caught:
        piper.import_(model, tmp_path / "out")
    assert f"field {field} is missing or wrong" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    model = piper_maker.make(tmp_path)
    model.with_name("tiny.onnx.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="JSON"):
        piper.import_(model, tmp_path / "out")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
DELETED = object()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damaged_json_is_an_error_or_a_voice(tmp_path: Path, data: st.DataObject) -> None:
    """Import, speech and export end well or in a VivaceError, whatever a field holds."""
    shape = data.draw(st.sampled_from([Shape(), Shape(speakers=2)]))
    model = piper_maker.make(tmp_path, shape)
    config = piper_maker.config(shape)
    field = data.draw(st.sampled_from(sorted(config)))
    owner, key = config, field
    if isinstance(config[field], dict) and config[field] and data.draw(st.booleans()):
        owner = config[field]
        key = data.draw(st.sampled_from(sorted(owner)))
    value = data.draw(st.just(DELETED) | json_values)
    if value is DELETED:
        del owner[key]
    else:
        owner[key] = value
    model.with_name("tiny.onnx.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        bundle = piper.import_(model, tmp_path / "out", overwrite=True)
        piper.export(open_bundle(bundle.path), tmp_path / "exported")
        with Engine(bundle, ONE) as engine:
            speak(engine, Request("a", "hello", max_seconds=1.0))
    except VivaceError as error:
        assert "\n" not in str(error)
