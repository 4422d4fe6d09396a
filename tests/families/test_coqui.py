"""Coqui TTS voices: read with nothing but data taken from the checkpoint, spoken, written, and errors in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from families import coqui_maker  # noqa: E402
from vivace.core import registry  # noqa: E402
from vivace.core.bundle import Bundle  # noqa: E402
from vivace.core.contracts import Context  # noqa: E402
from vivace.core.errors import ModelError, UsageError  # noqa: E402
from vivace.core.settings import parse  # noqa: E402
from vivace.core.speech import Request  # noqa: E402
from vivace.core.stage import Array, RuntimeOptions  # noqa: E402
from vivace.engine.engine import Engine, speak  # noqa: E402
from vivace.families import coqui, piper  # noqa: E402
from vivace.modules.vits import from_coqui  # noqa: E402
from vivace.workflows.import_ import import_model  # noqa: E402

ONE = RuntimeOptions(threads=1)
TEXT = "a small voice, it says."
CLOSE = 1e-4


def said(bundle: Bundle, text: str = TEXT, voice: str = "", noise: float = 0.0) -> Array:
    with Engine(bundle, ONE) as engine:
        return speak(engine, Request("a", text, voice=voice, noise_scale=noise, noise_w=noise, seed=5)).samples


def edit(folder: Path, change: Any) -> Path:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config)
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder


def edit_weights(folder: Path, change: Any) -> Path:
    state = torch.load(folder / "model_file.pth", weights_only=True)
    change(state["model"])
    torch.save(state, folder / "model_file.pth")
    return folder


def claimed(layer: str) -> dict[str, Any]:
    return {"stages": {"text": {"label": "int8", "quantized": {layer: "dynamic"}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coqui_maker.make(tmp_path_factory.mktemp("coqui"), speakers=2)


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return coqui.import_(folder, tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.mark.parametrize("name", ["", "speaker 1"])
def test_it_speaks_like_the_module(folder: Path, bundle: Bundle, name: str) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    front_end = registry.load("text", "coqui")
    config["model_args"] |= {"num_chars": len(front_end.reader(config).vocabulary), "num_speakers": 2}
    stored = torch.load(folder / "model_file.pth", weights_only=True)["model"]
    module = from_coqui(config, {key: value.numpy() for key, value in stored.items()})
    ids = next(iter(front_end.tokens(TEXT, config)))
    with torch.no_grad():
        sid = torch.tensor([1 if name else 0])
        wanted = module(torch.tensor([ids]), 0.0, 1.0, 0.0, sid).numpy().ravel()
    found = said(bundle, voice=name)
    assert bundle.voices == ("speaker 0", "speaker 1")
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=CLOSE)


def test_the_checkpoint_may_be_named_directly_and_both_spellings_of_weight_norm_say_the_same(tmp_path: Path) -> None:
    old, new = (coqui_maker.make(tmp_path, f"voice {k}", spelling=k) for k in (0, 1))
    one = coqui.import_(old / "model_file.pth", tmp_path / "one")
    two = coqui.import_(new, tmp_path / "two")
    np.testing.assert_allclose(said(one), said(two), atol=1e-6)


def test_what_is_written_is_read_again(bundle: Bundle, tmp_path: Path) -> None:
    files = coqui.export(bundle, tmp_path / "out")
    assert sorted(f.name for f in files) == ["config.json", "model_file.pth", "speaker_ids.json"]
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["vivace"] == {"history": [], "stages": {}}
    assert "front_end" not in config
    again = coqui.import_(tmp_path / "out", tmp_path / "again")
    assert again.voices == bundle.voices
    np.testing.assert_allclose(said(again, voice="speaker 1"), said(bundle, voice="speaker 1"), atol=1e-6)


@pytest.mark.parametrize("settings", [{"smallest": "64"}, {"smallest": "64", "stages": "decoder"}])
def test_quantized_saved_loaded_and_equal(bundle: Bundle, tmp_path: Path, settings: dict[str, str]) -> None:
    weight_only = registry.load("passes", "torch_int8_weight_only")
    chosen = parse(weight_only.Settings, settings, "torch_int8_weight_only")
    small = weight_only.apply(bundle, tmp_path / "small", chosen, Context(calibration=lambda stage: []))
    coqui.export(small, tmp_path / "out")
    stored = torch.load(tmp_path / "out" / "model_file.pth", weights_only=True)["model"]
    stages = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["vivace"]["stages"]
    layers = stages["decoder"]["quantized"]
    assert layers["waveform_decoder.ups.0"] == "weight_only"
    assert stored["waveform_decoder.ups.0.weight"].dtype == torch.int8
    again = coqui.import_(tmp_path / "out", tmp_path / "again")
    assert [s.runtime for s in again.stages] == [s.runtime for s in small.stages]
    assert [s.precision for s in again.stages] == [s.precision for s in small.stages]
    assert [dict(s.options) for s in again.stages] == [dict(s.options) for s in small.stages]
    assert np.array_equal(said(again, noise=0.7), said(small, noise=0.7))
    assert not np.array_equal(said(again), said(bundle))


def test_a_changed_graph_is_no_module_any_more(bundle: Bundle, tmp_path: Path) -> None:
    int8 = registry.load("passes", "int8_dynamic")
    chosen = parse(int8.Settings, {}, "int8_dynamic")
    small = int8.apply(bundle, tmp_path / "small", chosen, Context(calibration=lambda stage: []))
    with pytest.raises(ModelError, match=r"passes: int8_dynamic"):
        coqui.export(small, tmp_path / "out")


class Payload:
    """What a pickle can do: run anything when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("place", ["model", "beside"])
