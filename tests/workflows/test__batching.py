from __future__ import annotations

import itertools

import pytest

from vivace.workflows._batching import time_batches, verdict


def row(batch, throughput, gain, low, ms=100.0):
    return {"batch": batch, "throughput": throughput, "ms": ms, "gain": {"value": gain, "low": low, "high": gain}}


def test_every_batch_is_timed(tiny):
    told = []
    found = time_batches(tiny, 1, "abc.", (1, 3), 6, lambda message, share: told.append(share))
    one, three = found["rows"]
    assert (one["batch"], three["batch"]) == (1, 3)
    assert three["audio_seconds"] == pytest.approx(3 * one["audio_seconds"])
    assert one["gain"]["value"] == one["gain"]["low"] == 1.0
    assert three["gain"]["n"] == 6
    assert three["throughput"] == pytest.approx(1000 * three["audio_seconds"] / three["ms"])
    assert told[-1] == 1.0
    assert found["verdict"].startswith("Batching")


def test_what_each_text_waits_and_holds(fast_steps):
    one, four = time_batches(fast_steps, 1, "some words.", (1, 4), 2, lambda message, share: None)["rows"]
    assert one["latency_p50_ms"] <= one["latency_p95_ms"] <= one["ms"] * 3
    assert one["steps"] == four["steps"] == 48  # together in each
    for row in (one, four):
        assert row["audio_seconds"] == pytest.approx(row["batch"] * 48 * 32 / 8000)
        assert row["steps_per_second"] * row["ms"] == pytest.approx(1000 * row["steps"])
        assert row["frames_per_second"] == pytest.approx(row["steps_per_second"] * row["batch"])
        assert row["rtf"] == pytest.approx(row["ms"] / 1000 / row["audio_seconds"])
        # Room for 64 frames and for 64 tokens in two layers, keys and values of 32 floats.
        assert row["cache_mb_per_text"] == pytest.approx(2 * 64 * 2 * 2 * 32 * 4 / 1e6)


def test_a_model_without_steps_has_no_steps(tiny):
    (row,) = time_batches(tiny, 1, "abc.", (1,), 1, lambda message, share: None)["rows"]
    assert "steps" not in row
    assert "cache_mb" not in row


def test_nobody_waits_for_ever(tiny):
    """On a clock on which each look takes 8 seconds, one round is longer than the patience."""
    ticks = itertools.count(0, 8)
    slow = time_batches(tiny, 1, "abc. abc.", (1, 2, 4), 5, lambda message, share: None, clock=lambda: next(ticks))
    assert [row["batch"] for row in slow["rows"]] == [1]
    assert slow["left_out"] == [2, 4]
    assert slow["rows"][0]["gain"]["n"] == 1  # the first round, which else warms up
    assert slow["verdict"] == "Only one batch size was measured."
    quick = time_batches(tiny, 1, "abc.", (1, 2), 5, lambda message, share: None, clock=lambda: next(ticks) / 1e6)
    assert quick["left_out"] == []
    assert quick["rows"][1]["gain"]["n"] == 5


@pytest.mark.parametrize(
    ("gain", "low", "words"),
    [
        (1.5, 1.3, "Batching pays"),
        (1.5, 0.9, "Batching does not pay"),
        (1.1, 1.05, "Batching does not pay"),
        (1.5, None, "Too few runs"),
    ],
)
def test_batching_pays_only_with_a_sure_and_sizeable_gain(gain, low, words):
    said = verdict([row(1, 10.0, 1.0, 1.0), row(4, 10.0 * gain, gain, low, 260.0), row(8, 9.0, 0.9, 0.8)])
    assert said.startswith(words)
    assert f"{gain:.2f}x" in said
    assert "2.6x the wait" in said


def test_one_batch_size_says_nothing():
    assert verdict([row(1, 10.0, 1.0, 1.0)]) == "Only one batch size was measured."
