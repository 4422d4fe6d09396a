"""Text to character ids: for voices that learned spelling rather than phonemes.

`voice` holds `characters` (a list; a character's id is its place), `lowercase` (default false) and `language`
("" for none): English text is normalized and its digits are spelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vivace.core.errors import ModelError, TextError
from vivace.text._clean import clean
from vivace.text._normalize import normalize, spell_numbers
from vivace.text._sentences import blocks, paragraphs, split

SUMMARY = "ids of single characters, by a list"


def tokens(text: str, voice: Mapping[str, Any]) -> Iterator[list[int]]:
    """The ids of each sentence, read as they are asked for; characters that are not in the list are dropped,
    sentences without letters too.

    Raises TextError if nothing remains, ModelError if the voice has no usable list, MissingDependency without pysbd.
    """
    ids = _ids(voice)
    language = str(voice.get("language") or "")
    spoken = False
    for sentence in _sentences(text, language, not any(c.isdigit() for c in ids), bool(voice.get("lowercase"))):
        kept = [c for c in sentence if c in ids]
        if any(c.isalnum() for c in kept):
            spoken = True
            yield [ids[c] for c in kept]
    if not spoken:
        raise TextError("the text holds no letter or digit that this voice knows; write it in the voice's alphabet")


def _sentences(text: str, language: str, spell: bool, lower: bool) -> Iterator[str]:
    for paragraph in paragraphs(clean(text)):
        for block in blocks(paragraph):
            words = normalize(block, language)
            if spell and language.lower().startswith("en"):
                words = spell_numbers(words, language)
            yield from split(words.lower() if lower else words, language or "en")


def _ids(voice: Mapping[str, Any]) -> dict[str, int]:
    characters = voice.get("characters")
    if not isinstance(characters, (list, tuple, str)) or not all(isinstance(c, str) for c in characters):
        raise ModelError("the voice's settings lack `characters`, the list of what it can read; import the model again")
    if len(set(characters)) != len(characters):
        raise ModelError("the voice's `characters` name one twice; each character has one id")
    return {character: i for i, character in enumerate(characters)}
