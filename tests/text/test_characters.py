import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core import registry
from vivace.core.errors import ModelError, TextError
from vivace.text import characters

LETTERS: dict[str, Any] = {"characters": ["<pad>", *string.ascii_lowercase, " ", ".", "?"], "lowercase": True}


def tokens(text: str, voice: dict[str, Any]) -> list[list[int]]:
    return list(characters.tokens(text, voice))


def spelled(ids: list[int], voice: dict[str, Any] = LETTERS) -> str:
    return "".join(voice["characters"][i] for i in ids)


def test_an_id_is_a_place_in_the_list() -> None:
    assert tokens("cab", {"characters": ["a", "b", "c"]}) == [[2, 0, 1]]


def test_each_sentence_by_itself_and_unknown_characters_dropped() -> None:
    assert [spelled(ids) for ids in tokens("One, two. Three?\n\nÉnd", LETTERS)] == ["one two.", "three?", "nd"]


def test_case_matters_unless_lowercase() -> None:
    assert tokens("Aa", {"characters": "aA"}) == [[1, 0]]


def test_english_digits_are_spelled_where_the_voice_has_none() -> None:
    english = {**LETTERS, "language": "en-us"}
    assert spelled(tokens("Dr. Lee owes $3.50 to 12 men.", english)[0]) == (
        "doctor lee owes three dollars and fifty cents to twelve men."
    )
    digits = {**english, "characters": [*english["characters"], *string.digits]}
    assert spelled(tokens("12 men", digits)[0], digits) == "12 men"
    assert spelled(tokens("12 men", LETTERS)[0]) == " men"


@pytest.mark.parametrize("text", ["", "  ", "...", "?!", "😀", "\0", "\ud800", "é"])
def test_nothing_to_speak(text: str) -> None:
    with pytest.raises(TextError, match="no letter or digit"):
        tokens(text, LETTERS)


@pytest.mark.parametrize("voice", [{}, {"characters": 3}, {"characters": [1, 2]}, {"characters": ["a", "a"]}])
def test_no_usable_list(voice: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="characters"):
        tokens("a", voice)


@given(st.text(max_size=300))
def test_every_text_gives_known_ids_or_a_text_error(text: str) -> None:
    try:
        utterances = tokens(text, LETTERS)
    except TextError:
        assert not set(text.lower()) & set(string.ascii_lowercase)
    else:
        assert all(ids and all(0 < i < len(LETTERS["characters"]) for i in ids) for ids in utterances)


def test_registered() -> None:
    assert registry.load("text", "characters").tokens is characters.tokens
