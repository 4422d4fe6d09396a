import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.errors import MissingDependency
from vivace.text import _words
from vivace.text._words import cardinal, digits, ordinal, plural, year


@pytest.mark.parametrize(
    ("number", "american", "british"),
    [
        ("0", "zero", "zero"),
        (
            "1,250.75",
            "one thousand two hundred fifty point seven five",
            "one thousand two hundred and fifty point seven five",
        ),
        ("105", "one hundred five", "one hundred and five"),
        ("1000000", "one million", "one million"),
        ("1" * 17, " ".join(["one"] * 17), " ".join(["one"] * 17)),
    ],
)
def test_cardinal(number: str, american: str, british: str) -> None:
    assert cardinal(number) == american
    assert cardinal(number, british=True) == british


def test_other_forms() -> None:
    assert digits("0042") == "zero zero four two"
    assert [ordinal(1), ordinal(22), ordinal(100), ordinal(101, british=True)] == [
        "first",
        "twenty-second",
        "one hundredth",
        "one hundred and first",
    ]
    assert [year(1984), year(1905), year(1900), year(2005), year(2024)] == [
        "nineteen eighty-four",
        "nineteen oh five",
        "nineteen hundred",
        "two thousand five",
        "twenty twenty-four",
    ]
    assert [plural(w) for w in ("eighty", "nineteen hundred", "six")] == ["eighties", "nineteen hundreds", "sixes"]


@given(st.integers(0, 10**20))
def test_numbers_become_words_without_digits_or_commas(number: int) -> None:
    words = cardinal(str(number))
    assert words.replace("-", " ").replace(" ", "").isalpha()


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    _words.ordinal.cache_clear()
    with pytest.raises(MissingDependency, match="num2words is not installed"):
        ordinal(3)
