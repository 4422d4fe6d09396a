"""Cached equals uncached, batched equals single, streamed equals whole; what cannot be proven equal is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from families.transformer_maker import READING, make
from vivace.core.audio import Audio, join
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError, VivaceError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak, stream
from vivace.families import transformer_mel as family
from vivace.passes import kv_cache

KINDS: dict[str, dict[str, Any]] = {
    "the challenge's": {},
    "pre-norm": {"norm": "pre", "activation": "gelu"},
    "without positions": {"positions": "none", "frames_per_step": 3},
    "a window": {"positions": "rotary", "window": 6},
    "reading": READING,
}
TEXTS = ("hello there.", "a b.", "this is a longer text of words.")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return family.import_(make(tmp_path, **KINDS[request.param]), tmp_path / "bundle")


def cached(bundle: Bundle, out: Path) -> Bundle:
    return kv_cache.apply(bundle, out, kv_cache.Settings(), Context(lambda stage: []))


def engine(bundle: Bundle, batch: int = 1) -> Engine:
    return Engine(bundle, RuntimeOptions(threads=1), max_batch=batch)


def test_cached_is_uncached(model: Bundle, tmp_path: Path) -> None:
    with engine(model) as slow, engine(cached(model, tmp_path / "cached")) as fast:
        for text in TEXTS:
            whole, kept = speak(slow, Request("a", text)).samples, speak(fast, Request("a", text)).samples
            assert whole.shape == kept.shape
            assert np.abs(whole - kept).max() < 1e-4


def test_batched_and_streamed_is_single_and_whole(model: Bundle, tmp_path: Path) -> None:
    child = cached(model, tmp_path / "cached")
    with engine(child) as alone:
        whole = {text: speak(alone, Request(text, text)).samples for text in TEXTS}
    pieces: dict[str, list[Any]] = {text: [] for text in TEXTS}
    with engine(child, batch=2) as together:  # the third joins when one has left
        for text in TEXTS:
            together.add(Request(text, text, chunk_frames=4))
        while not together.idle:
            for event in together.step():
                assert not event.error
                pieces[event.request_id] += [event.audio] if event.audio else []
        assert not together._model._cache._rows
    for text in TEXTS:
        assert len(pieces[text]) > 1
        assert np.abs(join(pieces[text]).samples - whole[text]).max() < 1e-5


def test_a_decoder_that_looks_ahead_gets_no_cache(tmp_path: Path) -> None:
    bundle = family.import_(make(tmp_path, causal=False), tmp_path / "bundle")
    with engine(bundle) as slow:
        assert speak(slow, Request("a", "abc")).seconds > 0.1
    with pytest.raises(UsageError, match=r"differ from full recomputation by 0\.\d+ standard deviations .* not causal"):
        cached(bundle, tmp_path / "cached")
    assert not (tmp_path / "cached").exists()


def test_only_one_cache(tmp_path: Path) -> None:
    child = cached(family.import_(make(tmp_path), tmp_path / "bundle"), tmp_path / "cached")
    with pytest.raises(UsageError, match="has its cache already"):
        cached(child, tmp_path / "again")


def test_it_ends_by_itself_or_is_cut(tmp_path: Path) -> None:
    ready = cached(family.import_(make(tmp_path, "stops", stop=9.0), tmp_path / "stops b"), tmp_path / "stops c")
    with engine(ready) as e:
        last = list(stream(e, Request("a", "hello")))[-1]
    assert last.reason == "stop"
    endless = cached(family.import_(make(tmp_path, "goes on"), tmp_path / "on b"), tmp_path / "on c")
    with engine(endless) as e:
        last = list(stream(e, Request("a", "hello")))[-1]
        assert last.reason == "length"
        short = list(stream(e, Request("b", "hello", max_seconds=0.05)))
    assert short[-1].reason == "length"
    assert sum(event.audio.seconds for event in short if event.audio) <= 0.0501


def reader(folder: Path, lasts: float) -> Bundle:
    """A model that reads, and says the same number of frames of every token."""
    bundle = family.import_(make(folder, **READING, max_steps=4000, longest=4096), folder / "bundle")
    edited = onnx.load(str(bundle.file("stages/encoder.onnx")))
    fixed = {"duration_out.weight": np.zeros((32, 1)), "duration_out.bias": np.array([np.log1p(lasts)])}
    for weight in edited.graph.initializer:
        if weight.name in fixed:
            weight.CopyFrom(numpy_helper.from_array(fixed[weight.name].astype(np.float32), weight.name))
    return bundle.derive(folder / "changed", None, lambda f: onnx.save(edited, str(f / "stages/encoder.onnx")))


@pytest.mark.parametrize(("speed", "frames"), [(1.0, 28), (2.0, 16), (0.5, 56)])  # of 4 tokens, 7 frames each
def test_a_text_lasts_as_long_as_its_tokens(tmp_path: Path, speed: float, frames: int) -> None:
    with engine(reader(tmp_path, 7)) as e:
        last = speak(e, Request("a", "abcd", speed=speed))
        assert len(last.samples) == frames * 32


def test_a_reader_reaches_the_end_of_its_text(tmp_path: Path) -> None:
    """Even where the model would stay at a token for ever."""
    with engine(cached(reader(tmp_path, 1e6), tmp_path / "cached")) as e:
        assert list(stream(e, Request("a", "abcd", max_seconds=60)))[-1].reason == "stop"


def test_durations_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    with engine(reader(tmp_path, float("nan"))) as e, pytest.raises(VivaceError, match="durations that are not num"):
        speak(e, Request("a", "abcd"))


def test_not_a_number_fails_its_own_request_only(tmp_path: Path) -> None:
    """Neither its neighbour nor the next row in its slot hears of it."""
    child = cached(family.import_(make(tmp_path), tmp_path / "bundle"), tmp_path / "cached")
    with engine(child) as alone:
        whole = speak(alone, Request("good", "hello")).samples
    with engine(child, batch=2) as e:
        run, bad_tokens = e._model._sessions["step"].run, len(next(iter(e._model.encode(Request("bad", "hell")))))

        def poisoned(feed: Any) -> Any:
            made = {name: array.copy() for name, array in run(feed).items()}
            tokens = (feed["token_bias"] == 0).sum((1, 2, 3))
            bad = (tokens == bad_tokens) & (feed["place"][:, 0] == 5)
            for array in made.values():
                array[bad] = np.nan
            return made

        e._model._sessions = {**e._model._sessions, "step": SimpleNamespace(run=poisoned, close=lambda: None)}
        e.add(Request("good", "hello"))
        e.add(Request("bad", "hell"))
        ended: dict[str, str] = {}
        audio: dict[str, list[Audio]] = {"good": [], "next": [], "bad": []}
        while not e.idle:
            for event in e.step():
                if event.audio:
                    audio[event.request_id].append(event.audio)
                if event.done:
                    ended[event.request_id] = event.error
                    if event.request_id == "bad":
                        assert "good" not in ended
                        e.add(Request("next", "hello"))
    assert "not numbers" in ended.pop("bad")
    assert ended == {"good": "", "next": ""}
    for name in ended:
        assert np.abs(join(audio[name]).samples - whole).max() < 1e-5


def test_a_text_that_cannot_be_read_leaves_nothing_in_its_slot(tmp_path: Path) -> None:
    child = cached(family.import_(make(tmp_path), tmp_path / "bundle"), tmp_path / "cached")
    with engine(child) as alone:
        whole = speak(alone, Request("good", "hello")).samples
    with engine(child, batch=2) as e:
        run = e._model._sessions["encoder"].run

        def poisoned(feed: Any) -> Any:
            made = {name: array.copy() for name, array in run(feed).items()}
            longest = (feed["token_bias"] == 0).sum((1, 2, 3)) > 10
            for array in made.values():
                array[longest] = np.nan
            return made

        e._model._sessions = {**e._model._sessions, "encoder": SimpleNamespace(run=poisoned, close=lambda: None)}
        e.add(Request("bad", "hello, all of you"))
        e.add(Request("good", "hello"))
        events = [event for _ in iter(lambda: e.idle, True) for event in e.step()]
        assert {x.request_id: x.error for x in events if x.done} == {
            "bad": "the model made something of this text that is not numbers",
            "good": "",
        }
        assert np.abs(speak(e, Request("next", "hello")).samples - whole).max() < 1e-5


def test_cancelled_in_the_middle_gives_its_slot_back(tmp_path: Path) -> None:
    child = cached(family.import_(make(tmp_path), tmp_path / "bundle"), tmp_path / "cached")
    with engine(child, batch=2) as e:
        whole = speak(e, Request("b", "there")).samples
        e.add(Request("a", "hello"))
        e.add(Request("b", "there"))
        for _ in range(5):
            e.step()
        assert len(e._model._cache) == 2
        e.cancel("a")
        assert len(e._model._cache) == 1
        audio = [event.audio for _ in iter(lambda: e.idle, True) for event in e.step() if event.audio]
    assert np.abs(join(audio).samples - whole).max() < 1e-5


@pytest.mark.parametrize("kind", ["the challenge's", "reading"])
def test_an_engine_says_what_its_cache_holds(kind: str, tmp_path: Path) -> None:
    child = cached(family.import_(make(tmp_path, **KINDS[kind]), tmp_path / "bundle"), tmp_path / "cached")
    with engine(child, batch=2) as e:
        assert e.cache_bytes == 0
        e.add(Request("a", "hello"))
        e.step()
        one = e.cache_bytes
        # Room for 64 steps in two layers, keys and values of 32 floats: the rest is of the text.
        assert one > 64 * 2 * 2 * 32 * 4
        e.add(Request("b", "hello"))
        e.step()
        assert e.cache_bytes == 2 * one
        e.cancel("a")
        e.cancel("b")
        assert e.cache_bytes == 0


def test_out_of_memory_for_the_cache_queues(tmp_path: Path) -> None:
    child = cached(family.import_(make(tmp_path), tmp_path / "bundle"), tmp_path / "cached")
    small = child.derive(tmp_path / "small", None, defaults={**child.defaults, "kv_mb": 1})
    with engine(small, batch=64) as e:
        assert 1 <= e._model.most_rows < 64
        for k in range(20):
            e.add(Request(str(k), "hello"))
        most = 0
        while not e.idle:
            for event in e.step():
                assert not event.error
            most = max(most, len(e._model._cache))
    assert most == e._model.most_rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 30}, "width"),
        ({"width": 64}, r"embedding.weight has shape \(30, 32\), the configuration says \(30, 64\)"),
        ({"decoder_layers": 3}, "lack decoder.layers.2"),
        ({"norm": "before"}, "norm is missing or wrong; it must be post or pre"),
        ({"max_steps": 1000}, "max_steps"),
        ({"sample_rate": "8000"}, "sample_rate"),
        ({"vocoder": {"channels": [1], "strides": [2]}}, "vocoder.0.weight"),
        ({"vocoder": "../secret.onnx"}, "must name a file beside"),
        ({"vocoder": "none.onnx"}, "is not beside"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = make(tmp_path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8")) | change
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        family.import_(path, tmp_path / "bundle")


def test_damaged_weights_are_a_sentence(tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="no readable safetensors"):
        family.import_(path, tmp_path / "bundle")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="not beside"):
        family.import_(path, tmp_path / "bundle")


def test_a_vocoder_of_its_own_is_taken(tmp_path: Path) -> None:
    first = family.import_(make(tmp_path, "one"), tmp_path / "one b")
    other = make(tmp_path, "two")
    (other / "vocoder.onnx").write_bytes(first.file("stages/vocoder.onnx").read_bytes())
    config = json.loads((other / "config.json").read_text(encoding="utf-8")) | {"vocoder": "vocoder.onnx"}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    second = family.import_(other, tmp_path / "two b")
    with engine(first) as a, engine(second) as b:
        assert np.array_equal(speak(a, Request("a", "hi")).samples, speak(b, Request("a", "hi")).samples)


def test_a_sentence_longer_than_the_positions_is_an_error(tmp_path: Path) -> None:
    bundle = family.import_(make(tmp_path, longest=64), tmp_path / "bundle")
    with engine(bundle) as e, pytest.raises(VivaceError, match="this model reads 64"):
        speak(e, Request("a", "word " * 40))