def test_a_payload_does_not_run(tmp_path: Path, place: str, old: bool) -> None:
    folder = coqui_maker.make(tmp_path)
    state = torch.load(folder / "model_file.pth", weights_only=True)
    planted = Payload(tmp_path / "ran")
    state["model" if place == "model" else "optimizer"] = {"x": planted}
    torch.save(state, folder / "model_file.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"more than data.*mkdir") as caught:
        coqui.import_(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
    torch.load(folder / "model_file.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "the payload itself"


def test_a_payload_in_the_table_of_speakers_does_not_run(tmp_path: Path) -> None:
    folder = coqui_maker.make(tmp_path, speakers=2)
    torch.save({"a": Payload(tmp_path / "ran")}, folder / "speakers.pth")
    with pytest.raises(ModelError, match="more than data"):
        coqui.import_(folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(model="xtts"), "is for 'xtts'; of Coqui's models, vits is known here"),
        (lambda c: c["model_args"].update(use_d_vector_file=True), "speaks by speaker vectors"),
        (lambda c: c["model_args"].update(encoder_sample_rate=8000), "upsamples between"),
        (lambda c: c["model_args"].update(condition_dp_on_speaker=False), "durations without the speaker"),
        (lambda c: c.update(model_args=[1]), "model_args is no object"),
        (lambda c: c.pop("model_args"), "model_args is no object"),
        (lambda c: c["audio"].update(hop_length=64), "samples of a frame, and audio.hop_length is 64"),
        (lambda c: c["model_args"].update(length_scale="slow"), "length_scale is wrong"),
        (lambda c: c["model_args"].update(hidden_channels="many"), "describes no VITS model"),
        (lambda c: c.update(audio={}), "audio.sample_rate is missing or wrong"),
        (lambda c: c.update(text_cleaner="my_cleaners"), "text_cleaner 'my_cleaners' is not known here"),
        (
            lambda c: c["model_args"].update(hidden_channels_ffn_text_encoder=10),
            r"do not fit: the weight enc_p.encoder.ffn_layers.0.conv_1.weight is \(12, 8, 3\); the settings .* \(10,",
        ),
        (
            lambda c: c["characters"].update(characters="abc"),
            r"enc_p.emb.weight is \(35, 8\); the settings ask for \(12,",
        ),
        (lambda c: c.update(vivace={"stages": 3}), "vivace.stages is damaged"),
        (lambda c: c.update(vivace=claimed("text_encoder.emb")), "enc_p.emb is quantized; the checkpoint does not"),
        (lambda c: c.update(vivace=claimed("no.such.layer")), "no.such.layer is quantized; the checkpoint does not"),
    ],
)
def test_configs_that_do_not_serve(tmp_path: Path, change: Any, message: str) -> None:
    folder = edit(coqui_maker.make(tmp_path, speakers=2), change)
    with pytest.raises(ModelError, match=message) as caught:
        coqui.import_(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("text_encoder.emb.weight"), "the weight enc_p.emb.weight is missing"),
        (lambda w: w.update({"text_encoder.new": torch.zeros(1)}), "enc_p.new belongs to nothing"),
        (lambda w: w.update({"text_encoder.emb.weight": 3}), "'text_encoder.emb.weight' is no tensor"),
        (lambda w: w.clear(), 'no weights under "model"'),
    ],
)
def test_weights_that_do_not_serve(tmp_path: Path, change: Any, message: str) -> None:
    folder = edit_weights(coqui_maker.make(tmp_path), change)
    with pytest.raises(ModelError, match=message):
        coqui.import_(folder, tmp_path / "out")


