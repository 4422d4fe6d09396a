from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vivace.core.speech import Request
from vivace.core.stage import Array, seeded
from vivace.engine.sequence import Sequence

UTTERANCES = [np.array([1, 2]), np.array([3])]


def test_goes_through_its_utterances_in_order() -> None:
    sequence = Sequence(Request("id", "x"))
    assert sequence.start(UTTERANCES)
    assert sequence.status == "running"
    assert sequence.row is not None
    assert sequence.row.tokens is UTTERANCES[0]
    assert sequence.next_row()
    assert sequence.row.tokens is UTTERANCES[1]
    assert not sequence.next_row()
    assert sequence.row is None


def test_nothing_to_take_up() -> None:
    sequence = Sequence(Request("id", "x"))
    assert not sequence.start([])
    assert sequence.row is None


def test_utterances_are_read_one_by_one() -> None:
    read = []

    def utterances() -> Iterator[Array]:
        for tokens in UTTERANCES:
            read.append(tokens)
            yield tokens

    sequence = Sequence(Request("id", "x"))
    sequence.start(utterances())
    assert len(read) == 1
    sequence.next_row()
    assert len(read) == 2


def test_a_row_knows_how_many_frames_came_before_it() -> None:
    sequence = Sequence(Request("id", "x"))
    sequence.start([UTTERANCES[0]] * 3)
    before = []
    for frames in (5, 7, 2):
        assert sequence.row
        before.append(sequence.row.before)
        sequence.row.frames = np.zeros((2, frames), np.float32)
        sequence.next_row()
    assert before == [0, 5, 12]


def test_each_utterance_has_its_own_noise_by_seed_and_place() -> None:
    def noise(seed: int) -> list[list[float]]:
        sequence = Sequence(Request("id", "x", seed=seed))
        sequence.start(UTTERANCES)
        drawn = []
        while sequence.row:
            drawn.append(sequence.row.rng.standard_normal(4).tolist())
            sequence.next_row()
        return drawn

    assert noise(7) == noise(7)
    assert noise(7) == [seeded(7, place).standard_normal(4).tolist() for place in (0, 1)]
    assert noise(7)[0] != noise(7)[1]
    assert noise(7)[0] != noise(8)[0]
