"""Text to character ids: for voices that learned spelling rather than phonemes.

`voice` holds `characters` (a list; a character's id is its place), `lowercase` (default false) and `language`
("" for none): English text is normalized and its digits are spelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vivace.core.errors import ModelError, TextError
from vivace.text._clean import clean
from vivace.text._normalize import normalize, spell_numbers
from vivace.text._sentences import paragraphs, split

SUMMARY = "ids of single characters, by a list"


def tokens(text: str, voice: Mapping[str, Any]) -> list[list[int]]:
    """The ids of each sentence; characters that are not in the list are dropped, sentences without letters too.

    Raises TextError if nothing remains, ModelError if the voice has no usable list, MissingDependency without pysbd.
    """
    ids = _ids(voice)
    language = str(voice.get("language") or "")
    utterances = []
    for paragraph in paragraphs(clean(text)):
        spoken = normalize(paragraph, language)
        if language.lower().startswith("en") and not any(c.isdigit() for c in ids):
            spoken = spell_numbers(spoken, language)
        for sentence in split(spoken.lower() if voice.get("lowercase") else spoken, language or "en"):
            kept = [c for c in sentence if c in ids]
            if any(c.isalnum() for c in kept):
                utterances.append([ids[c] for c in kept])
    if not utterances:
        raise TextError("the text holds no letter or digit that this voice knows; write it in the voice's alphabet")
    return utterances


def _ids(voice: Mapping[str, Any]) -> dict[str, int]:
    characters = voice.get("characters")
    if not isinstance(characters, (list, tuple, str)) or not all(isinstance(c, str) for c in characters):
        raise ModelError("the voice's settings lack `characters`, the list of what it can read; import the model again")
    if len(set(characters)) != len(characters):
        raise ModelError("the voice's `characters` name one twice; each character has one id")
    return {character: i for i, character in enumerate(characters)}
