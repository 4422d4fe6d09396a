"""Models that listen on the road of voices: the same passes, gate and report, judged by their accuracy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from families import generic_maker
from families.keras_maker import WORDS
from vivace.cli.main import main
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import UsageError
from vivace.workflows import _task, gate
from vivace.workflows import classify as classify_module
from vivace.workflows.classify import classify
from vivace.workflows.clips import Store
from vivace.workflows.dataset import read
from vivace.workflows.import_ import import_model
from vivace.workflows.optimize import optimize
from vivace.workflows.recipe import single

FAST = ["--rounds", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("ears")
    return import_model(generic_maker.classifier(folder / "ears.onnx"), folder / "bundle")


def clips(folder: Path, bundle: Bundle, count: int, seed: int, wrong: int = 0) -> Path:
    """Coloured noise, labelled as the model itself names it, but for the first `wrong`."""
    rng = np.random.default_rng(seed)
    with _task.opened(bundle, 1) as model:
        for k in range(count):
            spectrum = np.fft.rfft(rng.standard_normal(4000)) * rng.random(2001) ** 4
            samples = np.fft.irfft(spectrum, 4000).astype(np.float32)
            samples *= rng.uniform(0.05, 0.9) / np.abs(samples).max()
            rounded = (np.round(samples * 32767) / 32768).astype(np.float32)
            named = int(model.answer([Audio(rounded, 8000)])[0].argmax())
            label = WORDS[(named + (k < wrong)) % len(WORDS)]
            (folder / label).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / label / f"{k:03d}.wav", rounded, 8000, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def sets(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return clips(folder / "test", bundle, 60, 1, wrong=6), clips(folder / "calibration", bundle, 8, 2)


def test_evaluation_counts_what_is_right(bundle: Bundle, sets: tuple[Path, Path]) -> None:
    report = classify(bundle, read(sets[0]))
    found = report.get("accuracy")
    assert found.value == pytest.approx(54 / 60)
    assert found.low is not None and found.low < found.value < (found.high or 0)
    assert sum(map(sum, report.details["confusion"]["clips"])) == 60
    assert sum(row["clips"] * row["recall"] for row in report.details["labels"]) == pytest.approx(54)


def test_the_first_clips_are_of_every_label(bundle: Bundle, sets: tuple[Path, Path]) -> None:
    """A sorted folder begins with one label, on which no damage would be seen."""
    task = _task.of(bundle, *sets)
    items = task.items(0)
    labels = {item.split("/")[0] for item in items}
    assert len(items) == len(set(items)) == 60 and len(labels) > 1
    assert {item.split("/")[0] for item in items[: len(labels)]} == labels


def test_batched_is_single(bundle: Bundle, sets: tuple[Path, Path]) -> None:
    heard = read(sets[0]).clips(8000)[:9]
    with _task.opened(bundle, 1) as model:
        alone = np.concatenate([model.answer([clip]) for clip in heard])
        assert np.abs(model.answer(heard) - alone).max() < 1e-5


def test_another_model_is_told_apart(bundle: Bundle, sets: tuple[Path, Path], tmp_path: Path) -> None:
    other = import_model(generic_maker.classifier(tmp_path / "other.onnx", seed=5), tmp_path / "other")
    report = classify(other, read(sets[0]), reference=bundle)
    found = report.details["mcnemar"]
    right = {name: report.get("accuracy").value * 60 for name in ("child",)}["child"]
    assert found["only_child_right"] - found["only_parent_right"] == round(right - 54)
    assert found["p"] < 0.05
    assert report.get("accuracy_change").high < 0  # type: ignore[operator]


def test_the_road_of_voices_takes_a_model_that_listens(
    bundle: Bundle, sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["optimize", str(bundle.path), "-o", str(tmp_path / "out"), "--pass", "int8_static", "--json", "-q"]
    code = main([*words, "--evaluation", str(sets[0]), "--calibration", str(sets[1]), *FAST])
    details = json.loads(capsys.readouterr().out)["details"]
    assert code in (0, 3)  # a tiny model may well not be faster
    assert {row["text"] for row in details["variants"][0]["latency"]} == {"1 clip", "32 clips"}
    assert all(proof["refused"] for proof in details["sensitivity"])
    quality = {row["metric"]: row for row in details["trials"][0]["quality"]}
    assert quality["accuracy"]["margin"] == pytest.approx(0.0095)
    assert quality["agreement"]["child"]["value"] > 0.8
    assert len(details["labels, original"]) == len(WORDS)
    page = (tmp_path / "out" / "evidence" / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "evidence" / "audio").exists()
    assert "RTF ↓" in page and "TTFA, ms" not in page
    assert "Accuracy" in page
    assert open_bundle(tmp_path / "out").family == "generic"


def test_a_child_that_names_other_labels_is_refused(bundle: Bundle, sets: tuple[Path, Path], tmp_path: Path) -> None:
    other = import_model(generic_maker.classifier(tmp_path / "other.onnx", seed=5), tmp_path / "other")
    task = _task.of(bundle, *sets)
    store = Store(None)
    quiet = lambda message, share: None  # noqa: E731
    before = task.answers(bundle, task.items(0), 0, store, quiet)
    after = task.answers(other, task.items(0), 0, store, quiet)
    names = task.metrics(())
    rules = gate.rules(gate.Settings(), names)
    scored = [task.scores(found, names, before, store, quiet) for found in (before, after)]
    assert gate.compare(scored[0], scored[0], before.texts, rules)[1] == []
    assert any("accuracy" in reason for reason in gate.compare(*scored, before.texts, rules)[1])


def test_the_table_of_labels_is_of_the_clips_that_were_answered(bundle: Bundle, tmp_path: Path) -> None:
    """The set stands in the order of its files, the answers in that in which they were asked for."""
    material = clips(tmp_path / "test", bundle, 12, 5), clips(tmp_path / "calibration", bundle, 4, 6)
    task = _task.of(bundle, *material)
    items = task.items(0)
    assert items != [item.name for item in read(material[0]).items]
    made = task.answers(bundle, items, 0, Store(None), lambda message, share: None)
    assert all(row["recall"] == 1 for row in task.details({"v0": made})["labels, v0"] if row["clips"])


def test_clips_of_one_speaker_are_not_independent(bundle: Bundle, sets: tuple[Path, Path], tmp_path: Path) -> None:
    files = sorted(sets[0].glob("*/*.wav"))
    rows = [f"{file},{file.parent.name},speaker {k % 3}" for k, file in enumerate(files)]
    (tmp_path / "test.csv").write_text("path,label,group\n" + "\n".join(rows), encoding="utf-8")
    few, many = (_task.of(bundle, path, sets[1]) for path in (tmp_path / "test.csv", sets[0]))
    quiet = lambda message, share: None  # noqa: E731
    found = []
    for task in (few, many):
        made = task.answers(bundle, task.items(0), 0, Store(None), quiet)
        scores = task.scores(made, ("accuracy",), made, Store(None), quiet)
        found.append(gate.compare(scores, scores, made.texts, {}, made.groups)[0][0]["parent"])
    assert found[0]["n"] == 3 and found[1]["n"] == 60
    assert few.damaged(made, _task.DAMAGES[2], 9).groups == made.groups[:9]


def test_labels_in_another_order_are_the_same_labels(
    bundle: Bundle, sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = classify_module._answers

    def turned(asked: Bundle, *given: Any) -> Any:
        labels, scores = real(asked, *given)
        return (labels[::-1], scores[:, ::-1]) if asked.name == "other" else (labels, scores)

    monkeypatch.setattr(classify_module, "_answers", turned)
    report = classify(bundle, read(sets[0]), reference=replace(bundle, name="other"))
    assert report.details["mcnemar"]["only_child_right"] == report.details["mcnemar"]["only_parent_right"] == 0


def test_wrong_material_is_a_sentence(bundle: Bundle, sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--evaluation FOLDER and --calibration FOLDER"):
        _task.of(bundle, None, sets[1])
    with pytest.raises(UsageError, match="both for calibration and for evaluation"):
        _task.of(bundle, sets[0], sets[0])
    copied = next(sets[0].glob("*/*.wav"))
    (tmp_path / "copy" / copied.parent.name).mkdir(parents=True)
    shutil.copy(copied, tmp_path / "copy" / copied.parent.name / "other.wav")
    with pytest.raises(UsageError, match="both for calibration and for evaluation"):
        _task.of(bundle, sets[0], tmp_path / "copy")
    with pytest.raises(UsageError, match="'wer' is no metric of labels"):
        optimize(bundle, tmp_path / "out", single("int8_static", {}), metrics=["wer"], task=_task.of(bundle, *sets))
    clips(tmp_path / "odd", bundle, 2, 3)
    (tmp_path / "odd" / "strange").mkdir()
    soundfile.write(tmp_path / "odd" / "strange" / "a.wav", np.zeros(4000), 8000)
    with pytest.raises(UsageError, match="does not know the label 'strange'"):
        _task.of(bundle, tmp_path / "odd", sets[1])


def test_a_voice_has_no_labels(sets: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "hum.json").write_text('{"toy": 1}', encoding="utf-8")
    hum = import_model(tmp_path / "hum.json", tmp_path / "hum")
    with pytest.raises(UsageError, match="speaks, it does not name clips"):
        classify(hum, read(sets[0]))
    with pytest.raises(UsageError, match="--training belongs to models that listen"):
        _task.of(hum, None, None, sets[0])


def test_a_model_that_listens_says_so_when_it_is_to_speak(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["say", str(bundle.path), "hello", "-o", "x.wav", "-q"]) != 0
    assert "this model listens" in capsys.readouterr().err
