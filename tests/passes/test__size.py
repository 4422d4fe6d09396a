from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.passes._size import UNKNOWN, Atom, Size, broadcast, total

NAMES = ("batch", "frames", f"{UNKNOWN}found)")


def value(size: Size, dims: dict[str, int]) -> int:
    """The number that a size has where dimensions have these values; a broadcast dimension is its largest."""

    def atom(names: Atom) -> int:
        return max(dims[name] for name in names)

    found = 0
    for factors, coefficient in size.terms:
        for factor in factors:
            coefficient *= atom(factor)
        found += coefficient
    return found


sizes = st.recursive(
    st.one_of(st.integers(-5, 5).map(Size.of), st.sampled_from(NAMES).map(Size.named)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
    ),
    max_leaves=6,
)
dims = st.fixed_dictionaries({NAMES[0]: st.integers(1, 5), NAMES[1]: st.integers(1, 9), NAMES[2]: st.integers(0, 9)})


@given(a=sizes, b=sizes, at=dims)
def test_arithmetic_is_that_of_the_numbers(a: Size, b: Size, at: dict[str, int]) -> None:
    x, y = value(a, at), value(b, at)
    assert value(a + b, at) == x + y
    assert value(a - b, at) == x - y
    assert value(a * b, at) == x * y
    assert value(-a, at) == -x
    assert (a + b) * a == a * b + a * a  # equal sizes are equal objects, however they came about


@given(a=sizes, b=sizes, at=dims)
def test_what_is_proven_holds(a: Size, b: Size, at: dict[str, int]) -> None:
    if a.never_negative():
        assert value(a, at) >= 0
    quotient = a // b
    if quotient is not None and value(b, at):
        assert value(quotient, at) * value(b, at) == value(a, at)
    if a.constant is not None:
        assert a.constant == value(a, at)


def test_what_is_provable_is_proven() -> None:
    frames, found = Size.named("frames"), Size.named(NAMES[2])
    assert (frames * 2 - 1).never_negative()
    assert (frames * frames - frames).never_negative()
    assert not (found - 1).never_negative()
    assert not (Size.named("frames", NAMES[2]) - 1).never_negative()  # the unknown one may be empty
    assert (frames * 6) // (frames * 2) == Size.of(3)
    assert frames // Size.of(2) is None
    assert frames // (frames + 1) is None
    assert (frames - frames).constant == 0
    assert str(frames * 2 - 1) == "-1+2*frames"


def test_broadcast() -> None:
    batch, frames, one = Size.named("batch"), Size.named("frames"), Size.of(1)
    assert broadcast([one, one]) == one
    assert broadcast([one, frames]) == broadcast([frames, frames]) == frames
    assert broadcast([Size.of(7), frames]) == Size.of(7)
    assert broadcast([batch, frames]) == Size.named("frames", "batch")
    assert broadcast([broadcast([batch, frames]), batch]) == broadcast([batch, frames])
    assert broadcast([batch, frames + 1]) not in (batch, frames + 1)
    assert total([batch, frames, Size.of(2)]) == batch * frames * 2
    assert total([]) == one
