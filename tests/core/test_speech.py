from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.errors import UsageError
from vivace.core.speech import LARGEST_CHUNK, MAX_CHARACTERS, Request, Row, next_chunk
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


def row(frames: int | None, *, done: bool, rendered: int = 0, held: int = 0, chunk: int = 0, before: int = 0) -> Row:
    made = None if frames is None else np.zeros((2, frames), np.float32)
    return Row(
        Request("id", "x", chunk_frames=chunk),
        np.zeros(1, np.int64),
        seeded(0),
        before,
        made,
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


@pytest.mark.parametrize(
    ("made", "due"),
    [
        (row(10, done=True), 10),
        (row(10, done=True, rendered=4), 6),
        (row(100, done=True, chunk=16), 16),
        (row(100, done=True, chunk=16, rendered=16), 32),
        (row(100, done=True, chunk=16, rendered=48), 52),
        (row(100, done=True, chunk=16, before=48), 64),  # a later sentence goes on growing
        (row(1000, done=True, chunk=16, before=10, rendered=9), 32),
        (row(100, done=False, chunk=16, before=16), 32),
    ],
)
def test_how_many_frames_are_due(made: Row, due: int) -> None:
    assert made.due == due


def test_a_row_that_streams_waits_for_its_whole_chunk() -> None:
    assert not row(31, done=False, chunk=16, before=16).speakable
    assert row(32, done=False, chunk=16, before=16).speakable


# --- the sizes of chunks ---


def test_chunks_double_up_to_a_limit() -> None:
    given, sizes = 0, []
    for _ in range(7):
        sizes.append(next_chunk(32, given))
        given += sizes[-1]
    assert sizes == [32, 64, 128, 256, 256, 256, 256]


@given(first=st.integers(1, 10**6), given_=st.integers(0, 10**6))
def test_a_chunk_is_never_longer_than_all_before_it_and_the_first(first: int, given_: int) -> None:
    size = next_chunk(first, given_)
    assert first <= size <= max(first, min(given_ + first, LARGEST_CHUNK))
    assert size % first == 0
    assert (size // first).bit_count() == 1, "few sizes: the first and its doubles"


def lows(first: int, sentences: list[int], rtf: float, fixed: float) -> list[float]:
    """What a listener who plays from the first chunk on still has to play when each later chunk comes, in frames.
    A chunk of n frames takes `rtf` x n + `fixed` frames of time."""
    lack = max(0, first - sentences[0])
    given, now, left = 0, 0.0, []
    for k, size in enumerate(sizes(first, sentences)):
        if k:
            now += rtf * size + fixed
            left.append(given - now)
            assert left[-1] >= (1 - 2 * rtf) * given - rtf * lack - k * fixed - 1e-6
        given += size
    return left


@given(
    first=st.integers(1, 100),
    begin=st.integers(0, 3000),
    rest=st.lists(st.integers(1, 3000), max_size=30),
    rtf=st.floats(0, 0.4),
    share=st.floats(0, 1),
)
def test_a_listener_never_waits(first: int, begin: int, rest: list[int], rtf: float, share: float) -> None:
    """For any sentences of which the first fills a chunk, if a chunk's fixed cost is at most (1 - 2 RTF) of the mean
    chunk given so far. Where no sentence is shorter than the first chunk, no such mean is below half of that chunk."""
    sentences = [first + begin, *rest]
    given, means = 0, []
    for size in sizes(first, sentences):
        given += size
        means.append(given / (len(means) + 1))
    assert min(lows(first, sentences, rtf, share * (1 - 2 * rtf) * min(means)), default=0) >= -1e-6
    if min(sentences) >= first:
        assert min(means) >= first / 2


@given(st.integers(1, 100), st.lists(st.integers(1, 300), min_size=1), st.floats(0, 0.4), st.floats(0, 99))
def test_the_bound_holds_for_any_sentences(first: int, sentences: list[int], rtf: float, fixed: float) -> None:
    """What is left is at least (1 - 2 RTF) of what was given, less the fixed costs and RTF times what a short first
    sentence lacks of the first chunk (asserted inside)."""
    lows(first, sentences, rtf, fixed)


def sizes(first: int, sentences: list[int]) -> list[int]:
    found: list[int] = []
    for sentence in sentences:
        rest = sentence
        while rest:
            found.append(min(next_chunk(first, sum(found)), rest))
            rest -= found[-1]
    return found


def test_a_larger_fixed_cost_would_be_heard() -> None:
    """The bound is needed: the simulation can fail."""
    assert min(lows(32, [33, 500, 500], 0.4, 0.21 * 32)) < 0 < min(lows(32, [33, 500, 500], 0.4, 0.09 * 32))
