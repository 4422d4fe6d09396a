"""The road of a recipe: what is kept, refused, resumed and written. Timings are given, so that no test is timed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import BundleError, UsageError
from vivace.core.report import Report
from vivace.workflows import _task, gate, optimize, recipe
from vivace.workflows._report_view import view
from vivace.workflows.benchmark import Timings

METRICS = ("duration_ratio", "clipping", "silence", "log_spectral_distance")
SETTINGS = gate.Settings(texts=4, rounds=5, damage_texts=3)
TEXTS = ["one two three four.", "five six seven eight nine.", "ten eleven twelve.", "so it goes on and on."]
CUT = {name: damage for name, damage in gate.DAMAGES.items() if "dropped" in name}


def timed(speeds: Mapping[str, float], noisy: bool = False) -> Any:
    """A `measure` that gives each arm its speed: that of its last pass, or 1; `noisy` in the first measurement."""

    def measure(
        arms: Mapping[str, Bundle], *, threads: int, rounds: int, spoken_texts: Any, progress: Any, first_seed: int = 0
    ) -> Timings:
        result = Timings(threads, {name: len(text) for name, text in spoken_texts.items()})
        for arm, bundle in arms.items():
            speed = next((s for key, s in speeds.items() if bundle.history and bundle.history[-1].name == key), 1.0)
            wild = 3.0 if noisy and arm == "child" and not first_seed else 1.0
            runs = [(1.0 + 0.01 * k) / speed * (wild if k % 2 else 1 / wild) for k in range(rounds)]
            result.whole[arm] = dict.fromkeys(spoken_texts, runs)
            result.first[arm] = dict.fromkeys(spoken_texts, runs)
            result.audio[arm] = dict.fromkeys(spoken_texts, 2.0)
            result.load[arm] = [0.1]
        return result

    return measure


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_task.benchmark, "measure", timed({"weights_fp16": 1.0, "int8_dynamic": 0.4}))
    monkeypatch.setattr(_task, "peak_memory", lambda bundle, text, threads: (10.0, 20.0))
    monkeypatch.setattr(gate, "DAMAGES", CUT)


def plan(*passes: tuple[str, str]) -> recipe.Recipe:
    entries = tuple(recipe.single(name, {}, objective).passes[0] for name, objective in passes)
    return recipe.Recipe("test", "a test", "speed", entries)


def go(toy: Bundle, out: Path, what: recipe.Recipe, **options: Any) -> optimize.Result:
    return optimize.optimize(
        toy, out, what, SETTINGS, metrics=METRICS, evaluation=TEXTS, calibration=["a calibration text."], **options
    )


def test_what_is_smaller_and_not_worse_is_kept(toy: Bundle, tmp_path: Path) -> None:
    result = go(toy, tmp_path / "out", plan(("weights_fp16", "size")))
    assert result.met
    assert result.bundle.size < toy.size
    assert [step.name for step in result.bundle.history] == ["weights_fp16"]
    assert open_bundle(tmp_path / "out").digest == result.bundle.digest
    assert not (tmp_path / ".out.work").exists()
    assert "earlier" not in dict(view(result.report).facts)["Time taken"]
    trial = result.report.details["trials"][0]
    assert trial["kept"] and trial["reasons"] == []
    assert result.report.details["attribution"][0]["size_share"] == pytest.approx(1.0)


def test_an_open_question_gets_more_rounds(toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_task.benchmark, "measure", timed({"weights_fp16": 1.01}, noisy=True))
    trial = go(toy, tmp_path / "out", plan(("weights_fp16", "size"))).report.details["trials"][0]
    assert trial["kept"]
    assert trial["speed"][-1]["ratio"]["n"] == 3 * SETTINGS.rounds
    monkeypatch.setattr(_task.benchmark, "measure", timed({"int8_dynamic": 0.4}))
    clear = go(toy, tmp_path / "clear", plan(("int8_dynamic", "speed"))).report.details["trials"][0]
    assert clear["speed"][-1]["ratio"]["n"] == SETTINGS.rounds


def test_what_is_slower_is_refused_and_the_recipe_goes_on(toy: Bundle, tmp_path: Path) -> None:
    result = go(toy, tmp_path / "out", plan(("int8_dynamic", "speed"), ("weights_fp16", "size")))
    first, second = result.report.details["trials"]
    assert not first["kept"] and "not faster: 0.40x" in first["reasons"][0]
    assert second["kept"] and second["parent"] == "v0"
    assert [step.name for step in result.bundle.history] == ["weights_fp16"]


def test_nothing_kept_gives_the_original_and_no_success(toy: Bundle, tmp_path: Path) -> None:
    result = go(toy, tmp_path / "out", plan(("int8_dynamic", "speed")))
    assert not result.met
    assert result.bundle.digest == toy.digest
    assert "Nothing was kept" in result.report.details["verdict"]


def test_a_budget_that_is_not_met_is_no_success(toy: Bundle, tmp_path: Path) -> None:
    settings = gate.Settings(texts=4, rounds=5, damage_texts=3, min_speedup=1.5)
    result = optimize.optimize(
        toy, tmp_path / "out", plan(("weights_fp16", "size")), settings, metrics=METRICS, evaluation=TEXTS
    )
    assert not result.met
    assert "below the asked 1.5x" in result.report.details["verdict"]


def test_a_gate_that_is_blind_refuses_everything(toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DAMAGES", {"a whisper": lambda audio, k: audio})
    result = go(toy, tmp_path / "out", plan(("weights_fp16", "size")))
    assert not result.met
    assert "did not see a planted damage: a whisper" in result.report.details["trials"][0]["reasons"][-1]


def test_the_sensitivity_proof_names_who_saw_it(toy: Bundle, tmp_path: Path) -> None:
    result = go(toy, tmp_path / "out", plan(("weights_fp16", "size")))
    proof = result.report.details["sensitivity"][0]
    assert proof["refused"]
    assert "duration_ratio" in proof["seen_by"]
    assert "clipping" in proof["missed_by"]


def test_a_child_that_cannot_be_judged_is_refused(toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivace.passes import weights_fp16

    def broken(*_: Any) -> Bundle:
        raise BundleError("the disk ate it")

    monkeypatch.setattr(weights_fp16, "apply", broken)
    result = go(toy, tmp_path / "out", plan(("weights_fp16", "size")))
    assert "the disk ate it" in result.report.details["trials"][0]["reasons"][0]
    assert result.bundle.digest == toy.digest


def test_interrupted_and_resumed(toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Timings:
        raise KeyboardInterrupt

    monkeypatch.setattr(_task.benchmark, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go(toy, tmp_path / "out", plan(("weights_fp16", "size")))
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.work").exists()

    monkeypatch.setattr(_task.benchmark, "measure", timed({}))
    from vivace.workflows import clips

    monkeypatch.setattr(clips, "Pool", interrupt)  # all clips are there: nothing is spoken again
    resumed = go(toy, tmp_path / "out", plan(("weights_fp16", "size")))
    assert resumed.met and "went on with the work of an earlier run" in dict(view(resumed.report).facts)["Time taken"]


def test_a_damaged_leftover_is_made_again(toy: Bundle, tmp_path: Path) -> None:
    go(toy, tmp_path / "out", plan(("weights_fp16", "size")), keep_work=True)
    work = tmp_path / ".out.work"
    candidate = next(p for p in work.iterdir() if p.is_dir())
    stage = candidate / open_bundle(candidate).stages[0].file
    stage.write_bytes(stage.read_bytes()[:-1] + b"x")
    for npz in list(work.glob("*.npz"))[:2]:
        npz.write_bytes(b"half a file")
    next(work.glob("*.json")).write_text("{", encoding="utf-8")
    assert go(toy, tmp_path / "out", plan(("weights_fp16", "size")), overwrite=True).met


def test_the_model_itself_is_no_output(toy: Bundle) -> None:
    with pytest.raises(BundleError, match="is the model itself"):
        go(toy, toy.path, plan(("weights_fp16", "size")), overwrite=True)


def test_times_of_other_runs_are_on_the_clock_of_the_first(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is three times slower when the second pass is timed."""
    quick, runs = timed({"int8_dynamic": 2.0, "weights_fp16": 2.5}), []

    def slowing(arms: Mapping[str, Bundle], **asked: Any) -> Timings:
        found: Timings = quick(arms, **asked)
        runs.append(found)
        if len(runs) > 1:
            found.whole = {arm: {t: [3 * s for s in v] for t, v in by.items()} for arm, by in found.whole.items()}
        found.waited = 0.2 * len(runs)
        return found

    monkeypatch.setattr(_task.benchmark, "measure", slowing)
    passes = plan(("int8_dynamic", "speed"), ("weights_fp16", "size"))
    details = go(toy, tmp_path / "out", passes).report.details
    first, *others = (v["latency"][0]["p50_ms"] for v in details["variants"])
    assert [first / other for other in others] == [
        pytest.approx(v["overall"]["value"]) for v in details["variants"][1:]
    ]
    assert len(others) == 2
    assert details["waited_share"] == pytest.approx(0.4)


