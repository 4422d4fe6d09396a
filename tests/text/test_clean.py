import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text._clean import clean

ANY_CHARACTER = st.characters(exclude_categories=())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\r\ntwo\rthree\u2028four\x85five", "one\ntwo\nthree\nfour\nfive"),
        ("one\u2029two", "one\n\ntwo"),
        ("a\0b\x07c\x1bd", "a b c d"),
        ("zero\u200bwidth\ufeff so\u00adft \u202eleft", "zerowidth soft left"),
        ("cafe\u0301", "café"),
        ("a\ud800b", "a b"),
        ("\ud83d\ude00", "😀"),
        ("a\u200db", "ab"),
        ("a\tb", "a\tb"),
        ("private \ue000 \U000f0000", "private    "),
    ],
)
def test_cleans(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["می\u200cخواهم", "👩\u200d🔧", "❤️\u200d🔥", "क्\u200dष"])
def test_joiners_that_mean_something_stay(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFC", text)


@given(st.text(ANY_CHARACTER))
def test_any_string_becomes_encodable_and_clean_for_good(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert not {unicodedata.category(c) for c in cleaned if c not in "\n\t"} & {"Cc", "Cs", "Co"}
    assert clean(cleaned) == cleaned


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_what_can_be_spoken_stays(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFC", text.replace("\ufffd", " "))
