import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core.errors import MissingDependency
from vivace.engine.runner import FIRST_WORDS
from vivace.text import _sentences
from vivace.text._clean import clean
from vivace.text._sentences import BLOCK, LIMIT, blocks, paragraphs

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


def split(*args: Any, **more: Any) -> list[str]:
    return list(_sentences.split(*args, **more))


def solid(text: str) -> str:
    return "".join(text.split())


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "Etc", "don't", "I", "Mr", "well-made", "\u00e9t\u00e9", "p", "VIII", "No"]), min_size=1
    ),
    st.data(),
)
def test_what_is_plainly_one_sentence_is_one_for_pysbd_in_every_language(words: list[str], data: Any) -> None:
    from pysbd.languages import LANGUAGE_CODES

    marks = st.sampled_from(["", "", ","])
    text = (
        " ".join(word + data.draw(marks) for word in words[:-1]) + " " + words[-1] + data.draw(st.sampled_from(".!? "))
    )
    text = text.strip()
    assert _sentences._ONE_SENTENCE.fullmatch(text)
    assert not _sentences._ONE_SENTENCE.fullmatch(FIRST_WORDS)  # which are to load what sentences are parted by
    for language in LANGUAGE_CODES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_sentences, "_ONE_SENTENCE", re.compile("(?!)"))
            assert _sentences._ends(text, language) == [len(text)], language


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


def test_sentences_are_found_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    ends = _sentences._ends

    def noting(window: str, language: str) -> list[int]:
        seen.append(window)
        return ends(window, language)

    monkeypatch.setattr(_sentences, "_ends", noting)
    assert next(_sentences.split("A plain sentence stands here. " * 1000)) == "A plain sentence stands here."
    assert len(seen) == 1
    assert len(seen[0]) <= 2 * LIMIT


@given(PROSE, st.integers(1, 300))
def test_blocks_are_the_paragraph(text: str, size: int) -> None:
    for paragraph in paragraphs(text):
        found = list(blocks(paragraph, size))
        assert " ".join(found).strip() == paragraph
        assert all(len(block) > size for block in found[:-1])


def test_a_block_ends_where_a_sentence_surely_does() -> None:
    text = "I met Prof. Smith. He was approx. Ten years older. The weather was terrible. So nobody came. "
    paragraph = (text * 40).strip()
    found = list(blocks(paragraph))
    assert len(found) == 4
    assert all(BLOCK < len(block) < BLOCK + 2 * len(text) for block in found[:-1])
    assert {block.split(". ")[-1] for block in found[:-1]} == {"The weather was terrible."}
    assert [s for block in found for s in split(block)] == split(paragraph)
    assert list(blocks("")) == [""]
    assert list(blocks("a. " * 1000)) == ["a. " * 1000]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysbd", None)
    with pytest.raises(MissingDependency, match="pysbd is not installed"):
        split("One. Two.")
