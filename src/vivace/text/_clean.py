"""Makes any Python string safe to read, in every language: no front end below this meets odd characters."""

from __future__ import annotations

import re
import unicodedata

# Joiners carry meaning in Arabic and Indic scripts and inside emoji; elsewhere they are invisible debris.
_INVISIBLE = re.compile(
    r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
    r"|(?<![\u0600-\u0dff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
)
_PARAGRAPH_END = re.compile(r"\u2029")
_LINE_END = re.compile(r"\r\n|[\r\x85\u2028\v\f]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ufffe\uffff\ue000-\uf8ff\U000f0000-\U0010ffff]")


def clean(text: str) -> str:
    """The same text in NFC, with "\\n" as its only line end.

    Surrogate pairs become the characters that they encode; lone surrogates, control, private-use and replacement
    characters become spaces; zero-width characters, direction marks and soft hyphens are taken out.
    """
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = _PARAGRAPH_END.sub("\n\n", text)
    text = _LINE_END.sub("\n", text)
    text = _CONTROL.sub(" ", text)
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
