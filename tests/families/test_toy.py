from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import ModelError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.families import _toy_graph, toy
from vivace.families._receptive_field import receptive_field

ONE = RuntimeOptions(threads=1)


def write(folder: Path, data: Any) -> Path:
    path = folder / "hum.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def say(bundle: Bundle, text: str = "Hello there, 42 toys.", **fields: Any) -> np.ndarray:
    with Engine(bundle, ONE) as engine:
        return speak(engine, Request("a", text, **fields)).samples


def test_import_writes_a_bundle_that_opens(tmp_path: Path) -> None:
    made = toy.import_(write(tmp_path, {"toy": 1, "voices": ["ann"], "rate": 16000, "steps": 3}), tmp_path / "b")
    opened = open_bundle(tmp_path / "b")
    assert opened == made
    assert (made.name, made.family, made.sample_rate, made.voices) == ("hum", "toy", 16000, ("ann",))
    assert [(s.name, s.loop, s.frame_rate) for s in made.stages] == [
        ("text", "once", 0.0),
        ("frames", "frame", 200.0),
        ("decoder", "once", 16000.0),
    ]
    assert made.size < 100_000


def test_the_manifest_tells_the_tensors_of_each_graph(toy: Bundle) -> None:
    for stage in toy.stages:
        graph = onnx.load(str(toy.file(stage.file))).graph
        assert set(stage.inputs) == {i.name for i in graph.input}
        assert set(stage.outputs) == {o.name for o in graph.output}
    assert toy.stage("text").inputs["input"].dtype == "int64"
    assert toy.stage("decoder").inputs["latent"].shape == ("batch", 16, "frames")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**62))
def test_every_seed_makes_another_voice_that_is_heard(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("seed")
    voice = toy.import_(write(folder, {"toy": 1, "seed": seed}), folder / "a")
    samples = say(voice)
    assert 0.03 < np.sqrt(np.mean(samples**2)) < 0.5
    assert np.abs(samples).max() < 1
    assert abs(samples.mean()) < 0.01
    loud = np.abs(samples).reshape(-1, 80).max(axis=1)
    assert (loud > 0.01).all(), "a silent frame"
    other = toy.import_(write(folder, {"toy": 1, "seed": seed ^ 1}), folder / "b")
    assert other.digest != voice.digest
    assert np.abs(say(other) - samples).max() > 0.01


def test_the_same_seed_makes_the_same_voice(tmp_path: Path) -> None:
    path = write(tmp_path, {"toy": 1, "seed": 9})
    assert toy.import_(path, tmp_path / "a").digest == toy.import_(path, tmp_path / "b").digest


def test_the_overlap_is_the_decoders_reach(toy: Bundle) -> None:
    """A frame further away than the overlap changes nothing; one at the overlap does."""
    import onnxruntime as ort

    overlap, hop = toy.defaults["overlap"], toy.defaults["hop"]
    decoder = ort.InferenceSession(str(toy.file("stages/decoder.onnx")), providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(0).standard_normal((1, 16, 40)).astype(np.float32)
    changed = frames.copy()
    changed[:, :, 20] += 1
    one, other = (decoder.run(None, {"latent": f})[0].reshape(40, hop) for f in (frames, changed))
    touched = np.flatnonzero((one != other).any(axis=1))
    assert 20 - overlap <= touched.min() < touched.max() <= 20 + overlap
    assert max(20 - touched.min(), touched.max() - 20) >= overlap - 1
    model = onnx.load(str(toy.file("stages/decoder.onnx")))
    assert receptive_field(model) == (overlap, hop)


def test_steps_change_how_frames_come_but_not_how_many(make_toy: Any) -> None:
    one, five = (say(make_toy(steps=steps), noise_scale=0.0) for steps in (1, 5))
    assert len(one) == len(five)
    assert np.abs(one - five).max() > 1e-3


def test_a_character_has_its_frames_and_speed_changes_them(toy: Bundle) -> None:
    hop = toy.defaults["hop"]
    assert len(say(toy, "a")) == 3 * hop
    assert len(say(toy, "d")) == 6 * hop
    assert len(say(toy, "d", speed=2.0)) == 3 * hop
    assert len(say(toy, "a", speed=10.0)) == hop


def test_export_gives_each_stage_as_a_runnable_file(tmp_path: Path, toy: Bundle) -> None:
    from vivace.families import toy as family

    files = family.export(toy, tmp_path / "out")
    assert [f.name for f in files] == ["toy.decoder.onnx", "toy.frames.onnx", "toy.text.onnx"]
    for file in files:
        onnx.checker.check_model(onnx.load(str(file)), full_check=True)


def test_export_to_a_file_name(tmp_path: Path, toy: Bundle) -> None:
    from vivace.families import toy as family

    files = family.export(toy, tmp_path / "deep" / "mine.onnx")
    assert [f.name for f in files] == ["mine.decoder.onnx", "mine.frames.onnx", "mine.text.onnx"]
    assert all(f.parent == tmp_path / "deep" and f.is_file() for f in files)


# --- what is no toy voice ---


@pytest.mark.parametrize("data", ["", "{", "[]", "5", "null", '{"other": 1}', "[" * 100_000, b"\xff".decode("latin1")])
def test_a_strange_file_is_not_recognised(tmp_path: Path, data: str) -> None:
    assert not toy.recognise(write(tmp_path, data))


def test_other_paths_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    right = write(tmp_path, {"toy": 1})
    wrong = right.rename(tmp_path / "hum.txt")
    for path in (tmp_path, tmp_path / "folder.json", tmp_path / "none.json", binary, wrong):
        assert not toy.recognise(path)
    assert toy.recognise(wrong.rename(right))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "not readable JSON"),
        ({"other": 1}, 'it needs "toy": 1'),
        ({"toy": 2}, 'it needs "toy": 1'),
        ([], 'it needs "toy": 1'),
        ({"toy": 1, "seed": -1}, "seed is -1"),
        ({"toy": 1, "seed": "x"}, "seed is 'x'"),
        ({"toy": 1, "steps": 0}, "steps is 0"),
        ({"toy": 1, "steps": True}, "steps is True"),
        ({"toy": 1, "rate": 100}, "rate is 100"),
        ({"toy": 1, "voices": "ann"}, "voices is 'ann'"),
        ({"toy": 1, "voices": [""]}, "voices is"),
        ({"toy": 1, "sede": 1}, "unknown field 'sede'"),
    ],
)
def test_a_wrong_spec_is_named_and_nothing_is_written(tmp_path: Path, data: Any, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        toy.import_(write(tmp_path, data), tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_spec_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not readable"):
        toy.import_(tmp_path / "none.json", tmp_path / "out")


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.text())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["toy", "seed", "steps", "voices", "rate"]), json_values, max_size=4))
def test_any_fields_give_a_spec_or_a_model_error(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = write(tmp_path, {"toy": 1, **fields})
    try:
        spec = toy.read_spec(path)
    except ModelError:
        return
    assert spec.steps >= 1


def test_the_graphs_have_what_passes_work_on() -> None:
    models = _toy_graph.build(0, 10, 1)
    kinds = {node.op_type for model in models.values() for node in model.graph.node}
    assert {"Conv", "ConvTranspose", "MatMul", "Gather", "LeakyRelu"} <= kinds
    for model in models.values():
        names = [node.name for node in model.graph.node]
        assert len(names) == len(set(names))
