from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.core.stage import seeded

paths = st.lists(st.integers(0, 1000), max_size=3)


@given(st.integers(0, 2**64), paths)
def test_the_same_seed_draws_the_same_noise(seed: int, path: list[int]) -> None:
    first, second = seeded(seed, *path), seeded(seed, *path)
    assert (first.standard_normal(8) == second.standard_normal(8)).all()


@given(st.tuples(st.integers(0, 99), st.integers(0, 99)), st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_another_seed_or_place_draws_other_noise(one: tuple[int, int], other: tuple[int, int]) -> None:
    same = (seeded(*one).standard_normal(8) == seeded(*other).standard_normal(8)).all()
    assert same == (one == other)
