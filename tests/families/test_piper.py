from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from families import piper_maker
from families.piper_maker import Shape, edit_config
from vivace.core.audio import Audio, join
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import ModelError, VivaceError
from vivace.core.speech import Request, next_chunk
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors, seeded
from vivace.engine.engine import Engine, speak, stream
from vivace.families import _vits_graph as vits
from vivace.families import _vits_import, _vits_proof, piper

ONE = RuntimeOptions(threads=1)
TEXT = "hello there, little voice."
TEXTS = ("hi", "the quick brown fox jumps over the lazy dog", TEXT)
KINDS = {
    "one speaker": Shape(),
    "plain durations": Shape(stochastic=False),
    "three speakers": Shape(speakers=3),
    "constants as nodes": Shape(speakers=2, nodes=True),
}


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("voices")
    return {
        kind: piper.import_(piper_maker.make(folder, shape, kind), folder / f"{kind} bundle")
        for kind, shape in KINDS.items()
    }


@pytest.fixture(params=KINDS)
def voice(request: pytest.FixtureRequest, voices: dict[str, Bundle]) -> Bundle:
    return voices[request.param]


def say(bundle: Bundle, text: str = TEXT, **fields: Any) -> np.ndarray:
    with Engine(bundle, ONE) as engine:
        return speak(engine, Request("a", text, **fields)).samples


def without_noise(bundle: Bundle) -> np.ndarray:
    return say(bundle, noise_scale=0.0, noise_w=0.0)


# --- import ---


def test_import_writes_a_bundle_that_opens(tmp_path: Path) -> None:
    made = piper.import_(piper_maker.make(tmp_path, Shape(speakers=2), "en_US-tiny"), tmp_path / "b")
    assert open_bundle(tmp_path / "b") == made
    assert (made.name, made.family, made.sample_rate) == ("en_US-tiny", "piper", 8000)
    assert made.voices == ("speaker 0", "speaker 1")
    assert [(s.name, s.frame_rate) for s in made.stages] == [("text", 250.0), ("flow", 250.0), ("decoder", 8000.0)]
    scales = {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8}
    assert {key: made.defaults[key] for key in scales} == scales
    assert made.defaults["hop"] == piper_maker.HOP


def test_a_folder_with_one_voice_is_imported(tmp_path: Path) -> None:
    piper_maker.make(tmp_path / "voice")
    assert piper.recognise(tmp_path / "voice")
    assert piper.import_(tmp_path / "voice", tmp_path / "out").name == "tiny"


def test_a_folder_with_two_voices_asks_which(tmp_path: Path) -> None:
    piper_maker.make(tmp_path / "voice", name="one")
    piper_maker.make(tmp_path / "voice", name="two")
    assert not piper.recognise(tmp_path / "voice")
    with pytest.raises(ModelError, match=r"holds 2 \.onnx files"):
        piper.import_(tmp_path / "voice", tmp_path / "out")


def test_what_is_not_a_voice_is_not_recognised(tmp_path: Path) -> None:
    model = piper_maker.make(tmp_path / "voice")
    assert piper.recognise(model)
    (tmp_path / "alone.onnx").write_bytes(b"x")
    (tmp_path / "folder.onnx").mkdir()
    for path in (tmp_path, tmp_path / "alone.onnx", tmp_path / "none.onnx", tmp_path / "folder.onnx", Path("a\0b")):
        assert not piper.recognise(path)
    assert not piper.recognise(model.with_name(model.name + ".json"))


def test_a_model_without_its_json_says_so(tmp_path: Path) -> None:
    model = piper_maker.make(tmp_path)
    model.with_name("tiny.onnx.json").unlink()
    with pytest.raises(ModelError, match=r"tiny\.onnx\.json is not beside"):
        piper.import_(model, tmp_path / "out")


def test_speakers_without_names_have_numbers(tmp_path: Path) -> None:
    model = edit_config(piper_maker.make(tmp_path, Shape(speakers=3)), speaker_id_map={"ann": 1})
    assert piper.import_(model, tmp_path / "out").voices == ("0", "ann", "2")


