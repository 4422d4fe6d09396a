"""A stream as its listener meets it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from vivace.core.bundle import Bundle
from vivace.core.errors import VivaceError
from vivace.core.speech import FIRST_CHUNK, LARGEST_CHUNK, Request, next_chunk
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors
from vivace.engine.engine import Engine
from vivace.workflows._streaming import listen

TEXT = "the quick brown fox jumps over the lazy dog. " * 4


class Slow:
    """Given to an engine as `wrap`: each run of the decoder lasts as long as `cost` says of its frames, on a clock
    that stands still otherwise."""

    def __init__(self, cost: Callable[[int], float]) -> None:
        self.now, self.cost = 0.0, cost

    def clock(self) -> float:
        return self.now

    def __call__(self, stage: Stage, session: Session) -> Session:
        slow = self

        class Slowed:
            def run(self, inputs: Tensors) -> dict[str, Array]:
                if stage.name == "decoder":
                    slow.now += slow.cost(inputs["latent"].shape[-1])
                return session.run(inputs)

            def close(self) -> None:
                session.close()

        return Slowed()


def heard(bundle: Bundle, cost: Callable[[int], float], text: str = TEXT, **fields: Any) -> Any:
    slow = Slow(cost)
    with Engine(bundle, RuntimeOptions(threads=1), wrap=slow) as engine:
        return listen(engine, Request("a", text, **fields), slow.clock)


def chunks(frames: int) -> list[int]:
    """Of the four equal sentences of TEXT."""
    sizes: list[int] = []
    for _ in range(4):
        rest = frames // 4
        while rest:
            sizes.append(min(rest, next_chunk(8, sum(sizes))))
            rest -= sizes[-1]
    return sizes


def test_an_instant_voice_is_never_waited_for(toy: Bundle) -> None:
    found = heard(toy, lambda frames: 0.0)
    frame = toy.defaults["hop"] / toy.sample_rate
    assert (found.ttfa, found.seconds, found.worst_gap) == (0.0, 0.0, 0.0)
    assert found.low == pytest.approx(FIRST_CHUNK * frame)
    assert found.audio > 4 * 32 * frame
    assert not found.underran


@pytest.mark.parametrize(("rtf", "underran"), [(0.2, False), (3.0, True)])
def test_a_voice_that_is_too_slow_is_noticed(toy: Bundle, rtf: float, underran: bool) -> None:
    """By hand: chunk after chunk, when it came and how much had been given before."""
    frame = toy.defaults["hop"] / toy.sample_rate
    costs: list[float] = []

    def cost(frames: int) -> float:
        costs.append(rtf * frames * frame)
        return costs[-1]

    found = heard(toy, cost, chunk_frames=8)
    assert found.underran is underran
    assert found.ttfa == pytest.approx(costs[0])
    assert found.gaps == pytest.approx(costs[1:])
    assert found.worst_gap == pytest.approx(max(costs[1:]))
    came = list(itertools.accumulate(costs))
    assert found.seconds == pytest.approx(came[-1])
    given = list(itertools.accumulate(chunks(round(found.audio / frame))))
    assert found.low == pytest.approx(min(g * frame - (c - came[0]) for g, c in zip(given, came[1:], strict=False)))


def test_a_text_of_one_chunk_cannot_underrun(toy: Bundle) -> None:
    found = heard(toy, lambda frames: 5.0, "a", chunk_frames=LARGEST_CHUNK)
    assert found.gaps == ()
    assert found.low == found.audio
    assert (found.ttfa, found.worst_gap) == (5.0, 0.0)


def test_what_cannot_be_spoken_is_an_error(toy: Bundle) -> None:
    with pytest.raises(VivaceError, match="no letter or digit"):
        heard(toy, lambda frames: 0.0, "!!!")
