"""Listening tests from voices and from folders, and what people said in reports."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from listening.panel import Clock, listen, rater
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.errors import UsageError
from vivace.core.report import Report
from vivace.listening.design import Design
from vivace.listening.store import Store
from vivace.workflows.clips import spoken
from vivace.workflows.evaluate import evaluate
from vivace.workflows.import_ import import_model
from vivace.workflows.listening import NAME, from_bundles, from_folders, with_listeners
from vivace.workflows.report import render_html, render_markdown

ACR = Design("acr", "Which?", 0.2, checks=2)
TEXTS = ["good morning", "a second text", "and one more"]


@pytest.fixture
def voice(tmp_path: Path) -> Callable[[int], Bundle]:
    def make(seed: int) -> Bundle:
        (tmp_path / f"{seed}.json").write_text(json.dumps({"toy": 1, "seed": seed}), encoding="utf-8")
        return import_model(tmp_path / f"{seed}.json", tmp_path / f"voice {seed}")

    return make


@pytest.fixture
def two(voice: Callable[[int], Bundle]) -> dict[str, Bundle]:
    return {"old": voice(1), "new": voice(2)}


def clips_of(store: Store) -> dict[tuple[int, int, bool], bytes]:
    with store._open() as db:
        return {
            (system, text, bool(bad)): data
            for system, text, bad, data in db.execute("select system, text, damaged, data from clips")
        }


def test_bundles_speak_the_same_texts(tmp_path: Path, two: dict[str, Bundle]) -> None:
    store = from_bundles(tmp_path / "t", ACR, two, TEXTS)
    assert [s.digest for s in store.systems] == [b.digest for b in two.values()] and store.texts == TEXTS
    clips = clips_of(store)
    assert len(clips) == 6 + 3
    expected = spoken(two["new"], TEXTS).audio[1]
    samples, rate = soundfile.read(io.BytesIO(clips[1, 1, False]))
    assert rate == expected.rate and np.abs(samples - expected.samples).max() < 1e-4
    bad, _ = soundfile.read(io.BytesIO(clips[0, 1, True]))
    good, _ = soundfile.read(io.BytesIO(clips[0, 1, False]))
    assert len(bad) == len(good) and np.std(bad) == pytest.approx(np.std(good), rel=0.2), "as loud as it was"
    assert np.corrcoef(bad, good)[0, 1] < 0.6


def folder(path: Path, names: list[str], seconds: float = 0.5) -> Path:
    path.mkdir()
    for k, name in enumerate(names):
        tone = 0.3 * np.sin(np.arange(int(seconds * 8000)) * (0.1 + 0.02 * k)).astype(np.float32)
        (path / name).write_bytes(Audio(tone, 8000).wav())
    return path


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", ["one.wav", "two.wav"])
    (a / "one.txt").write_text("The first.\n", encoding="utf-8")
    store = from_folders(tmp_path / "t", ACR, {"a": a, "b": folder(tmp_path / "b", ["two.wav", "one.wav"])})
    assert store.texts == ["The first.", "two"] and [s.digest for s in store.systems] == ["", ""]


def test_folders_that_make_no_test(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", ["one.wav", "two.wav"])
    with pytest.raises(UsageError, match="three is not in every folder"):
        from_folders(tmp_path / "t", ACR, {"a": a, "b": folder(tmp_path / "b", ["one.wav", "three.wav"])})
    with pytest.raises(UsageError, match="holds no clips"):
        from_folders(tmp_path / "t", ACR, {"a": a, "c": folder(tmp_path / "c", [])})
    with pytest.raises(UsageError, match=r"lasts 0.0 s"):
        short = folder(tmp_path / "d", ["one.wav", "two.wav"], 0.01)
        from_folders(tmp_path / "t", ACR, {"a": a, "d": short})
    (a / "two.wav").write_bytes(b"no sound")
    with pytest.raises(UsageError, match="cannot be read as audio"):
        from_folders(tmp_path / "t", ACR, {"a": a, "e": folder(tmp_path / "e", ["one.wav", "two.wav"])})
    (a / "one.flac").write_bytes(b"")
    with pytest.raises(UsageError, match="holds one twice"):
        from_folders(tmp_path / "t", ACR, {"a": a, "f": folder(tmp_path / "f", ["one.wav", "two.wav"])})
    assert not (tmp_path / "t").exists()


def test_systems_that_make_no_test(tmp_path: Path, two: dict[str, Bundle], voice: Callable[[int], Bundle]) -> None:
    three = two | {"third": voice(3)}
    with pytest.raises(UsageError, match="3 systems make no such test"):
        from_bundles(tmp_path / "t", Design("preference", "x", 0.1), three, TEXTS)
    with pytest.raises(UsageError, match="same model"):
        from_bundles(tmp_path / "t", ACR, {"a": two["old"], "b": two["old"]}, TEXTS)
    with pytest.raises(UsageError, match="two at least"):
        from_bundles(tmp_path / "t", ACR, two, TEXTS[:1])
    assert len(from_bundles(tmp_path / "t", ACR, three, TEXTS).systems) == 3


@pytest.fixture
def heard(tmp_path: Path, two: dict[str, Bundle]) -> Store:
    """Six listeners, who find the second voice a point better, and one who clicks."""
    store, clock = from_bundles(tmp_path / "t", ACR, two, TEXTS), Clock()
    for k in range(6):
        listen(store, clock, rater(k, 1.0, [0.0] * 3), pause=60)
    listen(store, clock, lambda trial: 5, pause=60)
    return store


def test_what_people_said_stands_beside_what_was_predicted(heard: Store, two: dict[str, Bundle]) -> None:
    report = evaluate(two["new"], TEXTS, metrics=["silence"])
    told = with_listeners(report, heard)
    found = told.get(NAME)
    assert (found.unit, found.better, found.n) == ("MOS by listeners", "up", 18)
    assert found.scope == "6 listeners, 3 clips, 1 screened out"
    assert found.low is not None and found.high is not None and 3 < found.low < found.value < found.high <= 5
    assert [m.name for m in report.measurements] == ["silence"], "and the report itself is as it was"
    for page in (render_markdown(told), render_html(Report.from_json(told.to_json()), {})):
        assert "What people said" in page and f"{found.value:.2f}" in page and "Not a prediction" in page
        assert "heard the same sentences" in page and "other sentences" not in page
    other = with_listeners(evaluate(two["new"], TEXTS[:2], metrics=["silence"]), heard)
    assert other.get(NAME).scope == "6 listeners, 3 clips, 1 screened out, of other sentences"
    assert "heard other sentences than the metrics" in render_markdown(other)
    assert "What people said" not in render_markdown(report)


def test_every_variant_of_an_optimization_has_its_column(heard: Store, two: dict[str, Bundle]) -> None:
    variants = [
        {"id": "a", "label": "original", "digest": two["old"].digest, "kept": True, "size_mb": 9.0},
        {"id": "b", "label": "unheard", "digest": "other", "kept": False, "size_mb": 5.0},
        {"id": "c", "label": "final", "digest": two["new"].digest, "kept": True, "size_mb": 2.0},
    ]
    report = with_listeners(Report("optimize", (), details={"variants": variants, "final": "c"}), heard)
    lines = render_markdown(report).splitlines()
    (head,) = [line for line in lines if line.startswith("| No. |")]
    assert head.endswith("| MOS by listeners (other sentences) |")
    rows = [line.split("|")[-2].strip() for line in lines if line.startswith(("| 0 |", "| 1 |", "| 2 |"))]
    values = {one["digest"]: one["mos"] for one in report.details["listening"]}
    assert rows[0].startswith(f"{values[two['old'].digest]:.2f} (") and rows[1] == "–"
    assert rows[2].startswith(f"{values[two['new'].digest]:.2f} (")


def test_a_bundle_that_nobody_heard(heard: Store, voice: Callable[[int], Bundle]) -> None:
    report = evaluate(voice(9), TEXTS, metrics=["silence"])
    with pytest.raises(UsageError, match="was not made from this bundle"):
        with_listeners(report, heard)


@pytest.mark.parametrize(
    ("design", "message"),
    [(ACR, "no ratings of this bundle that count yet"), (Design("preference", "x", 0.1), "asked for preferences")],
)
def test_a_test_that_says_nothing_of_a_bundle_yet(
    tmp_path: Path, two: dict[str, Bundle], design: Design, message: str
) -> None:
    store = from_bundles(tmp_path / "t", design, two, TEXTS)
    store.invite()
    with pytest.raises(UsageError, match=message):
        with_listeners(evaluate(two["new"], TEXTS, metrics=["silence"]), store)
