"""Sizes that are not known until a model runs: polynomials with integer coefficients over named dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

Atom = frozenset[str]  # one named dimension, or what several dimensions broadcast to
UNKNOWN = "("  # names that start with it may be 0; every other named dimension is at least 1


@dataclass(frozen=True)
class Size:
    """A sum of products of named dimensions; `terms` are (sorted factors, coefficient), none of them zero."""

    terms: frozenset[tuple[tuple[Atom, ...], int]]

    @staticmethod
    def of(value: int) -> Size:
        return _size([((), int(value))])

    @staticmethod
    def named(*names: str) -> Size:
        """One dimension, or the one that several dimensions broadcast to."""
        return _size([((frozenset(names),), 1)])

    @property
    def constant(self) -> int | None:
        """The number, if nothing unknown is in it."""
        if not self.terms:
            return 0
        (factors, value), *rest = self.terms
        return value if not factors and not rest else None

    def __add__(self, other: Size | int) -> Size:
        return _size([*self.terms, *_as_size(other).terms])

    def __neg__(self) -> Size:
        return _size([(factors, -value) for factors, value in self.terms])

    def __sub__(self, other: Size | int) -> Size:
        return self + -_as_size(other)

    def __mul__(self, other: Size | int) -> Size:
        pairs = product(self.terms, _as_size(other).terms)
        return _size([(_sorted((*a, *b)), x * y) for (a, x), (b, y) in pairs])

    def __floordiv__(self, other: Size) -> Size | None:
        """The quotient if `other` is a single product that divides every term, else None."""
        if len(other.terms) != 1:
            return None
        (factors, divisor), *_ = other.terms
        found = []
        for term, value in self.terms:
            left = list(term)
            for factor in factors:
                if factor not in left:
                    return None
                left.remove(factor)
            if value % divisor:
                return None
            found.append((tuple(left), value // divisor))
        return _size(found)

    def never_negative(self) -> bool:
        """Whether the size is proven to be 0 or more: with every dimension written as its least value plus the rest,
        no coefficient is negative."""
        shifted = Size.of(0)
        for factors, value in self.terms:
            term = Size.of(value)
            for atom in factors:
                least = 0 if any(name.startswith(UNKNOWN) for name in atom) else 1
                term = term * (_size([((atom,), 1)]) + least)
            shifted = shifted + term
        return all(value >= 0 for _, value in shifted.terms)

    def __str__(self) -> str:
        parts = sorted("*".join([str(value), *("|".join(sorted(a)) for a in factors)]) for factors, value in self.terms)
        return "+".join(parts) or "0"


def broadcast(sizes: Iterable[Size]) -> Size:
    """What these sizes, of one axis, broadcast to in a run without error."""
    wide = {size for size in sizes if size.constant != 1}
    if not wide:
        return Size.of(1)
    if len(wide) == 1:
        return wide.pop()
    fixed = [size for size in wide if size.constant is not None]
    if fixed:
        return fixed[0]  # a fixed size other than 1 wins: the unknown ones must be 1 or equal to it
    names: set[str] = set()
    for size in wide:
        (factors, value), *rest = size.terms
        names |= factors[0] if not rest and value == 1 and len(factors) == 1 else {f"{UNKNOWN}{size})"}
    return Size.named(*names)


def total(sizes: Iterable[Size]) -> Size:
    found = Size.of(1)
    for size in sizes:
        found = found * size
    return found


def _as_size(value: Size | int) -> Size:
    return value if isinstance(value, Size) else Size.of(value)


def _sorted(factors: tuple[Atom, ...]) -> tuple[Atom, ...]:
    return tuple(sorted(factors, key=sorted))


def _size(terms: Iterable[tuple[tuple[Atom, ...], int]]) -> Size:
    summed: dict[tuple[Atom, ...], int] = {}
    for factors, value in terms:
        summed[factors] = summed.get(factors, 0) + value
    return Size(frozenset((factors, value) for factors, value in summed.items() if value))
