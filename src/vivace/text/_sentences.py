"""Splits text into sentences of bounded length, losing nothing: what is cut at is always whitespace, or no character.

The rules are those of pysbd (a port of the Pragmatic Segmenter). It is quadratic in places and can lose track of
odd characters, so it sees windows of bounded size and is asked only where sentences end.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from vivace.core.errors import MissingDependency

LIMIT = 500
BLOCK = 1000  # characters
_BLANK_LINE = re.compile(r"\n\s*\n")
_CLAUSE_END = re.compile(r"[,;:)\]\u2014\u2013\u060c\u061b](?=\s)|[\u3001\uff0c\uff1b\uff1a]")
_PLAIN_END = re.compile(r"[.!?][\"')\]]*\s+")
# A full stop behind so long a word ends no abbreviation.
_SURE_END = re.compile(r"[a-z]{7}[.!?] (?=[A-Z][a-z])")
_WORD = "[A-Za-z\u00c0-\u00ff]+(?:['\u2019-][A-Za-z\u00c0-\u00ff]+)*"
_ONE_SENTENCE = re.compile(f"(?:{_WORD},? )*{_WORD}[.!?]?")  # nothing at which pysbd could part it
_FULL_STOPS = frozenset("\u3002\uff01\uff1f\uff61")  # the scripts that use these put no space after them


def split(text: str, language: str = "en", limit: int = LIMIT) -> Iterator[str]:
    """The sentences of `text` in order, each at most `limit` characters, without outer whitespace; found as they are
    asked for.

    A blank line ends a sentence, a single line end is a space. A longer sentence is cut at clause punctuation, else
    at whitespace, else anywhere but inside a combining sequence. `language` is a code such as "en" or "en-us"; one
    that pysbd does not know gets the English rules. Raises MissingDependency if pysbd is needed and missing.
    """
    for paragraph in paragraphs(text):
        for sentence in _sentences(paragraph, language, limit):
            yield from cut(sentence, limit)


def paragraphs(text: str) -> list[str]:
    """What blank lines part, each on one line with single spaces."""
    return [joined for paragraph in _BLANK_LINE.split(text) if (joined := " ".join(paragraph.split()))]


def blocks(paragraph: str, size: int = BLOCK) -> Iterator[str]:
    """The paragraph in pieces that end where a sentence surely does, each but the last of more than `size`
    characters: what has to see a whole piece need not see the whole of a long text."""
    start = 0
    while end := _SURE_END.search(paragraph, start + size):
        yield paragraph[start : end.end()].rstrip()
        start = end.end()
    yield paragraph[start:]


def _sentences(text: str, language: str, limit: int) -> Iterator[str]:
    size = limit + limit // 5  # what fills a window has to be cut in any case
    while text:
        window = text if len(text) <= size else text[: _word_end(text, size)]
        ends = _ends(window, language)
        if len(window) < len(text):
            # The last sentence of a window may go on behind it; one that fills a window is cut anyway.
            ends = ends[:-1] or [_clause_end(window, limit)]
        start = 0
        for end in ends:
            if sentence := text[start:end].strip():
                yield sentence
            start = end
        text = text[start:]


def _ends(window: str, language: str) -> list[int]:
    """Where sentences end, the end of the window included."""
    if _ONE_SENTENCE.fullmatch(window):
        return [len(window)]
    try:
        import pysbd
        from pysbd.languages import LANGUAGE_CODES
    except ImportError:
        raise MissingDependency("pysbd", "piper") from None
    code = re.split("[-_]", language.lower())[0]
    # A Segmenter keeps the text that it works on, so threads cannot share one.
    segmenter = pysbd.Segmenter(language=code if code in LANGUAGE_CODES else "en", char_span=True)
    try:
        ends = {span.end for span in segmenter.segment(window)}
    except re.error:  # it builds patterns out of the text, in German for one ("z+b" passes for "z.b.")
        ends = {m.end() for m in _PLAIN_END.finditer(window)}
    inner = [e for e in ends if e < len(window) and (window[e - 1].isspace() or window[e - 1] in _FULL_STOPS)]
    return [*sorted(inner), len(window)]


def cut(sentence: str, limit: int) -> Iterator[str]:
    """The sentence in pieces of at most `limit` characters, at least 1."""
    while len(sentence) > limit:
        end = _clause_end(sentence, limit)
        yield sentence[:end].rstrip()
        sentence = sentence[end:].lstrip()
    if sentence:
        yield sentence


def _clause_end(text: str, limit: int) -> int:
    """The last good place to cut in the first `limit` characters; clause ends in the first third are too early."""
    ends = [m.end() for m in _CLAUSE_END.finditer(text, 0, limit) if m.end() > limit // 3]
    return ends[-1] if ends else _word_end(text, limit)


def _word_end(text: str, limit: int) -> int:
    space = text.rfind(" ", 1, limit + 1)
    return space if space > 0 else grapheme_end(text, limit)


def grapheme_end(text: str, limit: int) -> int:
    """The last index in (0, `limit`] that is not inside a combining or emoji sequence; `limit` if there is none."""
    end = min(limit, len(text))
    while 0 < end < len(text) and _joins(text[end - 1], text[end]):
        end -= 1
    return end or limit


def _joins(left: str, right: str) -> bool:
    if unicodedata.category(right).startswith("M") or "\u200d" in (left, right):
        return True
    if "\U0001f3fb" <= right <= "\U0001f3ff":  # skin tones
        return True
    return all("\U0001f1e6" <= c <= "\U0001f1ff" for c in (left, right))  # flags are pairs of these
