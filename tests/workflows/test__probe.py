"""The quick measurements of a search. Scores and timings are given, so that no test is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from families import piper_maker
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.stage import Stage
from vivace.families import piper
from vivace.workflows import _probe
from vivace.workflows._probe import Found, Prober, interleaved, placed
from vivace.workflows._space import entry
from vivace.workflows.clips import Clips, Store

TEXTS = ["one two.", "three four.", "five."]
FP16, INT8 = entry("weights_fp16", {}, "size"), entry("int8_static", {"stages": ("decoder",)}, "speed")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go while the test runs."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


def prober(toy: Bundle, store: Path | None = None, **more: Any) -> Prober:
    return Prober(
        toy, Store(store), TEXTS, {"short": "one.", "long": "one two three."}, ["six seven.", "eight."], **more
    )


@pytest.fixture
def one(toy: Bundle) -> Prober:
    return prober(toy, threads=(1,))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scores by the last pass of a bundle, and a candidate of twice the speed; holds what was measured."""
    done: list[str] = []

    def scored(clips: Clips, metrics: Sequence[str], *, store: Store) -> dict[str, list[float]]:
        base = 4.0 if clips is clips_of.get("original") else 3.9
        return {"predicted_mos": [base + 0.01 * k * (base < 4) for k in range(len(clips.texts))]}

    clips_of: dict[str, Clips] = {}
    real = _probe.spoken

    def spoken(bundle: Bundle, texts: Sequence[str], *, seed: int, store: Store) -> Clips:
        done.append(f"spoken {[step.name for step in bundle.history]}")
        clips = real(bundle, texts, seed=seed, store=store)
        if not bundle.history:
            clips_of["original"] = clips
        return clips

    def measure(arms: Mapping[str, Bundle], *, threads: int, **_: Any) -> Any:
        done.append(f"measured at {threads}")
        return SimpleNamespace(overall=lambda arm, base: SimpleNamespace(mean=0.25 * threads))

    monkeypatch.setattr(_probe, "scored", scored)
    monkeypatch.setattr(_probe, "spoken", spoken)
    monkeypatch.setattr(_probe, "measure", measure)
    return done


# --- which stages are left alone ---


def test_stages_that_only_compute_do_not_decide_the_length(toy: Bundle, one: Prober) -> None:
    assert not any(one.decides_length(stage) for stage in toy.stages)


def test_the_duration_predictor_of_a_piper_voice_decides_the_length(tmp_path: Path) -> None:
    model = piper_maker.make(tmp_path, piper_maker.Shape(speakers=2), "hum")
    voice = piper.import_(model, tmp_path / "voice")
    texts = ["one two three.", "four five six seven."]
    probing = Prober(voice, Store(None), ["one."], {"short": "one."}, texts, (1,))
    assert [stage.name for stage in voice.stages if probing.decides_length(stage)] == ["text"]


def test_a_stage_whose_shape_follows_its_values_is_found(tmp_path: Path, tiny: Bundle) -> None:
    """A stage that repeats its frames as often as its first value says."""
    import onnx
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Slice", ["frames", "from", "to", "axis"], ["first"]),
        helper.make_node("Mul", ["first", "many"], ["scaled"]),
        helper.make_node("Abs", ["scaled"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["length"], to=7),
        helper.make_node("Reshape", ["length", "flat"], ["count"]),
        helper.make_node("Expand", ["zero", "count"], ["samples"]),
    ]
    constants = {
        "from": np.array([0, 0, 0]),
        "to": np.array([1, 1, 1]),
        "axis": np.array([0, 1, 2]),
        "many": np.array(1e5, np.float32),
        "flat": np.array([1]),
        "zero": np.zeros(1, np.float32),
    }
    values = [
        helper.make_tensor_value_info("frames", 1, [1, 8, "n"]),
        helper.make_tensor_value_info("samples", 1, ["s"]),
    ]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def change(folder: Path) -> None:
        onnx.save(made, str(folder / "decoder.onnx"))

    moving = tiny.derive(tmp_path / "moving", None, change)
    probing = Prober(moving, Store(None), ["a"], {"short": "a"}, ["abc"], (1,))
    probing._rows = {"decoder": [{"frames": np.ones((1, 8, 4), np.float32)}]}
    assert probing.decides_length(moving.stage("decoder"))
    still = Prober(tiny, Store(None), ["a"], {"short": "a"}, ["abc"], (1,))
    still._rows = probing._rows
    assert not still.decides_length(tiny.stage("decoder"))


# --- building ---