# --- speaking ---


def test_it_speaks(voice: Bundle) -> None:
    samples = say(voice)
    assert len(samples) % piper_maker.HOP == 0
    assert 0.01 < np.abs(samples).max() <= 1


def test_a_seed_is_a_take(voice: Bundle) -> None:
    one = say(voice, seed=1)
    assert np.array_equal(one, say(voice, seed=1))
    other = say(voice, seed=2)
    assert len(one) != len(other) or np.abs(one - other).max() > 1e-3
    assert np.array_equal(without_noise(voice), say(voice, noise_scale=0.0, noise_w=0.0, seed=2))


def test_speed_changes_the_length(voice: Bundle) -> None:
    fast, plain, slow = (len(say(voice, speed=s, noise_scale=0.0, noise_w=0.0)) for s in (2.0, 1.0, 0.5))
    assert fast < plain < slow


@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_neighbours_change_nothing(voice: Bundle, max_batch: int) -> None:
    """Also where the rows of a batch differ in speaker, speed, noise and length."""
    requests = [
        Request(str(k), text, seed=k, voice=voice.voices[-k] if voice.voices else "", speed=(1.0, 1.0, 1.7)[k])
        for k, text in enumerate(TEXTS)
    ]
    with Engine(voice, ONE) as engine:
        alone = {r.id: speak(engine, r).samples for r in requests}
    with Engine(voice, ONE, max_batch=max_batch) as engine:
        for r in requests:
            engine.add(r)
        pieces: dict[str, list[Audio]] = {r.id: [] for r in requests}
        while not engine.idle:
            for event in engine.step():
                assert not event.error
                pieces[event.request_id] += [event.audio] if event.audio else []
    for name, samples in alone.items():
        together = join(pieces[name]).samples
        assert together.shape == samples.shape
        assert np.abs(together - samples).max() < 1e-5


def chunks_of(frames: int, first: int) -> list[int]:
    """Samples of each chunk of a stream of so many frames."""
    given: list[int] = []
    while sum(given) < frames:
        given.append(min(next_chunk(first, sum(given)), frames - sum(given)))
    return [n * piper_maker.HOP for n in given]


@pytest.mark.parametrize("chunk", [1, 2, 5, 16, 10_000])
def test_streamed_is_whole(voice: Bundle, chunk: int) -> None:
    request = Request("a", TEXT, seed=4)
    with Engine(voice, ONE) as engine:
        whole = speak(engine, request).samples
        pieces = [e.audio for e in stream(engine, replace(request, chunk_frames=chunk)) if e.audio]
    assert [len(piece.samples) for piece in pieces] == chunks_of(len(whole) // piper_maker.HOP, chunk)
    assert np.abs(join(pieces).samples - whole).max() < 1e-5


class Watch:
    """Given to an engine as `wrap`: how many frames each run of flow and decoder is given."""

    def __init__(self) -> None:
        self.frames: dict[str, list[int]] = {"text": [], "flow": [], "decoder": []}

    def __call__(self, stage: Stage, session: Session) -> Session:
        watch, inner = self.frames[stage.name], session
        tensor = {"text": "input", "flow": "mean", "decoder": "latent"}[stage.name]

        class Watched:
            def run(self, inputs: Tensors) -> dict[str, Array]:
                watch.append(inputs[tensor].shape[-1])
                return inner.run(inputs)

            def close(self) -> None:
                inner.close()

        return Watched()


def test_a_seed_draws_the_noise_it_always_drew(voice: Bundle) -> None:
    """The same noise from the same generator, given to the stages one after another in one piece each."""
    sessions = {s.name: _vits_proof._Plain.load(onnx.load(str(voice.file(s.file)))) for s in voice.stages}
    with Engine(voice, ONE) as engine:
        request = Request("a", "hello there", seed=11)
        (ids,) = engine._model.encode(request)
        spoken = speak(engine, request).samples
    rng = seeded(11, 0)
    feed = {
        "input": ids[None],
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0.667, 1.0, 0.8], np.float32),
        "sid": np.array([0], np.int64),
        vits.DURATION_NOISE: rng.standard_normal((2, len(ids)), np.float32)[None],
    }
    feed |= sessions["text"].run(feed)
    feed[vits.PRIOR_NOISE] = rng.standard_normal(feed[vits.MEAN].shape[1:], np.float32)[None]
    feed |= sessions["flow"].run(feed)
    assert np.abs(sessions["decoder"].run(feed)["output"].reshape(-1) - spoken).max() < 1e-6


