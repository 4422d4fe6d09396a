"""The short workflows: import, export, synthesize, evaluate, benchmark, and the Python verbs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vivace
from vivace.core.bundle import Bundle
from vivace.core.errors import BundleError, UsageError
from vivace.workflows import benchmark
from vivace.workflows.benchmark import Timings, measure

METRICS = ["clipping", "duration_ratio", "log_spectral_distance"]


def test_every_python_verb_is_there() -> None:
    for name in vivace.__all__:
        assert getattr(vivace, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sing'"):
        vivace.sing  # noqa: B018


def test_import_says_what_families_want(tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text("la", encoding="utf-8")
    with pytest.raises(UsageError, match="Piper VITS voice"):
        vivace.import_model(tmp_path / "song.txt", tmp_path / "out")
    with pytest.raises(UsageError, match="does not exist"):
        vivace.import_model(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UsageError, match="unknown family"):
        vivace.import_model(tmp_path / "song.txt", tmp_path / "out", family="pipper")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", [False, True])
def test_import_of_a_piper_model_alone_says_that_its_json_is_missing(tmp_path: Path, folder: bool) -> None:
    (tmp_path / "ann.onnx").write_bytes(b"model")
    with pytest.raises(UsageError) as error:
        vivace.import_model(tmp_path if folder else tmp_path / "ann.onnx", tmp_path / "out")
    assert str(error.value).startswith("ann.onnx.json is not beside ")
    assert "Families" not in str(error.value)


def test_synthesize_is_seeded(toy: Bundle) -> None:
    first = vivace.synthesize(toy, "one two.", seed=5)
    assert np.array_equal(first.samples, vivace.synthesize(toy, "one two.", seed=5).samples)


def test_export_does_not_overwrite_unasked(toy: Bundle, tmp_path: Path) -> None:
    files = vivace.export(toy, tmp_path / "out")
    assert all(file.stat().st_size for file in files)
    files[0].rename(tmp_path / "out" / f"{toy.name}.onnx")
    with pytest.raises(BundleError, match="--force"):
        vivace.export(toy, tmp_path / "out")
    assert vivace.export(toy, tmp_path / "out", overwrite=True) == files


def test_evaluate_against_itself(toy: Bundle) -> None:
    texts = ["one two three.", "four five six seven."]
    report = vivace.evaluate(toy, texts, metrics=METRICS, reference=toy)
    assert report.get("duration_ratio").value == 1.0
    assert report.get("log_spectral_distance").value == pytest.approx(0.0, abs=1e-6)
    assert report.get("clipping").n == 2
    assert vivace.evaluate(toy, texts, metrics=METRICS).details["skipped"] == METRICS[1:]
    assert vivace.Report.from_json(report.to_json()) == report


def test_evaluate_names_an_unknown_metric(toy: Bundle) -> None:
    with pytest.raises(UsageError, match="did you mean 'clipping'"):
        vivace.evaluate(toy, ["one."], metrics=["cliping"])


def test_measure_pairs_every_arm_in_every_round(toy: Bundle) -> None:
    texts = {"short": "one.", "long": "one two three four five six."}
    timings = measure({"a": toy, "b": toy}, rounds=3, spoken_texts=texts)
    for arm in ("a", "b"):
        assert {name: len(runs) for name, runs in timings.whole[arm].items()} == {"short": 3, "long": 3}
        assert all(first <= 10 for first in timings.first[arm]["long"])
        assert timings.audio[arm]["long"] > timings.audio[arm]["short"]
        assert timings.gap[arm]["long"] == timings.low[arm]["long"] == []
    with pytest.raises(UsageError, match="at least 3"):
        measure({"a": toy}, rounds=2)


def test_streams_are_played_to_their_end_if_asked(toy: Bundle) -> None:
    timings = measure({"a": toy}, rounds=3, spoken_texts={"long": "one two three four five six seven."}, streams=True)
    first, gap, low = (kept["a"]["long"] for kept in (timings.first, timings.gap, timings.low))
    assert len(first) == len(gap) == len(low) == 3
    assert all(0 < seconds < 10 for seconds in first + gap)
    assert all(-10 < seconds < timings.audio["a"]["long"] for seconds in low)


def test_old_timings_are_read() -> None:
    """A resumed run may have kept some of before."""
    old = {"threads": 1, "characters": {}, "whole": {}, "first": {}, "audio": {}, "load": {}}
    assert Timings(**old).gap == {}


def test_ratio_and_overall_are_those_of_the_medians() -> None:
    texts = {"short": 3, "long": 9}
    whole = {
        "a": {"short": [2.0, 2.0, 2.0], "long": [8.0, 8.0, 8.0]},
        "b": {"short": [1.0, 1.0, 1.0], "long": [1.0, 1.0, 1.0]},
    }
    timings = Timings(1, texts, whole)
    assert timings.ratio("a", "b", "short").mean == pytest.approx(2.0)
    overall = timings.overall("a", "b")
    assert overall.mean == pytest.approx(4.0)
    assert overall.low == pytest.approx(4.0)


def test_benchmark_reports_every_arm(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "peak_memory", lambda bundle, text, threads: (10.0, 20.0))
    report = vivace.benchmark({"a": toy, "b": toy}, rounds=3)
    assert report.get("b/speedup").n == 3
    assert report.get("a/memory_peak").value == 20.0
    assert report.settings["yardstick"] == "a"
    for name in ("ttfa", "worst_gap", "buffer_low"):
        rows = [m for m in report.measurements if m.name == f"b/{name}"]
        assert [m.scope.split()[0] for m in rows] == ["short", "medium", "long"]
        assert all(m.n == 3 and m.unit == "ms" for m in rows)
    assert vivace.Report.from_json(report.to_json()) == report