def test_what_is_built_is_gone_afterwards(toy: Bundle, one: Prober, folders: Path) -> None:
    with one.built([FP16]) as child:
        assert child.size < toy.size
        assert open_bundle(child.path) == child
        assert folders in child.path.parents
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError])
def test_an_interruption_leaves_nothing(one: Prober, folders: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), one.built([FP16]):
        raise error
    assert list(folders.iterdir()) == []


def test_a_pass_that_cannot_be_applied_leaves_nothing(one: Prober, folders: Path) -> None:
    twice = [FP16, FP16]
    with pytest.raises(UsageError), one.built(twice):
        pass
    assert list(folders.iterdir()) == []


def test_what_is_kept_is_not_built_again(toy: Bundle, one: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivace.passes import weights_fp16

    applied: list[str] = []
    real = weights_fp16.apply

    def counting(bundle: Bundle, *args: Any) -> Bundle:
        applied.append("weights_fp16")
        return real(bundle, *args)

    monkeypatch.setattr(weights_fp16, "apply", counting)
    with one.built([FP16]) as first:
        one.keep([FP16], first)
        with one.built([FP16, INT8]) as child:
            assert [step.name for step in child.history] == ["weights_fp16", "int8_static"]
            assert child.history[-1].parent == first.digest
        with one.built([INT8]) as other:  # does not begin so
            assert [step.name for step in other.history] == ["int8_static"]
        with one.built([FP16]) as same:
            assert same == first
    assert applied == ["weights_fp16"]


def test_ranges_are_calibrated_once_for_all_choices(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vivace.passes import _calibration

    runs: list[int] = []
    real = _calibration.ranges

    def counting(*args: Any) -> Any:
        runs.append(1)
        return real(*args)

    monkeypatch.setattr(_calibration, "ranges", counting)
    kept = prober(toy, tmp_path / "store", threads=(1,))
    part, other = (
        entry("int8_static", {"stages": ("decoder",), "include": (name,)}, "speed")
        for name in ("/conv_pre/Conv", "/resblocks.0/Conv")
    )
    digests = set()
    for choice in ([part], [other], [part, other], [part]):
        with kept.built(choice) as child:
            digests.add(child.digest)
    assert len(digests) == 3
    assert len(runs) <= 2  # the third is calibrated on a graph that is quantized in part
    alone = prober(toy, threads=(1,))
    with alone.built([part]) as child:
        assert child.digest in digests  # the same ranges as without a memory


# --- measuring ---


def test_a_candidate_is_measured_against_the_original(toy: Bundle, tmp_path: Path, figures: list[str]) -> None:
    probing = prober(toy, tmp_path / "store", threads=(1, 2))
    probing.mean()
    found = probing.found([FP16], 0.1)
    assert found.time == pytest.approx((0.25 * 0.5) ** 0.5)  # geometric mean over the thread counts
    assert found.loss == pytest.approx(0.09)
    assert found.error == pytest.approx(0.01 / 3**0.5)
    assert found.mb < toy.size / 1e6
    assert not found.moved


@pytest.mark.parametrize(("share", "moved"), [(0.004, False), (0.02, True)])
def test_a_frame_here_and_there_moves_no_speech(
    toy: Bundle, figures: list[str], monkeypatch: pytest.MonkeyPatch, share: float, moved: bool
) -> None:
    """Weights that are stored in 8 bits shift a duration by a frame: once that threw every small candidate out."""
    real = _probe.spoken

    def longer(bundle: Bundle, texts: Sequence[str], **more: Any) -> Clips:
        clips = real(bundle, texts, **more)
        if not bundle.history:
            return clips
        audio = tuple(Audio(np.pad(a.samples, (0, round(share * len(a.samples)))), a.rate) for a in clips.audio)
        return Clips(clips.texts, audio, clips.keys)

    monkeypatch.setattr(_probe, "spoken", longer)
    assert prober(toy, threads=(1,)).found([FP16], 0.1).moved is moved


def test_what_was_measured_is_not_measured_again(toy: Bundle, tmp_path: Path, figures: list[str]) -> None:
    found = [prober(toy, tmp_path / "store", threads=(1,)).found([FP16], 0.1) for _ in range(2)]
    assert found[0] == found[1]
    assert isinstance(found[1], Found)
    assert figures.count("spoken ['weights_fp16']") == figures.count("measured at 1") == 1
    prober(toy, tmp_path / "store", threads=(1,)).found([FP16, INT8], 0.1)
    prober(toy, tmp_path / "store", threads=(2,)).found([FP16], 0.1)
    assert figures.count("measured at 1") == 2
    assert figures.count("measured at 2") == 1


def test_a_clip_of_another_length_is_a_move(toy: Bundle, one: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = {"before": [100, 200, 300], "after": [100, 210, 300]}
    order = iter([lengths["before"], lengths["after"], lengths["before"]])

    def spoken(bundle: Bundle, texts: Sequence[str], **_: Any) -> Clips:
        audio = tuple(Audio(np.zeros(n, np.float32), 8000) for n in next(order))
        return Clips(tuple(texts), audio, tuple(texts))

    monkeypatch.setattr(_probe, "spoken", spoken)
    monkeypatch.setattr(_probe, "scored", lambda clips, metrics, store: {"predicted_mos": [3.0, 3.0, 3.0]})
    assert one.loss(toy, 0.1) == (0.0, 0.0, True)
    assert one.loss(toy, 0.1) == (0.0, 0.0, False)


@pytest.mark.parametrize(
    ("noisy", "shift", "times"),
    [(0.0, 0.05, 1), (1.0, 0.05, _probe.SEEDS), (1.0, 9.0, 1)],
    ids=["precise at once", "never precise", "hopeless at once"],
)
def test_sentences_are_spoken_again_while_that_can_decide(
    toy: Bundle, one: Prober, monkeypatch: pytest.MonkeyPatch, noisy: float, shift: float, times: int
) -> None:
    seeds: list[int] = []

    def spoken(bundle: Bundle, texts: Sequence[str], *, seed: int, **_: Any) -> Clips:
        seeds.append(seed)
        return Clips(("original",) if len(seeds) % 2 else ("child",), (Audio(np.zeros(8, np.float32), 8000),), ("k",))

    def scores(clips: Clips, metrics: Sequence[str], **_: Any) -> dict[str, list[float]]:
        child = np.array([-0.5, 0.5, 0.0]) * noisy - shift * len(seeds) / 2
        return {"predicted_mos": list(3.0 + (child if clips.texts == ("child",) else 0 * child))}

    monkeypatch.setattr(_probe, "spoken", spoken)
    monkeypatch.setattr(_probe, "scored", scores)
    loss, error, _ = one.loss(toy, 0.1)
    assert loss == pytest.approx(shift * (times + 1) / 2)  # the mean of all noises, of which each loses more
    assert error == pytest.approx(noisy * 0.5 / 3**0.5)
    assert seeds == [_probe.SEED + k // 2 for k in range(2 * times)]


def test_a_way_that_cannot_run_is_infinitely_slow(toy: Bundle, one: Prober) -> None:
    stage = toy.stage("decoder")
    missing = replace(stage, runtime="elsewhere")
    found = one.stage_seconds("decoder", {"here": (toy, stage), "there": (toy, missing)})
    assert 0 < found["here"] < float("inf") == found["there"]


def test_the_ways_of_a_stage_are_timed_on_all_texts_but_the_longest(
    toy: Bundle, one: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def given(runs: Mapping[str, Any], text: str, rounds: int) -> dict[str, float]:
        seen.append(text)
        return {"a": 2.0, "b": 8.0}

    monkeypatch.setattr(_probe, "interleaved", given)
    stage = toy.stage("decoder")
    found = one.stage_seconds("decoder", {"a": (toy, stage), "b": (toy, placed(stage, "onnxruntime", "fp32"))})
    assert seen == ["short"]
    assert found == {"a": pytest.approx(2.0), "b": pytest.approx(8.0)}


def test_the_order_is_shuffled_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    now = [0.0]
    spent = {"a": [1.0, 1.0, 9.0, 1.0, 1.0], "b": [2.0, 3.0, 4.0, 5.0, 6.0]}

    def run(key: str) -> Any:
        left = iter(spent[key])

        def once(text: str) -> None:
            order.append(key)
            now[0] += next(left)

        return once

    monkeypatch.setattr(_probe.time, "perf_counter", lambda: now[0])
    assert interleaved({key: run(key) for key in spent}, "text", 5) == {"a": 1.0, "b": 4.0}
    rounds = ["".join(order[k : k + 2]) for k in range(0, 10, 2)]
    assert set(rounds) == {"ab", "ba"}


def test_placed_stages_say_their_precision_only_where_it_is_not_the_usual() -> None:
    stage = Stage("decoder", "a.onnx")
    assert placed(stage, "openvino", "bf16") == replace(stage, runtime="openvino", options={"precision": "bf16"})
    assert placed(stage, "onnxruntime", "fp32") == stage
