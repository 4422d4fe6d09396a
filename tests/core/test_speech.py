from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.errors import UsageError
from vivace.core.speech import MAX_CHARACTERS, Request, Row
from vivace.core.stage import seeded

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("speed", value) for value in (0.0, 0.09, 10.1, -1.0, NAN, INF)]
    + [("noise_scale", value) for value in (-0.1, 5.1, NAN, INF)]
    + [("noise_w", value) for value in (-0.1, NAN)]
    + [("seed", -1), ("chunk_frames", -1)]
    + [("max_seconds", value) for value in (0.0, -1.0, NAN, INF)],
)
def test_a_value_outside_its_range_is_named(field: str, wrong: float) -> None:
    with pytest.raises(UsageError, match=field):
        Request("id", "text", **{field: wrong})


def test_the_longest_text_is_allowed_and_one_more_is_not() -> None:
    Request("id", "x" * MAX_CHARACTERS)
    with pytest.raises(UsageError, match="200,001 characters"):
        Request("id", "x" * (MAX_CHARACTERS + 1))


@given(
    speed=st.floats(0.1, 10),
    noise=st.none() | st.floats(0, 5),
    seed=st.integers(0, 2**128),
    chunk=st.integers(0, 10**9),
    seconds=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
)
def test_every_value_inside_its_range_is_taken(
    speed: float, noise: float | None, seed: int, chunk: int, seconds: float
) -> None:
    request = Request(
        "id", "", speed=speed, noise_scale=noise, noise_w=noise, seed=seed, chunk_frames=chunk, max_seconds=seconds
    )
    assert request.speed == speed
    seeded(request.seed, 0)


def row(frames: int | None, *, done: bool, rendered: int = 0, held: int = 0, chunk: int = 0) -> Row:
    made = None if frames is None else np.zeros((2, frames), np.float32)
    return Row(
        Request("id", "x", chunk_frames=chunk),
        np.zeros(1, np.int64),
        seeded(0),
        frames=made,
        done=done,
        rendered=rendered,
        held=held,
    )


def test_a_row_is_finished_when_it_is_done_and_rendered() -> None:
    assert not row(None, done=False).finished
    assert not row(5, done=True).finished
    assert not row(5, done=False, rendered=5).finished
    assert row(5, done=True, rendered=5).finished
    assert row(0, done=True).finished


@pytest.mark.parametrize(
    ("made", "speakable"),
    [
        (row(None, done=False), False),
        (row(10, done=False), False),  # a whole utterance waits for its end
        (row(10, done=True), True),
        (row(10, done=True, rendered=10), False),
        (row(10, done=False, chunk=10), True),
        (row(10, done=False, chunk=11), False),
        (row(10, done=False, chunk=8, held=3), False),  # its right context is still to come
        (row(10, done=False, chunk=7, held=3), True),
        (row(2, done=False, chunk=1, held=3), False),
        (row(10, done=True, chunk=100, held=3), True),
        (row(10, done=True, chunk=4, rendered=8, held=3), True),
    ],
)
def test_when_a_row_can_be_spoken(made: Row, speakable: bool) -> None:
    assert made.speakable == speakable
