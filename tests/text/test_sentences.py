import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core.errors import MissingDependency
from vivace.text._clean import clean
from vivace.text._sentences import LIMIT, paragraphs, split

PROSE = st.lists(
    st.sampled_from(
        [
            "word",
            "Dr.",
            "no.",
            "e.g.",
            "end.",
            "What?!",
            '"Go!"',
            "3.5",
            "1.",
            "(a)",
            "…",
            "\n",
            "\n\n",
            "x" * 90,
            "é",
            "a.b",
        ]
        + ["क्ष", "中文。", "😀", "—", "ends,", ";", "∯", "☝", "&ᓰ&", "ȸ"]
    ),
    max_size=200,
).map(" ".join)


def solid(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith left. She did not.", ["Dr. Smith left.", "She did not."]),
        ("It cost 3.50 dollars. Fine.", ["It cost 3.50 dollars.", "Fine."]),
        ("hello there. how are you?", ["hello there.", "how are you?"]),
        ("a line\nthat goes on", ["a line that goes on"]),
        ("a title\n\nA sentence", ["a title", "A sentence"]),
        ("no full stop", ["no full stop"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_english(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_languages() -> None:
    assert split("Das ist z.B. gut. Ja.", "de") == ["Das ist z.B. gut.", "Ja."]
    assert split("你好。再见！", "zh") == ["你好。", "再见！"]
    assert split("Um. Dois.", "pt-br") == ["Um.", "Dois."]


def test_text_that_pysbd_takes_for_a_pattern() -> None:
    assert split("Das ist z+b und z.b. so. Ja!", "de") == ["Das ist z+b und z.b.", "so.", "Ja!"]


@settings(deadline=None)
@given(PROSE | st.text(), st.sampled_from(["en", "de", "ja", "xx", ""]), st.integers(4, 80))
def test_nothing_is_lost_and_every_piece_is_bounded(text: str, language: str, limit: int) -> None:
    pieces = split(text, language, limit)
    assert solid("".join(pieces)) == solid(text)
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert all(piece == piece.strip() for piece in pieces)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=3000))
def test_nothing_is_lost_of_cleaned_text(text: str) -> None:
    cleaned = clean(text)
    assert solid("".join(split(cleaned))) == solid(cleaned)


@pytest.mark.parametrize(
    "text",
    [
        "word " * 4000,
        "a" * 20_000,
        "A. " * 6666,
        "a.b." * 5000,
        "(" * 20_000,
        "1. " * 6666,
        "中" * 20_000,
        "😀 " * 9999,
    ],
)
def test_twenty_thousand_characters_keep_their_last_word(text: str) -> None:
    pieces = split(text + " end")
    assert solid("".join(pieces)) == solid(text + "end")
    assert max(map(len, pieces)) <= LIMIT
    assert pieces[-1].endswith("end")


def test_a_long_sentence_is_cut_at_clauses_then_at_spaces() -> None:
    clauses = "the first clause runs on, " * 40
    assert all(piece.endswith(",") for piece in split(clauses + "and ends")[:-1])
    words = "several plain words " * 60
    assert {piece.split()[-1] for piece in split(words)} <= {"several", "plain", "words"}


def test_no_cut_inside_a_combining_or_emoji_sequence() -> None:
    for sequence in ("e\u0323\u0302", "👩\u200d🔧", "👍🏽", "🇩🇪"):
        for piece in split(sequence * 300, limit=50)[:-1]:
            assert len(piece) % len(sequence) == 0, sequence
    endless = "a" + "\u0301" * 1200
    assert max(map(len, split(unicodedata.normalize("NFC", endless)))) <= LIMIT


def test_paragraphs() -> None:
    assert paragraphs(" a\nb \n \n\nc\td ") == ["a b", "c d"]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysbd", None)
    with pytest.raises(MissingDependency, match="pysbd is not installed"):
        split("One. Two.")
