"""Text to the phoneme ids of Piper voices, by piper-tts and the espeak-ng inside it.

For text that needs no mending the ids are those of piper-tts itself. `voice` is the voice's JSON configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from vivace.core.errors import MissingDependency, ModelError, TextError
from vivace.text._clean import clean
from vivace.text._espeak import ESPEAK, LONGEST_UTTERANCE, SPOKEN, breakable, keep_memory
from vivace.text._normalize import normalize
from vivace.text._sentences import blocks, cut, paragraphs, split

SUMMARY = "phoneme ids of Piper voices (espeak-ng)"

_TYPES = ("espeak", "text")
_RAW = re.compile(r"\[\[.*?\]\]")
_STAND_IN = 0xF0000  # private-use characters stand in for raw phonemes; `clean` leaves none in the text
_STAND_INS = re.compile("[\U000f0000-\U0010ffff]")


def tokens(text: str, voice: Mapping[str, Any]) -> Iterator[list[int]]:
    """The ids of each utterance of `text`, in order, read as they are asked for; none is empty.

    An utterance is what espeak-ng takes for a sentence, or a part of a very long one. `[[ ]]` holds raw phonemes.
    Raises TextError if nothing can be spoken, ModelError if the voice's settings do not serve, MissingDependency
    if piper-tts or num2words is not installed, or pysbd where a text may be several sentences.
    """
    reader = _reader(_key(voice))
    known = reader.config.phoneme_id_map
    spoken, strange = False, ""
    for phonemes in _phonemes(text, reader, str(reader.config.espeak_voice)):
        if any(p[0].isalnum() for p in phonemes if p in known):
            spoken = True
            yield [int(i) for i in reader.phonemes_to_ids(phonemes)]
        strange += "".join(p for p in phonemes if p not in known)
    if not spoken and strange:
        raise TextError(f"the text sounds as {strange[:40]!r}, none of which is in the voice's phoneme_id_map")
    if not spoken:
        raise TextError("the text holds nothing that this voice can speak; give it at least one letter or digit")


def _phonemes(text: str, reader: Any, language: str) -> Iterator[list[str]]:
    for paragraph in paragraphs(clean(text)):
        hidden, raw = _hide(paragraph)
        for block in blocks(hidden):
            for sentence in split(normalize(block, language), language):
                yield from _spoken(breakable(sentence), raw, reader)


def _spoken(sentence: str, raw: list[str], reader: Any) -> Iterator[list[str]]:
    shown = _show(sentence, raw)
    if not SPOKEN.search(shown):  # espeak-ng reads a lone "!!!" as "exclamation"
        return
    with ESPEAK:
        utterances = _phonemize(reader, shown)
    if max(map(len, utterances), default=0) <= LONGEST_UTTERANCE:
        yield from utterances
    elif len(sentence) > 1:  # numbers or signs, which take more sounds than letters
        for part in cut(sentence, (len(sentence) + 1) // 2):
            yield from _spoken(part, raw, reader)
    else:
        raise TextError(f"[[ ]] holds more than {LONGEST_UTTERANCE} phonemes; write them as several sentences")


def _hide(text: str) -> tuple[str, list[str]]:
    """The text with one stand-in character for each raw-phoneme block, so that no sentence ends inside a block."""
    raw: list[str] = []

    def stand_in(match: re.Match[str]) -> str:
        raw.append(match[0])
        return chr(_STAND_IN + len(raw) - 1)

    closed = text.rfind("]]") + 2  # a search for the end of "[[[[[[" would take quadratic time
    return _RAW.sub(stand_in, text[:closed]) + text[closed:] if closed > 1 else text, raw


def _show(text: str, raw: list[str]) -> str:
    return _STAND_INS.sub(lambda m: raw[ord(m[0]) - _STAND_IN], text) if raw else text


def _phonemize(reader: Any, sentence: str) -> list[list[str]]:
    try:
        return list(reader.phonemize(sentence))
    except RuntimeError as error:
        raise ModelError(f"espeak-ng: {error}; check espeak.voice in the voice's JSON file") from None


def _key(voice: Mapping[str, Any]) -> str:
    """Those settings of a voice that reading depends on; a missing one is a ModelError."""
    kind = voice.get("phoneme_type", "espeak")
    if kind not in _TYPES:
        raise ModelError(
            f"the voice's phoneme_type is {kind!r}; Vivace reads {' and '.join(_TYPES)}: use another voice"
        )
    try:
        settings = {
            "phoneme_type": kind,
            "espeak": {"voice": voice["espeak"]["voice"]},
            "phoneme_id_map": dict(voice["phoneme_id_map"]),
            "vowel_clusters": [list(cluster) for cluster in voice.get("vowel_clusters") or ()],
        }
        missing = [mark for mark in "_^$" if mark not in settings["phoneme_id_map"]]
    except (KeyError, TypeError, ValueError):
        missing = ["espeak.voice and phoneme_id_map"]
    if missing:
        raise ModelError(
            f"the voice's settings lack {', '.join(missing)}; give the JSON file that belongs to the voice"
        )
    return json.dumps(settings, sort_keys=True)


@lru_cache(maxsize=16)
def _reader(settings: str) -> Any:
    """A piper-tts voice without its model: it phonemizes, and never synthesizes."""
    try:
        from piper.config import PiperConfig
        from piper.voice import PiperVoice
    except ImportError:
        raise MissingDependency("piper-tts", "piper") from None
    unused = {"num_symbols": 0, "num_speakers": 1, "audio": {"sample_rate": 0}}
    with ESPEAK:
        keep_memory()
    config = PiperConfig.from_dict({**unused, **json.loads(settings)})
    return PiperVoice(session=None, config=config)
