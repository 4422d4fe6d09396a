"""Channels go: a graph or a module is left; what was forgotten is learned again and goes on where it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from passes import torch_voice
from passes.torch_voice import apart, apply, say
from vivace.core import machine, registry
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import parse
from vivace.passes import _recovery, prune_channels

SENTENCES = "\n".join(["hello to the small one. and once more, hello.", "", "another one, a little longer than that."])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return torch_voice.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of sentences; few lessons, and short ones."""
    from vivace.modules import decoder_school

    monkeypatch.setattr(_recovery, "LESSONS", 24)
    plan = decoder_school.Plan
    monkeypatch.setattr(decoder_school, "Plan", lambda **kw: plan(rows=2, frames=34, margin=2, warm=2, **kw))
    (tmp_path / "texts.txt").write_text(SENTENCES, encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(tmp_path / "texts.txt")


def test_a_graph_and_a_module_of_the_same_narrow_decoder(tiny: Bundle, tmp_path: Path) -> None:
    graph = apply("prune_channels", tiny, tmp_path / "graph", share=0.5)
    module = apply("prune_channels", tiny, tmp_path / "module", share=0.5, runtime="torch")
    for child in (graph, module):
        assert open_bundle(child.path) == child
        assert [s.runtime for s in child.stages[:2]] == ["onnxruntime", "onnxruntime"]
        before, after = (b.file(b.stage("decoder").file).stat().st_size for b in (tiny, child))
        assert after < 0.75 * before
    assert module.stage("decoder").options["shape"]["decoder"]["widths"] == [8, 8, 8]
    assert apart(say(graph), say(module)) < 1e-4
    assert apart(say(tiny), say(graph)) > 0.05


def test_the_pruned_voice_is_a_piper_file_and_imports_again(tiny: Bundle, tmp_path: Path) -> None:
    child = apply("prune_channels", tiny, tmp_path / "child", share=0.5)
    family = registry.load("families", "piper")
    again = family.import_(family.export(child, tmp_path / "out")[0], tmp_path / "again")
    assert apart(say(child), say(again)) < 1e-4
    narrower = apply("to_torch", again, tmp_path / "torch")
    assert apart(say(child), say(narrower)) < 1e-4


def test_a_module_becomes_a_graph_again(tiny: Bundle, tmp_path: Path) -> None:
    moved = apply("to_torch", tiny, tmp_path / "moved")
    child = apply("prune_channels", moved, tmp_path / "child", share=0.5)
    stage = child.stage("decoder")
    assert (stage.runtime, stage.file, stage.options) == ("onnxruntime", "stages/decoder.onnx", {})
    assert apart(say(apply("prune_channels", tiny, tmp_path / "graph", share=0.5)), say(child)) < 1e-4


def test_two_speakers(tmp_path: Path) -> None:
    voice = torch_voice.make(tmp_path / "voice", speakers=2)
    child = apply("prune_channels", voice, tmp_path / "child", share=0.5)
    one, other = (say(child, voice=name) for name in voice.voices)
    assert one.shape != other.shape or not np.allclose(one, other)
    with pytest.raises(UsageError, match="several speakers cannot recover"):
        apply("prune_channels", voice, tmp_path / "taught", share=0.5, recover_minutes=1)


def test_recovery_brings_it_nearer_and_goes_on_where_it_was(tiny: Bundle, tmp_path: Path, lessons: str) -> None:
    def taught(name: str, minutes: float) -> Bundle:
        return apply(
            "prune_channels", tiny, tmp_path / name, share=0.5, recover_minutes=minutes, recover_texts=lessons,
            recover_rate=3e-3,
        )  # fmt: skip

    raw = apply("prune_channels", tiny, tmp_path / "raw", share=0.5)
    child = taught("child", 0.1)
    true, before, after = say(tiny), say(raw), say(child)
    assert np.square(after - true).mean() < 0.7 * np.square(before - true).mean()
    kept = next((machine.cache_folder() / "recovery").rglob("checkpoint.pt"))
    stamp = kept.stat().st_mtime_ns
    again = taught("again", 0.1)  # its time is over: nothing is learned any more
    assert (say(again) == after).all()
    assert kept.stat().st_mtime_ns == stamp
    assert len(list((machine.cache_folder() / "recovery").iterdir())) == 1
    more = taught("more", 0.12)
    assert not (say(more) == after).all()


def test_a_loss_that_is_no_number_stops_with_the_last_good_weights(
    tiny: Bundle, tmp_path: Path, lessons: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vivace.modules import decoder_school

    learn, calls, told = decoder_school.School._learn, [], []

    def poisoned(self: Any, share: float) -> dict[str, float]:
        calls.append(share)
        return {"mel": float("nan")} if len(calls) > 3 else learn(self, share)

    monkeypatch.setattr(decoder_school.School, "_learn", poisoned)
    values = {"share": 0.5, "recover_minutes": 5.0, "recover_texts": lessons}
    settings = parse(prune_channels.Settings, values, "prune_channels")
    context = Context(lambda stage: [], lambda message, share: told.append(message))
    child = prune_channels.apply(tiny, tmp_path / "child", settings, context)
    assert len(calls) == 4
    assert any("the mel loss is no number after 3 steps" in message for message in told)
    assert np.isfinite(say(child)).all()


def test_an_interruption_leaves_no_bundle(
    tiny: Bundle, tmp_path: Path, lessons: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vivace.modules import decoder_school

    def interrupted(self: Any, share: float) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder_school.School, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply("prune_channels", tiny, tmp_path / "child", share=0.5, recover_minutes=1, recover_texts=lessons)
    assert not [p for p in tmp_path.iterdir() if "child" in p.name]


def test_calibration_rows_teach_where_no_texts_are_given(tiny: Bundle, lessons: str) -> None:
    rows = [{"input": np.array([[1, 9, 12, 20, 2], [1, 9, 2, 0, 0]]), "input_lengths": np.array([5, 3])}]
    made = list(_recovery.lessons(tiny, "", Context(lambda stage: rows)))
    assert len(made) == 24
    assert all(samples.size == 32 * latent.shape[1] for latent, samples in made)
    assert not np.array_equal(made[0][0], made[2][0])  # the same words, another noise and pace
    with pytest.raises(UsageError, match="none of the sentences in the calibration set"):
        list(_recovery.lessons(tiny, "", Context(lambda stage: [])))
    with pytest.raises(UsageError, match=r"nowhere.txt cannot be read"):
        list(_recovery.lessons(tiny, "nowhere.txt", Context(lambda stage: [])))


def test_what_it_refuses(tiny: Bundle, tmp_path: Path, toy: Bundle) -> None:
    with pytest.raises(UsageError, match=r"no channel goes at a share of 0.1"):
        apply("prune_channels", tiny, tmp_path / "a", share=0.1)
    for wrong, words in (({"share": 0.0}, "between 0 and 1"), ({"multiple": 0}, "1 or more")):
        with pytest.raises(UsageError, match=words):
            apply("prune_channels", tiny, tmp_path / "b", **wrong)
    with pytest.raises(UsageError, match=r"no VITS voice|begin with the original"):
        apply("prune_channels", toy, tmp_path / "c")
    pruned = apply("prune_magnitude", tiny, tmp_path / "pruned", stages="decoder")
    with pytest.raises(UsageError, match="take channels out before"):
        apply("prune_channels", pruned, tmp_path / "d")
    shutil.rmtree(tmp_path / "pruned")
    assert not list(tmp_path.iterdir())
