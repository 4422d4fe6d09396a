from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text._normalize import normalize, spell_numbers

SENTENCES = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("It’s ‘so’ “good”", "It's 'so' \"good\""),
        ("Ⅳ ① ﬁne Ｈｉ 𝐡𝐢 ℃", "IV 1 fine Hi hi °C"),
        ("Wait... what?", "Wait, what?"),
        ("Wait… What?", "Wait. What?"),
        ("Well . . . I know", "Well, I know"),
        ('"Wait..." he said', '"Wait," he said'),
        ("Wait...", "Wait."),
        ("yes...no", "yes, no"),
        ("He ran—no, flew", "He ran — no, flew"),
        ("one -- two", "one — two"),
        ("hope - a train", "hope — a train"),
        ("hope – a train", "hope — a train"),
        (
            "https://www.a-b.com/x_y?z=1&q.",
            "www dot a dash b dot com slash x underscore y question mark z equals 1 and q.",
        ),
        ("See example.com/help!", "See example dot com slash help!"),
        ("john_doe@example.com", "john underscore doe at example dot com"),
        (
            "$3.50 for Dr. Who on 5/4/2024",
            "three dollars and fifty cents for Doctor Who on May fourth, twenty twenty-four",
        ),
    ],
)
def test_changes_what_would_be_misread(text: str, spoken: str) -> None:
    assert normalize(text, "en-us") == spoken
    assert normalize(text, "en_US") == spoken


@pytest.mark.parametrize(
    "text",
    [
        "Call 555-1234 or (555) 123-4567 or +1 555 123 1984.",
        "me@example.com",
        "example.com",
        "AT&T, R&D, Tom & Jerry",
        "5 - 3 = 2",
        "a well-known fact — or not",
        "50% of 12 at 3:45 pm",
        "# * @ _ ~",
        "Zoë ate jalapeños",
    ],
)
def test_leaves_alone_what_is_read_well(text: str) -> None:
    assert normalize(text, "en-us") == text


def test_most_sentences_are_untouched_byte_for_byte() -> None:
    untouched = [s for s in SENTENCES if normalize(s, "en-us") == s]
    assert len(untouched) >= 150


@given(st.lists(st.sampled_from(["the", "cat", "sat", "on", "mats", "quietly"]), min_size=1), st.sampled_from(".!?"))
def test_plain_words_are_untouched(words: list[str], stop: str) -> None:
    text = " ".join(words) + stop
    assert normalize(text, "en-gb") == text


@given(st.text(), st.sampled_from(["de", "fr-fr", "ru", "cmn", ""]))
def test_other_languages_pass_unchanged(text: str, language: str) -> None:
    assert normalize(text, language) == text


@given(st.text(max_size=200))
def test_no_text_fails(text: str) -> None:
    spell_numbers(normalize(text, "en"), "en")


@pytest.mark.parametrize("sentence", SENTENCES)
def test_normalized_text_is_not_normalized_again(sentence: str) -> None:
    once = normalize(sentence, "en-us")
    assert normalize(once, "en-us") == once


def test_american_and_british() -> None:
    assert normalize("3/4/2024, £205", "en-us") == "March fourth, twenty twenty-four, two hundred five pounds"
    assert (
        normalize("3/4/2024, £205", "en-gb-x-rp")
        == "the third of April twenty twenty-four, two hundred and five pounds"
    )


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("12 eggs", "twelve eggs"),
        ("1,250.5", "one thousand two hundred fifty point five"),
        ("007", "zero zero seven"),
        ("the 21st", "the twenty-first"),
        ("50% & more", "fifty percent  and  more"),
        ("5°", "five degrees"),
    ],
)
def test_spelled_numbers(text: str, spelled: str) -> None:
    assert spell_numbers(text, "en-us") == spelled


@given(st.text(st.characters(codec="ascii")))
def test_no_digit_survives_spelling(text: str) -> None:
    assert not any(c.isdigit() for c in spell_numbers(text, "en"))
