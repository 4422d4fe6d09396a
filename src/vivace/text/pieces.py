"""Text to the ids of a SentencePiece model of single characters, as its own library gives them.

`voice` holds `characters` (id by character; a space is "\u2581"), `unknown` and `end` (ids), `longest` (ids of a
sentence), and how text is prepared: `form` (a Unicode normal form or ""), `fold` (lower case), `prefix` (a space before
the first word), `squeeze` (no outer or double spaces), `spell` (English numbers as words).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from vivace.core.errors import ModelError, TextError
from vivace.text._clean import clean
from vivace.text._normalize import normalize, spell_numbers
from vivace.text._sentences import LIMIT, blocks, paragraphs, split

SUMMARY = "ids of a SentencePiece model of single characters"
SPACE = "\u2581"


def tokens(text: str, voice: Mapping[str, Any]) -> Iterator[list[int]]:
    """The ids of each sentence, read as they are asked for, each with `end` behind it; sentences without a letter or
    digit that the voice knows are left out.

    Raises TextError if nothing remains, ModelError if the voice's settings do not serve, MissingDependency without
    pysbd.
    """
    try:
        known, unknown, end, longest = (voice[key] for key in ("characters", "unknown", "end", "longest"))
    except KeyError as error:
        raise ModelError(f"the voice's settings lack {error}; import the model again") from None
    spoken = False
    for sentence in _sentences(text, voice, longest - 2):
        found = ids(sentence, known, unknown, voice)
        if any(c.isalnum() and c in known for c in _prepared(sentence, voice)):
            spoken = True
            yield [*found, end]
    if not spoken:
        raise TextError("the text holds no letter or digit that this voice knows; write it in the voice's alphabet")


def ids(sentence: str, known: Mapping[str, int], unknown: int, voice: Mapping[str, Any]) -> list[int]:
    """Characters that follow each other and are unknown are one unknown."""
    found: list[int] = []
    for character in _prepared(sentence, voice):
        i = known.get(character, unknown)
        if i != unknown or found[-1:] != [unknown]:
            found.append(i)
    return found


def _sentences(text: str, voice: Mapping[str, Any], longest: int) -> Iterator[str]:
    form = str(voice.get("form", ""))
    for paragraph in paragraphs(clean(text)):
        for block in blocks(paragraph):
            words = spell_numbers(normalize(block, "en-us"), "en-us") if voice.get("spell") else block
            # A normal form may be longer than what was written: sentences are measured in it.
            words = unicodedata.normalize(form, words) if form else words  # type: ignore[arg-type]
            yield from split(words, "en", min(LIMIT, longest))


def _prepared(sentence: str, voice: Mapping[str, Any]) -> str:
    form = str(voice.get("form", ""))
    if form:
        sentence = unicodedata.normalize(form, sentence)  # type: ignore[arg-type]
    if voice.get("fold"):
        sentence = sentence.casefold()
    if voice.get("squeeze"):
        sentence = " ".join(part for part in sentence.split(" ") if part)
    if voice.get("prefix") and sentence:
        sentence = f" {sentence}"
    sentence = sentence.replace(" ", SPACE)
    return sentence.rstrip(SPACE) if voice.get("squeeze") else sentence
