"""Numbers as English words, by num2words; `british` voices say "two hundred and five", American ones do not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from vivace.core.errors import MissingDependency

MOST_DIGITS = 15  # one quadrillion: nobody wants to hear more digits than that as one number


@lru_cache(maxsize=4096)
def cardinal(number: str, british: bool = False) -> str:
    """ "1,250.75" -> "one thousand two hundred fifty point seven five"; more than `MOST_DIGITS` go digit by digit."""
    whole, _, decimals = number.replace(",", "").partition(".")
    words = digits(whole) if len(whole) > MOST_DIGITS else _num2words(int(whole), british)
    return f"{words} point {digits(decimals)}" if decimals else words


def digits(number: str) -> str:
    """ "0042" -> "zero zero four two"."""
    return " ".join(_num2words(int(digit), False) for digit in number)


@lru_cache(maxsize=4096)
def ordinal(number: int, british: bool = False) -> str:
    """21 -> "twenty-first"."""
    return _num2words(number, british, to="ordinal")


@lru_cache(maxsize=4096)
def year(number: int, british: bool = False) -> str:
    """1905 -> "nineteen oh five", 2005 -> "two thousand five"."""
    return _num2words(number, british, to="year").replace("oh-", "oh ")


def plural(words: str) -> str:
    """ "nineteen eighty" -> "nineteen eighties"."""
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def _num2words(number: int, british: bool, **form: Any) -> str:
    try:
        from num2words import num2words
    except ImportError:
        raise MissingDependency("num2words", "piper") from None
    words = str(num2words(number, **form)).replace(",", "")
    return words if british else words.replace(" and ", " ")
