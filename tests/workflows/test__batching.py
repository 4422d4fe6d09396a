from __future__ import annotations

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
    assert three["throughput"] == pytest.approx(1000 * three["audio_seconds"] / three["ms"], rel=0.2)
    assert told[-1] == 1.0
    assert found["verdict"].startswith("Batching")


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
