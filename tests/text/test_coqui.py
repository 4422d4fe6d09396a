"""Ids of Coqui voices: vocabulary, blanks and ends, cleaners, phonemes between punctuation. The orders of ids are those
that coqui-tts 0.28 gives to the same configs."""

from __future__ import annotations

from typing import Any

import pytest

from vivace.core.errors import ModelError, TextError
from vivace.text import coqui

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CLASS = "TTS.tts.utils.text.characters."


def voice(kind: str = "VitsCharacters", characters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    own = {"pad": "_", "characters": LETTERS, "punctuations": ",.? ", "characters_class": CLASS + kind}
    own |= {"eos": "$", "bos": "^", "blank": "~", **(characters or {})}
    return {"model": "vits", "text_cleaner": "no_cleaners", "characters": own, "add_blank": False, **more}


def spelled(text: str, config: dict[str, Any]) -> list[str]:
    known = coqui.reader(config).vocabulary
    return ["".join(known[i] for i in ids) for ids in coqui.tokens(text, config)]


def test_the_orders_of_ids() -> None:
    assert coqui.reader(voice(characters={"characters": "ba", "phonemes": "ə"})).vocabulary == (
        "_", ",", ".", "?", " ", "b", "a", "ə", "<BLNK>",
    )  # fmt: skip
    sorted_ = coqui.reader(voice("Graphemes", {"characters": "bab", "phonemes": "ə"})).vocabulary
    assert sorted_ == ("_", "$", "^", "~", "a", "b", ",", ".", "?", " ")
    as_given = voice("IPAPhonemes", {"characters": "ba", "phonemes": "ɛə", "is_sorted": False, "is_unique": False})
    assert coqui.reader(as_given).vocabulary[4:6] == ("ɛ", "ə")
    assert coqui.reader(voice("BaseVocabulary", {"vocab_dict": ["x", "yy"]})).vocabulary == ("x", "yy")
    usual = coqui.reader({"model": "vits", "add_blank": False}).vocabulary
    assert usual[:5] == ("<PAD>", "<EOS>", "<BOS>", "<BLNK>", "A")
    assert len(usual) == 4 + 52 + 11


def test_blanks_between_and_ends_around() -> None:
    assert list(coqui.tokens("ab", voice(add_blank=True))) == [[31, 5, 31, 6, 31]]
    framed = voice("Graphemes", add_blank=True, enable_eos_bos_chars=True)
    assert spelled("ab", framed) == ["^~a~b~$"]


@pytest.mark.parametrize(
    ("cleaner", "text", "wanted"),
    [
        ("no_cleaners", "One; two", "ne two"),
        ("basic_cleaners", "One  Two", "one two"),
        ("english_cleaners", "Dr. Who & 21 cats; (so)", "doctor who and twenty-one cats, so"),
        ("multilingual_cleaners", "Eins: zwei-drei", "eins, zwei drei"),
        ("portuguese_cleaners", "um & dois", "um e dois"),
        ("basic_turkish_cleaners", "KIZ", "kız"),
        ("phoneme_cleaners", "3 of us", "three of us"),
    ],
)
def test_cleaners(cleaner: str, text: str, wanted: str) -> None:
    letters = {"characters": LETTERS + "ı"}
    assert spelled(text, voice(characters=letters, text_cleaner=cleaner)) == [wanted.replace("-", " ")]


def test_each_sentence_by_itself() -> None:
    assert spelled("one two. three? ... !", voice()) == ["one two.", "three?"]


def test_phonemes_keep_the_punctuation_as_it_is_written() -> None:
    pytest.importorskip("piper")
    phonetic = voice("IPAPhonemes", {"characters": coqui.IPA}, use_phonemes=True, phoneme_language="en-us")
    assert spelled("Hello, world. It's fine?", phonetic) == ["həlˈoʊ, wˈɜːld.", "ɪts fˈaɪn?"]
    german = {**phonetic, "phoneme_language": "de"}
    assert spelled("ich", german) == ["ɪç"]
    apart = {**german, "characters": {**phonetic["characters"], "characters": "ɪc\u0327"}}
    assert spelled("ich", apart) == ["ɪc\u0327"]


def test_a_long_row_of_digits_is_read_whole() -> None:
    pytest.importorskip("piper")
    phonetic = voice("IPAPhonemes", {"characters": coqui.IPA}, use_phonemes=True, phoneme_language="de")
    assert sum(len(s) for s in spelled("7" * 400, phonetic)) > 1500


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "xtts"}, "give the config.json of a vits model"),
        (voice(text_cleaner="mine"), "text_cleaner 'mine' is not known"),
        (voice(use_phonemes=True), "no phoneme_language"),
        (voice(use_phonemes=True, phoneme_language="en", phonemizer="ja_jp_phonemizer"), "Vivace has espeak"),
        (voice(characters={"characters": 3}), "characters.characters is no text"),
        (voice("MyOwn"), "characters_class 'MyOwn' is not known"),
        (voice("Graphemes", {"is_sorted": False}), "an order that nobody can know"),
        (voice("Graphemes", {"blank": None}, add_blank=True), "have no blank"),
        (voice(enable_eos_bos_chars=True), "have no bos"),
        ({"model": "vits", "characters": [1]}, "characters are no object"),
        (voice("BaseVocabulary", {"vocab_dict": [1]}), "vocab_dict is no list"),
    ],
)
def test_configs_that_do_not_serve(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        list(coqui.tokens("hello", config))


def test_a_language_that_espeak_does_not_speak() -> None:
    pytest.importorskip("piper")
    with pytest.raises(ModelError, match="check the voice's phoneme_language"):
        list(coqui.tokens("hello", voice(use_phonemes=True, phoneme_language="klingon-x")))


def test_nothing_to_speak() -> None:
    with pytest.raises(TextError):
        list(coqui.tokens("漢字 ...", voice()))
