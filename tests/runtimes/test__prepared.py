from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core import machine
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions, Session
from vivace.engine.engine import Engine, speak
from vivace.runtimes import _prepared
from vivace.runtimes import onnxruntime as runtime

LATENT = np.random.default_rng(0).normal(size=(1, 16, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, where the smallest stage is worth an entry."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_prepared, "SMALLEST", 0)
    return tmp_path / "cache" / "vivace" / "onnxruntime"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The stages that an entry was made of, in their order."""
    calls: list[Path] = []
    original = _prepared._make

    def noting(path: Path, folder: Path, settings: Any) -> None:
        calls.append(path)
        original(path, folder, settings)

    monkeypatch.setattr(_prepared, "_make", noting)
    yield calls


def load(bundle: Bundle, name: str = "decoder", **more: Any) -> Session:
    stage = bundle.stage(name)
    options = RuntimeOptions(**{"threads": 1, "digest": bundle.files[stage.file], **more})
    return runtime.open(stage, bundle.file(stage.file), options)


def without(bundle: Bundle) -> Bundle:
    """The same, its files' digests unknown: loaded as they are."""
    return replace(bundle, files={})


def spoken(bundle: Bundle, text: str) -> np.ndarray:
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        return speak(engine, Request("a", text, seed=2)).samples


def output(session: Session) -> np.ndarray:
    made = session.run({"latent": LATENT})["output"]
    session.close()
    return made


def entry(cache: Path) -> Path:
    (only,) = cache.iterdir()
    return only


def test_prepared_is_plain(make_toy: Callable[..., Bundle], cache: Path) -> None:
    for bundle in (make_toy(voices=["ann", "bob"]), make_toy(steps=4)):
        made, found, plain = (spoken(b, "the quick brown fox. jumps.") for b in (bundle, bundle, without(bundle)))
        assert np.array_equal(made, plain)
        assert np.array_equal(found, plain)
    assert len(list(cache.iterdir())) == 4  # of three stages each, two are the same in both


@pytest.mark.voice
def test_prepared_is_plain_for_a_real_voice(real_voice: Bundle, cache: Path) -> None:
    text = "The hold of the ship was filled with salt, and nobody had asked why."
    made, found, plain = (spoken(b, text) for b in (real_voice, real_voice, without(real_voice)))
    assert len(list(cache.iterdir())) == 3
    assert np.array_equal(made, plain)
    assert np.array_equal(found, plain)


def test_an_entry_is_made_once(toy: Bundle, cache: Path, made: list[Path]) -> None:
    first, second = output(load(toy)), output(load(toy, threads=2))
    assert np.array_equal(first, second)
    assert made == [toy.file("stages/decoder.onnx")]
    assert sorted(file.name for file in entry(cache).iterdir()) == ["graph.onnx", "seal.json", "weights.bin"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_weights_are_mapped(toy: Bundle) -> None:
    assert "weights.bin" not in Path("/proc/self/maps").read_text(encoding="utf-8")
    session = load(toy)
    assert "weights.bin" in Path("/proc/self/maps").read_text(encoding="utf-8")
    session.close()


@pytest.mark.parametrize("file", ["graph.onnx", "weights.bin", "seal.json"])
@pytest.mark.parametrize("harm", ["cut", "altered", "emptied", "removed"])
def test_a_damaged_entry_is_made_again(toy: Bundle, cache: Path, made: list[Path], file: str, harm: str) -> None:
    sound = output(load(toy))
    harmed = entry(cache) / file
    data = harmed.read_bytes()
    if harm == "removed":
        harmed.unlink()
    else:
        flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        harmed.write_bytes({"cut": data[: len(data) // 2], "altered": flipped, "emptied": b""}[harm])
    assert np.array_equal(output(load(toy)), sound)
    assert len(made) == 2
    assert harmed.read_bytes() == data
    output(load(toy))
    assert len(made) == 2


def test_a_file_in_the_place_of_an_entry(toy: Bundle, cache: Path) -> None:
    sound = output(load(toy))
    place = entry(cache)
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    place.write_text("in the way", encoding="utf-8")
    assert np.array_equal(output(load(toy)), sound)


def test_without_a_digest_nothing_is_kept(toy: Bundle, cache: Path) -> None:
    output(load(toy, digest=""))
    assert not cache.exists()


def test_small_stages_are_not_worth_it(toy: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prepared, "SMALLEST", 10_000_000)
    output(load(toy))
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_to(toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = output(load(toy))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # root may write to a read-only folder, but not here
    assert np.array_equal(output(load(toy)), expected)


def test_a_cache_that_can_only_be_read(toy: Bundle, monkeypatch: pytest.MonkeyPatch, made: list[Path]) -> None:
    expected = output(load(toy))

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(output(load(toy)), expected)
    assert len(made) == 1


@pytest.mark.parametrize("room", [100, 5_000, 20_000])
def test_a_full_disk(toy: Bundle, cache: Path, room: int) -> None:
    """A limit of the size of files stops ONNX Runtime in the midst of writing, as a full disk does."""
    expected = output(load(toy, digest=""))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, usual[1]))
    try:
        found = output(load(toy))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert np.array_equal(found, expected)
    assert list(cache.iterdir()) == []
    output(load(toy))
    assert entry(cache)


def test_what_is_no_model_leaves_nothing(toy: Bundle, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model" * 100)
    with pytest.raises(ModelError, match=r"cannot load bad\.onnx"):
        runtime.open(toy.stage("decoder"), tmp_path / "bad.onnx", RuntimeOptions(digest="0" * 64))
    assert list(cache.iterdir()) == []
    with pytest.raises(ModelError, match=r"cannot load none\.onnx"):
        runtime.open(toy.stage("decoder"), tmp_path / "none.onnx", RuntimeOptions(digest="0" * 64))


def test_many_at_a_time_make_one_entry(toy: Bundle, cache: Path) -> None:
    expected = output(load(toy, digest=""))
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: output(load(toy)), range(16)):
            assert np.array_equal(found, expected)
    assert (entry(cache) / "seal.json").is_file()


def test_a_trace_is_of_the_prepared_graph(toy: Bundle, tmp_path: Path) -> None:
    output(load(toy))
    session: Any = load(toy, trace=str(tmp_path))
    session.run({"latent": LATENT})
    assert [event for event in session.trace() if event["name"].startswith("/conv_pre/Conv")]
    session.close()


def test_the_oldest_entries_go_when_there_are_too_many(
    toy: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries: dict[str, Path] = {}
    for k, name in enumerate(("text", "frames", "decoder")):
        load(toy, name).close()
        (new,) = set(cache.iterdir()) - set(entries.values())
        entries[name] = new
        os.utime(new, (k, k))
    load(toy, "text").close()  # used again: now "frames" is the oldest
    monkeypatch.setattr(_prepared, "MOST", sum(_prepared._size(e) for e in entries.values()))
    more = load(toy, "decoder", digest="f" * 64)
    assert not entries["frames"].exists()
    assert entries["text"].exists()
    assert output(more).shape == (1, 1, 400)
    monkeypatch.setattr(_prepared, "MOST", 0)
    load(toy, "decoder", digest="e" * 64).close()
    assert len(list(cache.iterdir())) == 1  # the one just made stays


def test_an_entry_belongs_to_a_stage_a_build_and_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    keys = {_prepared._key("a"), _prepared._key("b")}
    monkeypatch.setattr(ort, "__version__", "0.0")
    keys.add(_prepared._key("a"))
    monkeypatch.setattr(machine, "processor", lambda: {"cpu": "another", "flags": [], "system": ""})
    keys.add(_prepared._key("a"))
    assert len(keys) == 4