@pytest.mark.parametrize("window", [1, 16, 50])
def test_a_long_sentence_is_decoded_in_windows_and_is_one_piece_of_audio(voice: Bundle, window: int) -> None:
    """No run of the decoder grows with the sentence, and nothing is heard of the windows."""
    watch = Watch()
    small = replace(voice, defaults={**voice.defaults, "window": window})
    request = Request("a", TEXT * 4, seed=4)
    with Engine(small, ONE, wrap=watch) as engine:
        (audio,) = [event.audio for event in stream(engine, request) if event.audio]
    assert np.abs(audio.samples - say(voice, TEXT * 4, seed=4)).max() < 1e-5
    assert max(watch.frames["decoder"]) <= window + 2 * voice.defaults["overlap"]
    assert len(watch.frames["decoder"]) >= len(audio.samples) / piper_maker.HOP / (window + voice.defaults["overlap"])


def test_the_first_chunk_waits_for_its_own_frames_only(voice: Bundle) -> None:
    watch = Watch()
    with Engine(voice, ONE, wrap=watch) as engine:
        next(stream(engine, Request("a", TEXT * 4, chunk_frames=16)))
    decoded = 16 + voice.defaults["overlap"]
    assert watch.frames["decoder"] == [decoded]
    assert watch.frames["flow"] == [decoded + voice.defaults["flow_overlap"]]


