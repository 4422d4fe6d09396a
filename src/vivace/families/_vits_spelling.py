"""How a VITS voice reads, said in Piper's JSON and in Coqui's `config.json`. What the other cannot say is an error."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from vivace.core import registry
from vivace.core.errors import ModelError

PUNCTUATION = "!'(),-.:;? "
CLASSES = "TTS.tts.utils.text.characters"
SILENT = '¡¿—…"«»“”'  # marks that espeak-ng never gives back to Piper, and that Coqui's tokenizer looks up
MARKS = ("_", "^", "$")  # of Piper: between, before and behind the ids


def coqui_from_piper(piper: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """The config's fields about text, and which row of the voice's embedding each id of Coqui's vocabulary takes.
    Raises ModelError for a voice whose ids Coqui's tokenizer cannot give."""
    kind = piper.get("phoneme_type", "espeak")
    if kind not in ("espeak", "text"):
        raise ModelError(f"Coqui's tokenizer has no phoneme_type {kind!r}; this voice cannot be written for it")
    if piper.get("vowel_clusters"):
        raise ModelError("Coqui's tokenizer has no vowel_clusters; this voice cannot be written for it")
    ids = {symbol: given for symbol, given in piper["phoneme_id_map"].items() if len(symbol) == 1}
    framed = bool(ids["^"] or ids["$"])
    if several := [s for s, given in ids.items() if len(given) != 1 and (framed or s not in ("^", "$"))]:
        raise ModelError(
            f"Coqui's tokenizer gives each symbol one id, and {several[0]!r} has {len(ids[several[0]])} here"
        )
    apart = [symbol for symbol in ids if kind == "text" and unicodedata.category(symbol) == "Mn"]
    if apart:
        raise ModelError(f"this voice reads {apart[0]!r} apart from its letter, which Coqui's tokenizer does not")
    unheard = SILENT if kind == "espeak" else ""
    own = [symbol for symbol in ids if symbol not in MARKS and symbol not in unheard]
    marks = [symbol for symbol in own if symbol in PUNCTUATION]
    letters = [symbol for symbol in own if symbol not in PUNCTUATION]
    ends = ["$", "^"] if framed else []
    vocabulary = ["_", *ends, "_", *letters, *marks]  # padding, which Piper's blank serves as, and again as the blank
    fields = {
        "model": "vits",
        "use_phonemes": kind == "espeak",
        "phonemizer": "espeak" if kind == "espeak" else None,
        "phoneme_language": piper["espeak"]["voice"] if kind == "espeak" else None,
        "text_cleaner": "no_cleaners",
        "add_blank": True,
        "enable_eos_bos_chars": framed,
        "characters": {
            "characters_class": f"{CLASSES}.{'IPAPhonemes' if kind == 'espeak' else 'Graphemes'}",
            "pad": "<PAD>", "eos": "$" if framed else None, "bos": "^" if framed else None, "blank": "_",
            "characters": "".join(letters), "punctuations": "".join(marks), "phonemes": None,
            "is_unique": False, "is_sorted": False,
        },
    }  # fmt: skip
    return fields, [ids[symbol][0] for symbol in vocabulary]


def piper_from_coqui(config: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON's fields about text. Raises ModelError for a voice whose ids piper-tts cannot give."""
    how = registry.load("text", "coqui").reader(config)
    if how.blank is None:
        raise ModelError("Piper puts a blank between ids, and this voice has none: it cannot be written so")
    phonetic = bool(how.language)
    ids = {symbol: [i] for symbol, i in how.ids.items() if len(symbol) == 1 and symbol not in MARKS}
    for symbol in [s for s in ids if unicodedata.normalize("NFD", s) != s]:
        if not (phonetic and how.language.startswith("en")):  # English has no such sounds
            raise ModelError(
                f"piper-tts takes {symbol!r} apart, which this voice knows as one: it cannot be written so"
            )
        del ids[symbol]
    if how.cleaner.lower and not phonetic:
        ids |= {s.upper(): i for s, i in ids.items() if len(s.upper()) == 1 and s.upper() not in ids}
    before, behind = ([how.ends[0]], [how.ends[1]]) if how.ends else ([], [])
    return {
        "espeak": {"voice": how.language or "en-us"},
        "phoneme_type": "espeak" if phonetic else "text",
        "phoneme_id_map": {"_": [how.blank], "^": before, "$": behind, **ids},
        "num_symbols": len(how.vocabulary),
    }
