"""espeak-ng, as piper-tts brings it: what it must not be given, and phonemes of text."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from vivace.core.errors import MissingDependency, ModelError
from vivace.text._sentences import cut, grapheme_end

_LONGEST_WORD = 120  # bytes; espeak-ng drops what stands behind byte 160 of a word
_LONGEST_DIGITS = 30  # espeak-ng drops what stands behind digit 32 of a number
LONGEST_UTTERANCE = 900  # phonemes; espeak-ng drops what comes after 1,000 in a clause, 500 letters are about 600
_WORD = re.compile(r"[^\s\u3400-\u9fff]{31,}")  # Chinese characters are words of their own
_DIGITS = re.compile(rf"[0-9]{{{_LONGEST_DIGITS}}}(?=[0-9])")
# Buffers that espeak-ng 1.52 runs over, ending the process: 80 bytes for a chain of dotted letters ("a.b.c."), 200
# for the suffixes of one word ("s's's's").
_LETTERS = re.compile(r"(?:[^\W\d_][\W_]+){12,}")
_MOST_DOTS = 12
_LAST_DOTS = re.compile(r"(?<![.,!?:;])\.\.$")  # espeak-ng 1.52 would begin the next text, whoever's, with "dot"
_APOSTROPHES = re.compile(r"(?:[^\s'’]*['’]){8,}")
SPOKEN = re.compile(r"[^\W_]|[^\w\s.!?,;:'\"()\[\]{}<>|«»“”‘’¿¡…—–-]")
LEAKS = "1.8."  # versions of piper-tts whose binding was seen to hold what it gives
ESPEAK = threading.Lock()  # espeak-ng keeps one voice and one text for the whole process


def breakable(sentence: str) -> str:
    """The sentence with spaces in what espeak-ng would cut off or crash on, and no end that it speaks too late."""
    sentence = _LETTERS.sub(lambda m: m[0].replace(".", " ") if m[0].count(".") >= _MOST_DOTS else m[0], sentence)
    sentence = _APOSTROPHES.sub(lambda m: re.sub("['’]", " ", m[0]), sentence)
    return _LAST_DOTS.sub(".", _WORD.sub(_broken_word, _DIGITS.sub(r"\g<0> ", sentence)))


def _broken_word(match: re.Match[str]) -> str:
    word, parts = match[0], []
    while len(word.encode()) > _LONGEST_WORD:
        fits = len(word.encode()[:_LONGEST_WORD].decode(errors="ignore"))
        sign = max(word.rfind(c, 1, fits) for c in "-/._,")
        end = sign + 1 if sign > 0 else grapheme_end(word, fits)
        parts.append(word[:end])
        word = word[end:]
    return " ".join([*parts, word])


def phonemes(text: str, language: str) -> str:
    """The phonemes (IPA, NFC) of a text without clause punctuation, which espeak-ng would make its own of.
    Raises ModelError for a language that it does not speak, MissingDependency if piper-tts is not installed."""
    if not SPOKEN.search(text):
        return ""
    with ESPEAK:
        try:
            clauses = _phonemizer().phonemize(language, breakable(text))
        except RuntimeError as error:
            raise ModelError(f"espeak-ng: {error}; check the voice's phoneme_language") from None
    made = " ".join("".join(clause) for clause in clauses)
    if len(made) > LONGEST_UTTERANCE and len(text) > 1:  # numbers or signs, which take more sounds than letters
        return " ".join(phonemes(part, language) for part in cut(text, (len(text) + 1) // 2))
    return unicodedata.normalize("NFC", made.strip())


@cache
def _phonemizer() -> Any:
    try:
        from piper.phonemize_espeak import EspeakPhonemizer
    except ImportError:
        raise MissingDependency("piper-tts", "piper") from None
    keep_memory()
    return EspeakPhonemizer()


@cache
def keep_memory() -> None:
    """Stops piper-tts losing 1.3 kB at each sentence: espeak-ng frees a voice that was set only when it synthesizes,
    and piper-tts's binding of it holds each tuple that it gives for ever. Both go for piper-tts itself too."""
    from piper import espeakbridge

    start, choose, read = espeakbridge.initialize, espeakbridge.set_voice, espeakbridge.get_phonemes
    chosen: list[str] = []

    def initialize(data: str) -> None:
        chosen.clear()
        start(data)

    def set_voice(voice: str) -> None:
        if chosen != [voice]:  # setting it again changes no phoneme
            chosen.clear()
            choose(voice)
            chosen.append(voice)

    def get_phonemes(text: str) -> list[tuple[str, str, bool]]:
        return freed(read(text))

    leaks = version("piper-tts").startswith(LEAKS)  # others may keep them for a reason
    for function in (initialize, set_voice, *[get_phonemes] * leaks):
        setattr(espeakbridge, function.__name__, function)


def freed(clauses: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """`clauses` without the reference more, if there is one, that whoever made the list has kept of each item."""
    own = _references([(object(),)])[0]
    for clause, references in zip(clauses, _references(clauses), strict=True):
        if references == own + 1:
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(clause))
    return clauses


def _references(held: Sequence[object]) -> list[int]:
    return [sys.getrefcount(item) for item in held]