def test_a_bundle_of_before_runs_its_flow_in_one_piece(voice: Bundle) -> None:
    watch = Watch()
    defaults = {key: value for key, value in voice.defaults.items() if key != "flow_overlap"}
    with Engine(replace(voice, defaults=defaults), ONE, wrap=watch) as engine:
        spoken = speak(engine, Request("a", TEXT, seed=4, chunk_frames=16)).samples
    assert watch.frames["flow"] == [len(spoken) // piper_maker.HOP]
    assert np.abs(spoken - say(voice, TEXT, seed=4)).max() < 1e-5


@pytest.mark.parametrize("which", ["latent", "mean"])
def test_a_wrong_receptive_field_is_noticed_at_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    true = _vits_import.receptive_field

    def less(model: Any, sources: Any = ("latent",)) -> tuple[int, int]:
        reach, rate = true(model, sources)
        return reach - 3 * (which in sources), rate

    monkeypatch.setattr(_vits_import, "receptive_field", less)
    with pytest.raises(ModelError, match="decoding this voice in windows changes its samples"):
        piper.import_(piper_maker.make(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flow_that_sees_everything_is_refused(tmp_path: Path) -> None:
    """Its windows could not be exact."""
    model = piper_maker.make(tmp_path)
    loaded = onnx.load(str(model))
    node = next(n for n in loaded.graph.node if n.name == "/flow/flows.1/Tanh")
    node.op_type = "Softmax"
    onnx.save(loaded, str(model))
    with pytest.raises(ModelError, match="receptive field of the flow is unknown: it has a Softmax layer"):
        piper.import_(model, tmp_path / "out")


def test_one_overlap_frame_less_would_be_heard(voices: dict[str, Bundle]) -> None:
    """The overlap is needed: the test of streaming above can fail."""
    voice = voices["one speaker"]
    short = replace(voice, defaults={**voice.defaults, "overlap": voice.defaults["overlap"] - 3})
    request = Request("a", TEXT, seed=4)
    with Engine(short, ONE) as engine:
        whole = speak(engine, request).samples
        chunked = speak(engine, replace(request, chunk_frames=5)).samples
    assert np.abs(chunked - whole).max() > 1e-4


def test_speakers_differ_and_the_first_is_the_default(voices: dict[str, Bundle]) -> None:
    voice = voices["three speakers"]
    still = {"noise_scale": 0.0, "noise_w": 0.0}
    spoken = {name: say(voice, voice=name, **still) for name in voice.voices}
    assert len({samples.tobytes() for samples in spoken.values()}) == 3
    assert np.array_equal(say(voice, **still), spoken["speaker 0"])
    assert np.array_equal(say(voice, voice=voice.name, **still), spoken["speaker 0"])


def test_the_voices_own_default_speaker_is_kept(tmp_path: Path) -> None:
    model = edit_config(piper_maker.make(tmp_path, Shape(speakers=3)), default_speaker_id=2)
    voice = piper.import_(model, tmp_path / "out")
    still = {"noise_scale": 0.0, "noise_w": 0.0}
    assert np.array_equal(say(voice, **still), say(voice, voice="speaker 2", **still))
    assert not np.array_equal(say(voice, **still), say(voice, voice="speaker 0", **still))


@pytest.mark.parametrize(
    ("kind", "words"),
    [("three speakers", "known: speaker 0, speaker 1, speaker 2"), ("one speaker", "known: one spea")],
)
def test_an_unknown_voice_is_told_the_known_ones(voices: dict[str, Bundle], kind: str, words: str) -> None:
    with pytest.raises(VivaceError, match="unknown voice 'carl'") as caught:
        say(voices[kind], voice="carl")
    assert words in str(caught.value)


def test_a_voice_with_many_speakers_does_not_list_them_all(tmp_path: Path) -> None:
    voice = piper.import_(piper_maker.make(tmp_path, Shape(speakers=20)), tmp_path / "out")
    with pytest.raises(VivaceError, match=r"speaker 7 \.\.\.$"):
        say(voice, voice="carl")


# --- export ---


def test_exported_and_imported_again_it_is_the_same_voice(tmp_path: Path, voice: Bundle) -> None:
    files = piper.export(voice, tmp_path / "out")
    assert [f.name for f in files] == [f"{voice.name}{end}" for end in (".onnx", ".onnx.json", ".tokens.txt")]
    again = piper.import_(files[0], tmp_path / "again")
    assert again.defaults == voice.defaults
    assert again.voices == voice.voices
    for text in TEXTS:
        assert np.array_equal(say(again, text, seed=3), say(voice, text, seed=3))


def test_export_to_a_file_name(tmp_path: Path, voice: Bundle) -> None:
    files = piper.export(voice, tmp_path / "deep" / "mine.onnx")
    assert [f.name for f in files] == ["mine.onnx", "mine.onnx.json", "mine.tokens.txt"]


def test_export_keeps_the_voices_own_json(tmp_path: Path) -> None:
    model = edit_config(piper_maker.make(tmp_path), extra={"ünusual": [1, None]})
    voice = piper.import_(model, tmp_path / "b")
    exported = json.loads(piper.export(voice, tmp_path / "out")[1].read_text(encoding="utf-8"))
    assert exported == json.loads(model.with_name("tiny.onnx.json").read_text(encoding="utf-8"))


def test_export_tells_sherpa_onnx_what_it_is(tmp_path: Path, voices: dict[str, Bundle]) -> None:
    model, _, tokens = piper.export(voices["three speakers"], tmp_path)
    facts = {p.key: p.value for p in onnx.load(str(model)).metadata_props}
    assert facts == {
        "model_type": "vits",
        "comment": "piper",
        "language": "English",
        "voice": "en-us",
        "has_espeak": "0",
        "n_speakers": "3",
        "sample_rate": "8000",
    }
    lines = tokens.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "_ 0"
    assert "  3" in lines


def test_piper_tts_speaks_the_exported_voice(tmp_path: Path, voice: Bundle) -> None:
    reference = pytest.importorskip("piper")
    loaded = reference.PiperVoice.load(piper.export(voice, tmp_path)[0])
    quiet = reference.SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    samples = np.concatenate([chunk.audio_float_array for chunk in loaded.synthesize("hello there", quiet)])
    assert np.abs(samples - say(voice, "hello there", noise_scale=0.0, noise_w=0.0)).max() < 1e-6