def test_the_output_is_not_overwritten_unasked(toy: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match="exists"):
        go(toy, tmp_path / "out", plan(("weights_fp16", "size")))


def test_calibration_and_evaluation_must_be_disjoint(toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unseen"):
        optimize.optimize(
            toy, tmp_path / "out", plan(("weights_fp16", "size")), SETTINGS, evaluation=TEXTS, calibration=TEXTS[:1]
        )


def test_evidence_and_progress(toy: Bundle, tmp_path: Path) -> None:
    shares: list[float] = []
    result = go(
        toy, tmp_path / "out", plan(("weights_fp16", "size")), progress=lambda message, share: shares.append(share)
    )
    evidence = tmp_path / "out" / "evidence"
    assert Report.from_json((evidence / "report.json").read_text(encoding="utf-8")).details == json.loads(
        json.dumps(result.report.details)
    )
    assert (evidence / "report.html").stat().st_size > 10_000
    assert (evidence / "audio" / "v0-0.flac").exists()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert np.all(np.array(shares) <= 1.0)


def test_a_single_pass_without_work_is_told_before_anything_is_measured(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken: list[str] = []
    monkeypatch.setattr(_task.Speech, "answers", lambda *_, **__: spoken.append("a clip"))
    with pytest.raises(UsageError, match=r"kv_cache has nothing to do: .*: computes no prefix step by step"):
        go(toy, tmp_path / "out", plan(("kv_cache", "speed")))
    assert not spoken and not (tmp_path / ".out.work").exists()
