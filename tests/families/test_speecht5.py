"""Equals transformers' generate_speech; batched equals single, streamed equals whole; what does not fit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from families.speecht5_maker import make, sentencepiece, voice
from vivace.core.audio import join
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError, VivaceError
from vivace.core.speech import Request, Row
from vivace.core.stage import RuntimeOptions, seeded
from vivace.engine.engine import Engine, speak, stream
from vivace.families import _speecht5_graph as graph
from vivace.families import _speecht5_proof as proof
from vivace.families import speecht5 as family
from vivace.passes import int8_dynamic, kv_cache, place

DATA = Path(__file__).parent / "data" / "speecht5"
CASES: dict[str, dict[str, Any]] = json.loads((DATA / "cases.json").read_text(encoding="utf-8"))
SETTINGS = ("threshold", "minlenratio", "maxlenratio", "dropout")
TEXTS = ("hello there.", "a b", "the quick brown fox, it's here and there.")
VOICES = {"ann": voice(1), "bob": voice(2)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return family.import_(DATA, tmp_path_factory.mktemp("reference") / "bundle")


@pytest.fixture
def model(tmp_path: Path) -> Bundle:
    return family.import_(make(tmp_path, voices=VOICES), tmp_path / "bundle")


def engine(bundle: Bundle, batch: int = 1, **own: Any) -> Engine:
    return Engine(bundle, RuntimeOptions(threads=1), max_batch=batch, **own)


def changed(bundle: Bundle, out: Path, **settings: Any) -> Bundle:
    return bundle.derive(out, None, defaults={**bundle.defaults, **settings})


class Recorder:
    """Keeps what a stage is given."""

    def __init__(self, session: Any, given: list[Any]) -> None:
        self._session, self._given = session, given

    def run(self, feed: Any) -> Any:
        self._given.append(feed)
        return self._session.run(feed)

    def close(self) -> None:
        self._session.close()


def spoken(bundle: Bundle, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """The mel [frames, mels] that the vocoder is given, and the samples."""
    given: list[Any] = []
    with engine(bundle, wrap=lambda s, session: Recorder(session, given) if s.name == "vocoder" else session) as e:
        samples = speak(e, request).samples
    assert len(given) == 1
    return given[0]["latent"][0].T, samples


# --- equal to transformers ---


@pytest.mark.parametrize("name", CASES)
def test_speech_is_generate_speech(reference: Bundle, tmp_path: Path, name: str) -> None:
    case, expected = CASES[name], np.load(DATA / "expected.npz")
    bundle = changed(reference, tmp_path / "changed", **{key: case[key] for key in SETTINGS if key in case})
    mel, samples = spoken(bundle, Request("a", case["text"], voice=case["voice"], seed=case["seed"]))
    assert mel.shape == expected[f"{name} mel"].shape
    assert np.abs(mel - expected[f"{name} mel"]).max() < 1e-4
    assert np.abs(samples - expected[f"{name} samples"]).max() < 1e-4


def test_the_cases_differ() -> None:
    """Else limits and dropout would not be tested."""
    expected = np.load(DATA / "expected.npz")
    frames = [len(expected[f"{name} mel"]) for name in CASES]
    assert len(set(frames)) == len(frames)


def test_it_equals_the_installed_transformers(reference: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hub = transformers.SpeechT5ForTextToSpeech.from_pretrained(DATA).eval()
    vocoder = transformers.SpeechT5HifiGan.from_pretrained(DATA / "vocoder").eval()
    rng, waiting = seeded(9, 0), []

    def drawn(like: Any, p: float) -> Any:
        if not waiting:
            waiting.extend(rng.random((2, 1, 16)) < p)
        made = torch.zeros_like(like)
        made[-1] = torch.from_numpy(waiting.pop(0)[0])
        return made

    monkeypatch.setattr(torch, "bernoulli", drawn)
    with engine(reference) as e:
        tokens = next(iter(e._model.encode(Request("a", TEXTS[0]))))
        ours = speak(e, Request("a", TEXTS[0], voice="bob", seed=9)).samples
    with torch.no_grad():
        theirs = hub.generate_speech(
            torch.from_numpy(tokens)[None], torch.from_numpy(VOICES["bob"])[None], maxlenratio=3.0, vocoder=vocoder
        )
    assert np.abs(ours - theirs.numpy()).max() < 1e-4


def test_what_save_pretrained_writes_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hub = transformers.SpeechT5ForTextToSpeech.from_pretrained(DATA)
    hub.save_pretrained(tmp_path / "saved")
    transformers.SpeechT5HifiGan.from_pretrained(DATA / "vocoder").save_pretrained(tmp_path / "saved" / "gan")
    shutil.copy(DATA / "spm_char.model", tmp_path / "saved")
    bundle = family.import_(tmp_path / "saved", tmp_path / "bundle")
    assert bundle.sample_rate == 4000
    assert bundle.voices == ()


# --- the engine's promises ---


def test_batched_and_streamed_is_single_and_whole(model: Bundle) -> None:
    requests = [Request(f"{t} {v}", t, voice=v, seed=k) for k, t in enumerate(TEXTS) for v in VOICES]
    with engine(model) as alone:
        whole = {r.id: speak(alone, r).samples for r in requests}
    pieces: dict[str, list[Any]] = {r.id: [] for r in requests}
    with engine(model, batch=3) as together:  # the others join when one has left
        for r in requests:
            together.add(Request(r.id, r.text, voice=r.voice, seed=r.seed, chunk_frames=4))
        while not together.idle:
            for event in together.step():
                assert not event.error
                pieces[event.request_id] += [event.audio] if event.audio else []
        assert not together._model._cache._rows
    for name, samples in whole.items():
        assert len(pieces[name]) > 1
        assert np.abs(join(pieces[name]).samples - samples).max() < 1e-5


def test_voices_and_seeds_are_heard(model: Bundle) -> None:
    with engine(model) as e:
        first = speak(e, Request("a", "hello", voice="ann", seed=1)).samples
        assert np.array_equal(first, speak(e, Request("a", "hello", seed=1)).samples), "the first is the default"
        for other in (Request("a", "hello", voice="bob", seed=1), Request("a", "hello", voice="ann", seed=2)):
            assert np.abs(first - speak(e, other).samples).max() > 0.01
        with pytest.raises(VivaceError, match="unknown voice 'eve'; known: ann, bob"):
            speak(e, Request("a", "hello", voice="eve"))


def test_cancelled_in_the_middle_gives_its_slot_back(model: Bundle) -> None:
    with engine(model, batch=2) as e:
        whole = speak(e, Request("b", "there")).samples
        e.add(Request("a", "hello"))
        e.add(Request("b", "there"))
        for _ in range(5):
            e.step()
        assert len(e._model._cache) == 2
        assert e._model.cache_bytes > 0
        e.cancel("a")
        assert len(e._model._cache) == 1
        audio = [event.audio for _ in iter(lambda: e.idle, True) for event in e.step() if event.audio]
    assert np.abs(join(audio).samples - whole).max() < 1e-5


def test_it_ends_by_itself_or_is_cut(model: Bundle, tmp_path: Path) -> None:
    def last(bundle: Bundle, **own: Any) -> tuple[Any, float]:
        with engine(bundle) as e:
            events = list(stream(e, Request("a", "hello there", **own)))
        return events[-1].reason, sum(event.audio.seconds for event in events if event.audio)

    eager = changed(model, tmp_path / "eager", threshold=0.0)
    assert last(eager) == ("stop", 2 * 8 / 4000)
    late = changed(model, tmp_path / "late", threshold=0.0, minlenratio=1.0)
    assert last(late) == ("stop", int(13 / 2) * 2 * 8 / 4000)
    assert last(model) == ("length", int(13 * 3 / 2) * 2 * 8 / 4000)
    reason, seconds = last(model, max_seconds=0.02)
    assert reason == "length"
    assert seconds <= 0.0201
    positions = family.import_(make(tmp_path, "short", max_speech_positions=5), tmp_path / "short b")
    assert last(positions) == ("length", 5 * 2 * 8 / 4000)


def test_not_a_number_fails_its_own_request_only(model: Bundle) -> None:
    with engine(model, batch=2) as e:
        whole = speak(e, Request("good", "hello")).samples
        run = e._model._sessions["step"].run

        def poisoned(feed: Any) -> Any:
            made = run(feed)
            if (feed["place"][:, 0] == 5).any():
                for k, share in enumerate(feed["speaker.share"]):
                    if np.array_equal(share, bad):
                        made["frames"] = made["frames"].copy()
                        made["frames"][k] = np.nan
            return made

        e.add(Request("bad", "hello", voice="bob"))
        e.add(Request("good", "hello"))
        e.step()
        bad = e._live["bad"].row.state["speaker"]
        e._model._sessions = {**e._model._sessions, "step": type("S", (), {"run": staticmethod(poisoned)})}
        errors, audio = {}, []
        while not e.idle:
            for event in e.step():
                errors |= {event.request_id: event.error} if event.done else {}
                audio += [event.audio] if event.audio and event.request_id == "good" else []
    assert "not numbers" in errors["bad"]
    assert errors["good"] == ""
    assert np.abs(join(audio).samples - whole).max() < 1e-5


def test_long_text(model: Bundle) -> None:
    """A sentence is cut to what the model reads; more tokens than that at once are refused."""
    with engine(model) as e:
        read = list(e._model.encode(Request("a", "word " * 100)))
        assert len(read) > 1
        assert all(len(tokens) <= 120 for tokens in read)
        row = Row(Request("a", "x"), np.full(121, 5), np.random.default_rng(0))
        with pytest.raises(ModelError, match="has 121 tokens; this model reads 120"):
            e._model.advance([row])


def test_memory_bounds_the_rows(model: Bundle, tmp_path: Path) -> None:
    with engine(changed(model, tmp_path / "small", kv_mb=1)) as small, engine(model) as large:
        assert 1 <= small._model.most_rows < large._model.most_rows


# --- passes ---


def test_int8_and_another_runtime(model: Bundle, tmp_path: Path) -> None:
    context = Context(lambda stage: [])
    settings = int8_dynamic.Settings(stages=("step",), op_types=("MatMul",))
    child = int8_dynamic.apply(model, tmp_path / "int8", settings, context)
    assert child.stage("step").precision != "fp32"
    with engine(model) as exact, engine(child) as rough:
        whole, other = (speak(e, Request("a", "hello", seed=1)).samples for e in (exact, rough))
    assert whole.shape == other.shape
    assert 0 < np.abs(whole - other).max() < 0.5
    pytest.importorskip("openvino")
    placed = place.apply(model, tmp_path / "placed", place.Settings(), context)
    assert {stage.runtime for stage in placed.stages} == {"openvino"}
    with engine(placed, batch=2) as elsewhere:
        assert np.abs(speak(elsewhere, Request("a", "hello", seed=1)).samples - whole).max() < 1e-3


def test_there_is_nothing_to_do_for_kv_cache(model: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has its cache already"):
        kv_cache.apply(model, tmp_path / "cached", kv_cache.Settings(), Context(lambda stage: []))


# --- the proof ---


def test_a_fault_of_the_step_is_seen(tmp_path: Path) -> None:
    path = make(tmp_path)
    shape = family.files.read_config(path).shape
    weights = load_file(path / "model.safetensors")
    models = graph.build(shape, weights)
    assert proof.prove(shape, models) < 1e-5
    name = f"{graph.DECODER_AT}.layers.1.self_attn.v_proj.weight"
    models["step"] = graph.build(shape, weights | {name: weights[name] * 1.1})["step"]
    with pytest.raises(ModelError, match=r"differ from full recomputation by 0\.\d+ standard deviations"):
        proof.prove(shape, models)


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["speech_decoder_postnet.feat_out.weight"][0, 0] = np.nan
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ModelError, match="by inf standard deviations"):
        family.import_(path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# --- files ---


def edit(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 33}, "encoder_attention_heads is missing or wrong; it must be a divisor"),
        ({"hidden_size": 64}, r"embed_tokens.weight has shape \(40, 32\), the configuration says \(40, 64\)"),
        ({"decoder_layers": 3}, "lack speecht5.decoder.wrapped_decoder.layers.2"),
        ({"speech_decoder_postnet_kernel": 4}, "kernel is missing or wrong; it must be odd"),
        ({"hidden_act": "swish"}, "hidden_act .* gelu or relu"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"speech_decoder_prenet_dropout": 1.0}, "speech_decoder_prenet_dropout .* from 0 to 0.99"),
        ({"threshold": "much"}, "threshold"),
        ({"eos_token_id": 99}, "eos_token_id"),
        ({"architectures": ["SpeechT5ForSpeechToText"]}, "architectures .* other tasks do not speak text"),
        ({"vocab_size": 20}, "has the id 35, the configuration says vocab_size 20"),
        ({"num_mel_bins": 8}, "takes 6 mels, the model makes 8"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = make(tmp_path)
    edit(path, **change)
    with pytest.raises(ModelError, match=said):
        family.import_(path, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"upsample_rates": [4]}, "upsample_kernel_sizes is wrong"),
        ({"upsample_rates": "four"}, "upsample_rates is wrong"),
        ({"resblock_kernel_sizes": [3, 4]}, "resblock_kernel_sizes is wrong; it must be odd"),
        ({"resblock_dilation_sizes": [[1]]}, "one for each kernel"),
        ({"upsample_initial_channel": 6}, "divisible by two"),
        ({"upsample_initial_channel": 0}, "a whole number"),
        ({"leaky_relu_slope": "x"}, "leaky_relu_slope"),
        ({"normalize_before": 1}, "true or false"),
        ({"upsample_initial_channel": 32}, r"vocoder: the weight conv_pre.weight has shape \(16, 6, 7\)"),
        ({"upsample_rates": [4, 2, 2], "upsample_kernel_sizes": [8, 4, 4]}, "vocoder: the weights lack upsampler.2"),
    ],
)
def test_a_wrong_vocoder_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = make(tmp_path)
    edit(path / "vocoder", **change)
    with pytest.raises(ModelError, match=said):
        family.import_(path, tmp_path / "bundle")


def test_damaged_and_missing_files_are_sentences(tmp_path: Path) -> None:
    def refused(said: str) -> None:
        with pytest.raises(ModelError, match=said):
            family.import_(path, tmp_path / "bundle")

    path = make(tmp_path)
    weights = load_file(path / "model.safetensors")
    del weights["speecht5.encoder.prenet.encode_positions.alpha"]
    save_file(weights, path / "model.safetensors")
    refused("the weights lack speecht5.encoder.prenet.encode_positions.alpha")
    (path / "model.safetensors").write_bytes(b"not weights")
    refused("no readable safetensors")
    (path / "spm_char.model").write_bytes(sentencepiece()[:-3])
    refused("no readable tokenizer")
    (path / "spm_char.model").unlink()
    refused("has no tokenizer")
    (path / "config.json").write_text("{", encoding="utf-8")
    refused("not readable JSON")
    (path / "config.json").write_text('{"model_type": "hifigan"}', encoding="utf-8")
    refused("is no such model")


def test_the_vocoder_is_found_inside_or_beside(tmp_path: Path) -> None:
    inside = family.import_(make(tmp_path / "a"), tmp_path / "one")
    path = make(tmp_path / "b")
    shutil.move(path / "vocoder", path.parent / "hifigan")
    assert family.import_(path / "config.json", tmp_path / "two").digest == inside.digest
    shutil.copytree(path.parent / "hifigan", path.parent / "other")
    with pytest.raises(ModelError, match=r"holds 2 vocoders \(hifigan, other\)"):
        family.import_(path, tmp_path / "three")
    shutil.rmtree(path.parent / "hifigan")
    shutil.rmtree(path.parent / "other")
    with pytest.raises(ModelError, match="has no vocoder"):
        family.import_(path, tmp_path / "three")


def test_voices_come_from_any_of_the_files(tmp_path: Path) -> None:
    path = make(tmp_path, voices={"zoe": voice(3)})
    save_file({"ann": voice(1)}, path / "speakers.safetensors")
    np.save(path / "bob.npy", voice(2)[None].astype(np.float64))
    assert family.import_(path, tmp_path / "bundle").voices == ("ann", "bob", "zoe")
    np.save(path / "bob.npy", voice(2, 9))
    with pytest.raises(ModelError, match="the voice 'bob' is no x-vector of 8 numbers"):
        family.import_(path, tmp_path / "other")
    (path / "bob.npy").write_bytes(b"no array")
    with pytest.raises(ModelError, match="holds no readable voices"):
        family.import_(path, tmp_path / "other")


def test_without_voices_there_is_one(tmp_path: Path) -> None:
    plain = family.import_(make(tmp_path), tmp_path / "plain")
    zeros = family.import_(make(tmp_path, "zeros", voices={"nobody": np.zeros(8, np.float32)}), tmp_path / "zeros b")
    assert plain.voices == ()
    with engine(plain) as a, engine(zeros) as b:
        heard = speak(a, Request("a", "hello", voice="plain" if plain.name == "plain" else "hum")).samples
        assert np.array_equal(heard, speak(b, Request("a", "hello")).samples)
        with pytest.raises(UsageError, match="unknown voice 'eve'; known: hum"):
            a._model.encode(Request("a", "hello", voice="eve"))


# --- tokenizers ---


def voice_of(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bundle.file("voice.json").read_text(encoding="utf-8"))
    return found


def test_tokenizers_of_other_files_read_the_same(tmp_path: Path) -> None:
    path = make(tmp_path)
    first = voice_of(family.import_(path, tmp_path / "spm"))
    (path / "spm_char.model").unlink()
    pieces = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **first["characters"]}
    (path / "vocab.json").write_text(json.dumps(pieces), encoding="utf-8")
    assert voice_of(family.import_(path, tmp_path / "vocab"))["characters"] == first["characters"]
    unigram = {"type": "Unigram", "unk_id": 3, "vocab": [[p, 0.0] for p in sorted(pieces, key=lambda p: pieces[p])]}
    for k, vocabulary in enumerate((unigram, {"type": "WordLevel", "unk_token": "<unk>", "vocab": pieces})):
        (path / "tokenizer.json").write_text(json.dumps({"model": vocabulary}), encoding="utf-8")
        found = voice_of(family.import_(path, tmp_path / str(k)))
        assert (found["characters"], found["unknown"]) == (first["characters"], 3)


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        ({"<unk>": 0, "th": 5}, "no tokenizer of single characters"),
        ({"a": 5}, "lacks characters, or an id for those that are unknown"),
        ({"<unk>": 3}, "lacks characters"),
        ([1], "no readable tokenizer"),
    ],
)
def test_a_tokenizer_that_does_not_serve_is_named(tmp_path: Path, vocabulary: Any, said: str) -> None:
    path = make(tmp_path)
    (path / "spm_char.model").unlink()
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        family.import_(path, tmp_path / "bundle")


def test_text_is_prepared_as_the_tokenizer_says(tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / "spm_char.model").write_bytes(sentencepiece(form="nmt_nfkc_cf", prefix=0, squeeze=0))
    (path / "tokenizer_config.json").write_text('{"normalize": true}', encoding="utf-8")
    found = voice_of(family.import_(path, tmp_path / "bundle"))
    given = {key: found[key] for key in ("form", "fold", "prefix", "squeeze", "spell", "end", "longest", "unknown")}
    assert given == {
        "form": "NFKC", "fold": True, "prefix": False, "squeeze": False, "spell": True, "end": 2, "longest": 120,
        "unknown": 3,
    }  # fmt: skip
    (path / "spm_char.model").write_bytes(sentencepiece(form="my_rules"))
    with pytest.raises(ModelError, match="prepares text by 'my_rules', which is not known"):
        family.import_(path, tmp_path / "other")
