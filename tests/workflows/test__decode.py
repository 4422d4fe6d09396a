from __future__ import annotations

from dataclasses import replace

import pytest

from vivace.workflows import profile as workflow
from vivace.workflows._ceiling import Ceiling
from vivace.workflows._decode import takes_cache
from vivace.workflows.profile import profile

TEXTS = {"short": "a.", "medium": "some words.", "long": "some more words than before."}


@pytest.fixture(scope="module")
def found(fast_steps, slow_steps):
    """The profiles with and without a cache; neither the machine nor a child process is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "ceiling", lambda *_, **__: Ceiling({"fp32": 1e6, "int8": 4e6}, 1e6, 1))
        patch.setattr(workflow, "peak_memory", lambda bundle, text, threads, together=1: (50.0, 60.0 + together))
        patch.setattr(workflow, "COUNTED", 12)  # of 48 steps
        return {b.path.name: profile(b, texts=TEXTS, batches=(3, 1), runs=2) for b in (fast_steps, slow_steps)}


def test_the_parts_have_the_names_of_the_field_and_add_up(found):
    for report in found.values():
        parts = report.details["parts"]
        assert [p["name"] for p in parts] == ["text to tokens", "encode_text", "decode", "vocoder", "engine"]
        assert sum(p["share"] for p in parts) == pytest.approx(1.0)
        assert (parts[2]["calls"], parts[2]["counted_every"]) == (48, 4)
        assert parts[1]["counted_every"] == 1
        assert set(report.details["lengths"][0]["parts_ms"]) == {p["name"] for p in parts}
        assert report.get("share/decode").unit == "%"
    assert [p.get("stage") for p in found["fast"].details["parts"]] == [None, "encoder", "step", "vocoder", None]


def test_without_a_cache_the_steps_compute_more_and_the_cache_is_named(found):
    fast, slow = (found[name].details for name in ("fast", "slow"))
    assert (fast["decode"]["pass"], slow["decode"]["pass"]) == (None, "kv_cache")
    assert (fast["decode"]["stage"], slow["decode"]["stage"]) == ("step", "prefix")
    # All frames before and the new one, of which there are 24.5 in the mean; only the text's share is not done anew.
    assert slow["parts"][2]["macs"] > 15 * fast["parts"][2]["macs"]
    assert not any("kv_cache" in sentence for sentence in fast["bottlenecks"])


def test_every_step_lies_in_a_stretch(found):
    for report in found.values():
        decode = report.details["decode"]
        assert sum(row["steps"] for row in decode["by_prefix"]) == 48
        frames = [row["frames"] for row in decode["by_prefix"]]
        assert frames == sorted(frames)
        assert frames[-1] == decode["frames"] < 48
        assert report.get("step/growth").value == decode["ms_per_100_frames"]


def test_three_texts_in_every_batch(found):
    details = found["fast"].details
    rows = details["decode"]["batches"]
    assert [(row["text"], row["batch"]) for row in rows] == [(text, b) for text in TEXTS for b in (1, 3)]
    assert rows[2:4] == [{"text": "medium", "characters": 11, **row} for row in details["batches"]]
    assert [row.get("peak_mb") for row in rows] == [None, None, 61.0, 63.0, None, None]
    assert all(row["cache_mb_per_text"] * row["batch"] == pytest.approx(row["cache_mb"]) for row in rows)
    assert found["fast"].get("cache", "long text, batch 3, 1 thread").value == rows[5]["cache_mb_per_text"]
    assert found["fast"].settings["batches"] == [1, 3]


def test_batches_and_texts_follow_the_model(monkeypatch, fast_steps, tiny):
    asked = []

    def stop(bundle, threads, said, *rest):
        asked.append(len(said))
        raise InterruptedError

    monkeypatch.setattr(workflow, "ceiling", lambda *_, **__: None)
    monkeypatch.setattr(workflow, "_load_times", lambda *_: [])
    monkeypatch.setattr(workflow, "_read", stop)
    for bundle in (fast_steps, tiny):
        with pytest.raises(InterruptedError):
            profile(bundle)
    assert asked == [3, 6]


def test_what_is_left_out_is_told(monkeypatch, fast_steps):
    monkeypatch.setattr(workflow, "ceiling", lambda *_, **__: Ceiling({"fp32": 1e6}, 1e6, 1))
    monkeypatch.setattr(workflow, "peak_memory", lambda *_: (50.0, 60.0))
    monkeypatch.setattr(workflow, "PATIENCE", 0.0)
    monkeypatch.setattr("vivace.workflows._batching.PATIENCE", 0.0)
    report = profile(fast_steps, texts={"medium": "some words."}, batches=(1, 8, 16), runs=3)
    notes = " ".join(report.details["notes"])
    assert "medium text: 8 and 16 texts together were left out" in notes
    assert "Each text was read once instead of 3 times" in notes
    assert report.details["lengths"][0]["n"] == 1


def test_a_family_that_has_no_cache_is_given_none(make_toy, slow_steps):
    toy = make_toy(steps=3)
    assert not takes_cache(toy, toy.stages[1])
    loop = slow_steps.stage("prefix")
    assert takes_cache(slow_steps, loop)
    assert not takes_cache(slow_steps, replace(loop, loop="once"))