def test_speakers_that_the_checkpoint_does_not_have(tmp_path: Path) -> None:
    claimed = {"use_speaker_embedding": True, "num_speakers": 2}
    folder = edit(coqui_maker.make(tmp_path), lambda c: c["model_args"].update(claimed))
    with pytest.raises(ModelError, match=r"has 2 speakers, and .* none"):
        coqui.import_(folder, tmp_path / "out")


def test_speakers_without_a_table_or_beyond_the_voice(tmp_path: Path) -> None:
    folder = coqui_maker.make(tmp_path, speakers=2)
    (folder / "speakers.pth").unlink()
    with pytest.raises(ModelError, match="has 2 speakers, and no table of them"):
        coqui.import_(folder, tmp_path / "out")
    (folder / "speaker_ids.json").write_text('{"ann": 0, "bob": 2}', encoding="utf-8")
    with pytest.raises(ModelError, match="'bob' is number 2, and the voice has 2"):
        coqui.import_(folder, tmp_path / "out")
    (folder / "speaker_ids.json").write_text('{"ann": [0.5]}', encoding="utf-8")
    with pytest.raises(ModelError, match="no table of speakers by number"):
        coqui.import_(folder, tmp_path / "out")


def test_folders_that_lack_a_file(tmp_path: Path) -> None:
    folder = coqui_maker.make(tmp_path)
    other = folder / "model_file.pth"
    assert coqui.recognise(folder)
    other.rename(folder / "checkpoint_1.pth")
    assert coqui.recognise(folder)
    (folder / "checkpoint_2.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="2 checkpoints; name the one"):
        coqui.import_(folder, tmp_path / "out")
    with pytest.raises(ModelError, match=r"no readable checkpoint|more than data"):
        coqui.import_(folder / "checkpoint_2.pth", tmp_path / "out")
    assert "2 checkpoints" in coqui.lacks(folder)
    (folder / "config.json").unlink()
    assert not coqui.recognise(folder)
    assert "config.json is not in" in coqui.lacks(folder)
    with pytest.raises(ModelError, match=r"config\.json is not in"):
        coqui.import_(folder / "checkpoint_1.pth", tmp_path / "out")


def test_what_stands_between_a_folder_and_a_voice(tmp_path: Path) -> None:
    folder = coqui_maker.make(tmp_path)
    assert coqui.lacks(folder) == coqui.lacks(tmp_path / "none") == coqui.lacks(tmp_path / "voice.onnx") == ""
    edit(folder, lambda c: c.pop("model"))
    assert "no fields model and audio" in coqui.lacks(folder)
    with pytest.raises(UsageError, match="no fields model and audio"):
        import_model(folder, tmp_path / "out")
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert "is not readable JSON" in coqui.lacks(folder)
    (folder / "config.json").write_text('{"model": "vits", "audio": {}}', encoding="utf-8")
    (folder / "model_file.pth").unlink()
    assert "has no checkpoint" in coqui.lacks(folder)
    (folder / "config.json").write_text('{"architectures": ["Another"]}', encoding="utf-8")
    assert coqui.lacks(folder) == ""


def test_a_coqui_voice_as_a_piper_voice_and_back(bundle: Bundle, tmp_path: Path) -> None:
    piper.export(bundle, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tiny.onnx.json").read_text(encoding="utf-8"))
    assert config["phoneme_id_map"]["^"] == []
    assert config["phoneme_id_map"]["A"] == config["phoneme_id_map"]["a"]
    as_piper = piper.import_(tmp_path / "out" / "tiny.onnx", tmp_path / "piper")
    assert as_piper.voices == bundle.voices
    assert as_piper.defaults == bundle.defaults
    np.testing.assert_allclose(said(as_piper, voice="speaker 1"), said(bundle, voice="speaker 1"), atol=CLOSE)
    coqui.export(as_piper, tmp_path / "back")
    back = coqui.import_(tmp_path / "back", tmp_path / "again")
    np.testing.assert_allclose(said(back, voice="speaker 1"), said(bundle, voice="speaker 1"), atol=CLOSE)


def test_what_piper_cannot_read(tmp_path: Path) -> None:
    folder = coqui_maker.make(tmp_path, add_blank=False)
    without = coqui.import_(folder, tmp_path / "without")
    with pytest.raises(ModelError, match="Piper puts a blank between ids"):
        piper.export(without, tmp_path / "out")
