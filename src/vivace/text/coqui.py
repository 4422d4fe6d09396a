"""Text to the ids of Coqui TTS voices, which read characters or phonemes (espeak-ng) as their `config.json` says.

`voice` is that config. Vocabulary, blanks, cleaners and what happens to punctuation are those of coqui-tts 0.28;
numbers and abbreviations are read by Vivace's own rules where the voice's cleaner reads English ones.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vivace.core.errors import ModelError, TextError
from vivace.text._clean import clean
from vivace.text._espeak import phonemes
from vivace.text._normalize import normalize, spell_numbers
from vivace.text._sentences import blocks, paragraphs, split

SUMMARY = "ids of Coqui TTS voices: characters, or phonemes (espeak-ng)"

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PUNCTUATION = "!'(),-.:;? "
IPA = (  # what their configs mean that name no phonemes
    "iyɨʉɯuɪʏʊeøɘəɵɤoɛœɜɞʌɔæɐaɶɑɒᵻ" "ʘɓǀɗǃʄǂɠǁʛ" "pbtdʈɖcɟkɡqɢʔɴŋɲɳnɱmʙrʀⱱɾɽɸβfvθðszʃʒʂʐçʝxɣχʁħʕhɦɬɮʋɹɻjɰlɭʎʟ"
    "ˈˌːˑ" "ʍwɥʜʢʡɕʑɺɧʲ" "\u0303ɚ˞ɫ"
)  # fmt: skip
BLANK, PAD, EOS, BOS = "<BLNK>", "<PAD>", "<EOS>", "<BOS>"
CLAUSES = re.compile(r"((?:\s*[;:,.!?¡¿—…\"«»“”]+\s*)+)")  # kept as written around phonemes
AUXILIARY = re.compile(r"[<>()\[\]\"]+")
SYMBOLS = str.maketrans({";": ",", "-": " ", ":": ","})
LANGUAGES = {"en": "en-us", "zh-cn": "cmn"}  # as espeak-ng names them


@dataclass(frozen=True)
class Cleaner:
    """`english`: numbers and abbreviations as English words. `symbols`: fewer signs. `both`: how "&" is read."""

    english: bool = False
    lower: bool = False
    symbols: bool = False
    both: str = ""
    dotless: bool = False


CLEANERS = {
    "no_cleaners": Cleaner(),
    "basic_cleaners": Cleaner(lower=True),
    "basic_german_cleaners": Cleaner(lower=True),
    "basic_turkish_cleaners": Cleaner(lower=True, dotless=True),
    "transliteration_cleaners": Cleaner(lower=True),
    "english_cleaners": Cleaner(english=True, lower=True, symbols=True, both=" and "),
    "french_cleaners": Cleaner(lower=True, symbols=True, both=" et "),
    "portuguese_cleaners": Cleaner(lower=True, symbols=True, both=" e "),
    "multilingual_cleaners": Cleaner(lower=True, symbols=True),
    "phoneme_cleaners": Cleaner(english=True, symbols=True, both=" and "),
    "multilingual_phoneme_cleaners": Cleaner(symbols=True),
}


@dataclass(frozen=True)
class Reader:
    """How a voice reads. `vocabulary`: a symbol's id is its place, the last one's if it is there twice."""

    vocabulary: tuple[str, ...]
    cleaner: Cleaner
    language: str  # espeak-ng's name of it; empty: characters
    blank: int | None  # between all ids
    ends: tuple[int, int] | None  # before and behind them

    @property
    def ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.vocabulary)}


def tokens(text: str, voice: Mapping[str, Any]) -> Iterator[list[int]]:
    """The ids of each sentence, read as they are asked for; what the voice does not know is dropped, and sentences
    without a letter or digit that it knows.

    Raises TextError if nothing remains, ModelError if the config does not serve, MissingDependency without pysbd,
    num2words or, for phonemes, piper-tts.
    """
    how = reader(voice)
    ids = how.ids
    spoken = False
    for sentence in _sentences(text, how):
        known = _known(_phonemes(sentence, how.language) if how.language else sentence, how, ids)
        if any(c.isalnum() for c in known):
            spoken = True
            yield _framed([ids[c] for c in known], how)
    if not spoken:
        raise TextError("the text holds nothing that this voice can speak; give it at least one letter or digit")


def _known(symbols: str, how: Reader, ids: Mapping[str, int]) -> list[str]:
    """What of it the voice knows; of a phoneme with a mark that it does not know as one, both by themselves."""
    if how.language:
        symbols = "".join(c if c in ids else unicodedata.normalize("NFD", c) for c in symbols)
    return [c for c in symbols if c in ids]


def _framed(found: list[int], how: Reader) -> list[int]:
    if how.blank is not None:
        found = [i for each in found for i in (how.blank, each)] + [how.blank]
    return [how.ends[0], *found, how.ends[1]] if how.ends else found


def _sentences(text: str, how: Reader) -> Iterator[str]:
    cleaner = how.cleaner
    language = how.language or ("en-us" if cleaner.english else "")
    for paragraph in paragraphs(clean(text)):
        for block in blocks(paragraph):
            words = normalize(block, language)
            if cleaner.english:
                words = spell_numbers(words, "en-us")
            for sentence in split(words, language or "en"):
                yield _cleaned(sentence, cleaner)


def _cleaned(sentence: str, cleaner: Cleaner) -> str:
    if cleaner.dotless:
        sentence = sentence.replace("I", "ı")
    if cleaner.lower:
        sentence = sentence.lower()
    if cleaner.symbols:
        sentence = AUXILIARY.sub("", sentence.translate(SYMBOLS).replace("&", cleaner.both or "&"))
    return " ".join(sentence.split())


def _phonemes(sentence: str, language: str) -> str:
    """Of what stands between punctuation marks, and the marks with their spaces."""
    parts = CLAUSES.split(sentence)
    parts[::2] = [phonemes(part, language) for part in parts[::2]]
    return "".join(parts).strip()


def reader(voice: Mapping[str, Any]) -> Reader:
    """Raises ModelError naming the field of the config that does not serve."""
    fields = ("model", "characters", "use_phonemes", "phonemizer", "phoneme_language", "text_cleaner", "add_blank")
    try:
        key = json.dumps({name: voice.get(name) for name in (*fields, "enable_eos_bos_chars")}, sort_keys=True)
    except (TypeError, ValueError):
        raise ModelError("the voice's settings are no JSON; give the config.json that belongs to it") from None
    return _reader(key)


@lru_cache(maxsize=16)
def _reader(key: str) -> Reader:
    voice = json.loads(key)
    if voice["model"] != "vits":
        raise ModelError(f"the voice's settings are for {voice['model']!r}; give the config.json of a vits model")
    name = voice["text_cleaner"] or "no_cleaners"
    if name not in CLEANERS:
        raise ModelError(
            f"the config's text_cleaner {str(name)[:40]!r} is not known here; known: {', '.join(CLEANERS)}"
        )
    phonemizer = voice["phonemizer"]
    if voice["use_phonemes"] and phonemizer not in (None, "espeak"):
        raise ModelError(f"the config's phonemizer is {str(phonemizer)[:40]!r}; Vivace has espeak")
    language = ""
    if voice["use_phonemes"]:
        language = voice["phoneme_language"]
        if not isinstance(language, str) or not language:
            raise ModelError("the config has no phoneme_language; name the one that the voice learned")
        language = LANGUAGES.get(language, language)
    symbols, blank, ends = _vocabulary(voice)
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    add_blank = True if voice["add_blank"] is None else bool(voice["add_blank"])
    framed = bool(voice["enable_eos_bos_chars"])
    for wanted, symbol, label in ((add_blank, blank, "blank"), (framed, ends[0], "bos"), (framed, ends[1], "eos")):
        if wanted and symbol not in ids:
            raise ModelError(f"the config's characters have no {label}, which this voice needs; name it")
    return Reader(
        tuple(symbols),
        CLEANERS[name],
        language,
        ids[blank] if add_blank else None,
        (ids[ends[0]], ids[ends[1]]) if framed else None,
    )


def _vocabulary(voice: dict[str, Any]) -> tuple[list[str], str, tuple[str, str]]:
    """The symbols in the order of their ids, the blank, and what begins and ends a text."""
    given = voice["characters"]
    if given is None:
        given = {"characters": IPA if voice["use_phonemes"] else LETTERS, "punctuations": PUNCTUATION}
        given |= {"pad": PAD, "eos": EOS, "bos": BOS, "blank": BLANK, "is_unique": False}
    if not isinstance(given, dict):
        raise ModelError("the config's characters are no object; give the config.json that belongs to the voice")
    given = {"is_unique": True, "is_sorted": True, "pad": PAD, **given}
    words = {
        key: given.get(key) or "" for key in ("characters", "phonemes", "punctuations", "pad", "eos", "bos", "blank")
    }
    if wrong := [key for key, value in words.items() if not isinstance(value, str)]:
        raise ModelError(
            f"the config's characters.{wrong[0]} is no text; give the config.json that belongs to the voice"
        )
    listed = given.get("vocab_dict")
    ends = (words["bos"], words["eos"])
    if listed:
        if not isinstance(listed, list) or not all(isinstance(symbol, str) for symbol in listed):
            raise ModelError("the config's characters.vocab_dict is no list of texts")
        return listed, words["blank"], ends
    kind = str(given.get("characters_class") or "").rsplit(".", 1)[-1]
    if kind == "VitsCharacters":
        marks = [words["pad"], *words["punctuations"], *words["characters"], *words["phonemes"], BLANK]
        return marks, BLANK, ends
    if kind not in ("", "Graphemes", "IPAPhonemes", "BaseCharacters"):
        raise ModelError(f"the config's characters_class {kind[:40]!r} is not known here; use one of coqui-tts")
    phonetic = kind == "IPAPhonemes" or (not kind and voice["use_phonemes"])
    own = list(words["phonemes"] if phonetic and given.get("phonemes") else words["characters"])
    if given["is_unique"]:
        if not given["is_sorted"]:
            raise ModelError("the config's characters are unique but not sorted, an order that nobody can know again")
        own = list(dict.fromkeys(own))
    own = sorted(own) if given["is_sorted"] else own
    before = [words[key] for key in ("pad", "eos", "bos", "blank") if words[key]]
    return [*before, *own, *words["punctuations"]], words["blank"], ends
