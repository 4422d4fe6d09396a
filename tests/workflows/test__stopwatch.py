from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.errors import VivaceError
from vivace.core.speech import Request
from vivace.engine.engine import Engine
from vivace.workflows import _stopwatch
from vivace.workflows._stopwatch import (
    ENGINE,
    TOKENS,
    Span,
    Stopwatch,
    Timed,
    interval,
    loop_stage,
    part_names,
    read_all,
)


def test_the_parts_of_a_reading_add_up(tiny):
    timed = Timed(tiny, 1)
    with timed.engine:
        timed.read("One. Two. Three.")
        reading = timed.read("abc. defg.")
    assert list(reading.parts) == [TOKENS, "text", "decoder", ENGINE]
    assert sum(reading.parts.values()) == pytest.approx(reading.seconds)
    assert min(reading.parts.values()) > 0
    assert reading.calls == {"text": 2, "decoder": 2}
    assert reading.waited >= 0
    assert reading.audio == pytest.approx((3 + 5) * 3 * 16 / 8000)


def test_all_of_the_text_is_the_text(tiny, monkeypatch):
    """Also what is read when earlier sentences are spoken."""
    ticks = itertools.count()
    monkeypatch.setattr(_stopwatch, "Stopwatch", lambda: Stopwatch(lambda: float(next(ticks))))
    timed = Timed(tiny, 1)
    with timed.engine:
        reading = timed.read("abc. defg.")
    # A tick at each end of a phase or a run: both sentences, and the search for a third.
    assert reading.parts == {TOKENS: 3.0, "text": 2.0, "decoder": 2.0, ENGINE: reading.seconds - 7}
    assert reading.steps == ()


def test_every_step_has_the_frames_before_it(make_toy):
    timed = Timed(make_toy(steps=3), 1)
    with timed.engine:
        reading = timed.read("one text. and another one.")
    assert list(reading.parts) == [TOKENS, "encode_text", "decode", "decoder", ENGINE]
    assert reading.calls == {"encode_text": 2, "decode": 6, "decoder": 2}
    frames = [frames for frames, _ in reading.steps]
    assert frames[0] == frames[3] == 0  # each sentence begins anew
    assert 0 < frames[1] < frames[2]
    assert sum(seconds for _, seconds in reading.steps) == pytest.approx(reading.parts["decode"])


def test_a_step_that_fails_has_ended_too():
    ticks = itertools.count()
    watch = Stopwatch(lambda: float(next(ticks)))
    with pytest.raises(ValueError, match="fault"), watch.phase("advance", ()):
        raise ValueError("fault")
    assert watch.phases == [Span("advance", 0.0, 1.0)]


def test_parts_have_the_names_of_the_field(toy, make_toy):
    assert part_names(toy) == {stage.name: stage.name for stage in toy.stages}
    assert loop_stage(toy) is None
    stepwise = make_toy(steps=3)
    assert list(part_names(stepwise).values()) == ["encode_text", "decode", "decoder"]
    alone = replace(stepwise, stages=stepwise.stages[1:])
    assert list(part_names(alone).values()) == ["decode", "decoder"]


def test_where_the_system_does_not_tell_nobody_waited(tiny, monkeypatch):
    monkeypatch.setattr(_stopwatch, "SCHEDSTAT", Path("/nowhere"))
    timed = Timed(tiny, 1)
    with timed.engine:
        assert timed.read("abc.").waited == 0


def test_waiting_is_read_from_the_system(tiny, monkeypatch, tmp_path):
    (tmp_path / "schedstat").write_text("99 1500000000 7\n", encoding="utf-8")
    monkeypatch.setattr(_stopwatch, "SCHEDSTAT", tmp_path / "schedstat")
    assert _stopwatch.waited_for_a_core() == 1.5


def test_requests_are_read_together(tiny):
    with Engine(tiny, max_batch=2) as engine:
        assert read_all(engine, [Request("a", "abc"), Request("b", "abcd")]) == pytest.approx(7 * 3 * 16 / 8000)


def test_a_text_that_cannot_be_spoken_is_an_error(tiny):
    with Engine(tiny) as engine, pytest.raises(VivaceError, match="nothing to say"):
        read_all(engine, [Request("a", ". .")])


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=60))
def test_the_interval_holds_the_true_median_with_95_percent(values):
    found = interval(values)
    n = len(values)
    assert found["value"] == statistics.median(values)
    assert found["n"] == n
    assert (found["low"] is None) == (n < 6)
    if n >= 6:
        ordered = sorted(values)
        assert found["low"] <= found["value"] <= found["high"]
        # The widest cut whose two tails of the sign test stay within 5%.
        cut = max(k for k in range(1, n) if 2 * sum(math.comb(n, j) for j in range(k)) / 2**n <= 0.05)
        assert (found["low"], found["high"]) == (ordered[cut - 1], ordered[n - cut])
