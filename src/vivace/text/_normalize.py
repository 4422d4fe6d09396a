"""English text as it is spoken. Changes only what espeak-ng reads wrongly; other languages pass through unchanged.

Each rule was written after reading the phonemes that espeak-ng 1.52 gives for the construct. A text that needs no
mending comes back byte for byte, so that a voice hears what it heard in training.
"""

from __future__ import annotations

import re
import unicodedata
from re import Match

from vivace.text import _abbreviations, _numbers
from vivace.text._words import cardinal, digits, ordinal

_QUOTES = str.maketrans("‘’‛ʼ′“”„‟″", "'''''\"\"\"\"\"")
# Fullwidth forms, unit signs, enclosed numbers, Roman numerals, ligatures and "mathematical" letters that decorate.
_STYLED = re.compile(
    "[\u2103\u2109\u2160-\u217f\u2460-\u24ff\u3380-\u33df\ufb00-\ufb06\uff01-\uff5e\U0001d400-\U0001d7ff]+"
)

_ELLIPSIS = re.compile(
    r"(?<=[\w\"')])[ ]?(?:\.{2,}|…+|\.(?: \.){2,})(?P<quote>[\"')]*)(?P<space> ?)(?=(?P<next>[A-Z]\w|.?))"
)
_DASHES = re.compile(r"(?<=[\w\"').,!?%]) ?(?:--+|—|―) ?(?=[\w\"'(])|(?<=[^\W0-9]) [-–] (?=[\w\"'(])")

_DOMAIN = r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}"
_LINK = re.compile(
    rf"(?:https?://|\bwww\.)[^\s<>\"'(){{}}\[\]]*[^\s<>\"'(){{}}\[\].,;:!?]"
    rf"|(?<![\w.@/-]){_DOMAIN}/[^\s<>\"'(){{}}\[\]]*[^\s<>\"'(){{}}\[\].,;:!?]"
    rf"|(?<![\w.+-])(?=[\w.]*[_+%-])[\w.+%-]{{1,64}}@{_DOMAIN}\b"
)
_SIGNS = {
    ".": "dot", "/": "slash", "@": "at", "?": "question mark", "=": "equals", "&": "and", "-": "dash",
    "_": "underscore", "#": "hash", ":": "colon", "~": "tilde", "%": "percent", "+": "plus", ",": "comma",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))

# Telephone numbers, which would otherwise look like ranges and years.
_KEPT = re.compile(
    r"((?<![\w-])(?:\+?[0-9]{1,3}[ .-])?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])?[0-9]{3}[ .-][0-9]{4}(?![\w-]))"
)

_SPELLED = {
    "%": " percent",
    "&": " and ",
    "@": " at ",
    "+": " plus ",
    "=": " equals ",
    "°": " degrees",
    "#": " number ",
}
_ORDINAL = re.compile(r"\b([0-9]{1,15})(?:st|nd|rd|th)\b")
_PLAIN_NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


def normalize(text: str, language: str) -> str:
    """`text` as words where `language` ("en", "en-us", "en_GB", ...) is English, else unchanged.

    "en-us" says "March fifteenth" and "two hundred five"; the others "the fifteenth of March" and "two hundred and
    five". Telephone numbers are left alone. Raises MissingDependency without num2words.
    """
    code = language.lower().replace("_", "-")
    if code.split("-")[0] != "en":
        return text
    british = not code.startswith("en-us")
    parts = _KEPT.split(_punctuation(text))
    parts[::2] = [_spoken(part, british) for part in parts[::2]]
    return "".join(parts)


def spell_numbers(text: str, language: str) -> str:
    """English text without digits, %, & and the like, for voices that know letters only."""
    british = not language.lower().replace("_", "-").startswith("en-us")
    text = _ORDINAL.sub(lambda m: ordinal(int(m[1]), british), text)
    text = _PLAIN_NUMBER.sub(lambda m: _number(m[0], british), text)
    return text.translate({ord(sign): word for sign, word in _SPELLED.items()})


def _spoken(text: str, british: bool) -> str:
    text = _LINK.sub(_link, text)
    text = _abbreviations.expand(text, british)
    return _numbers.expand(text, british)


def _punctuation(text: str) -> str:
    """Quotes to ASCII; pauses that espeak-ng would swallow (it joins the words around "..." into one)."""
    text = _STYLED.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text.translate(_QUOTES))
    text = _ELLIPSIS.sub(_ellipsis, text)
    return _DASHES.sub(" — ", text)


def _ellipsis(match: Match[str]) -> str:
    following, quote = match["next"], match["quote"]
    ends = not following or (following[0].isupper() and following != "I") or following in "\"'([\n"
    return f"{'.' if ends else ','}{quote}{' ' if following.strip() else match['space']}"


def _link(match: Match[str]) -> str:
    link = re.sub(r"^https?://", "", match[0]).rstrip("/")
    return " ".join(_SIGN.sub(lambda m: f" {_SIGNS[m[0]]} ", link).split())


def _number(written: str, british: bool) -> str:
    code = written.isdigit() and written.startswith("0") and len(written) > 1
    return digits(written) if code else cardinal(written, british)
