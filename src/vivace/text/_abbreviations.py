"""English abbreviations, initials and Roman numerals as words.

espeak-ng ends a sentence at the full stop of "Dr. Smith" and calls "World War II" "roman two".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from re import Match

from vivace.text._words import cardinal, ordinal

_TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Dr": "Doctor", "Prof": "Professor", "Rev": "Reverend",
    "Hon": "Honorable", "Gen": "General", "Col": "Colonel", "Maj": "Major", "Capt": "Captain", "Lt": "Lieutenant",
    "Sgt": "Sergeant", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Pres": "President",
    "St": "Saint", "Mt": "Mount", "Ft": "Fort",
}  # fmt: skip
_STREETS = {"St": "Street", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Dr": "Drive", "Ln": "Lane"}
_AFTER_NAMES = {
    "Jr": "Junior", "Sr": "Senior", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "Co": "Company",
    "Bros": "Brothers",
}  # fmt: skip
_BEFORE_NUMBERS = {
    "no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "eq": "equation", "sec": "section",
    "ch": "chapter", "vol": "volume", "p": "page", "pp": "pages", "art": "article", "apt": "apartment",
    "ext": "extension", "rm": "room", "ca": "circa",
}  # fmt: skip
_PLAIN = {
    "approx": "approximately", "dept": "department", "incl": "including", "cf": "compare", "vs": "versus",
    "ph.d": "P H D",
}  # fmt: skip
_SLASHED = {"and/or": "and or", "w/o": "without", "w/": "with", "24/7": "twenty-four seven", "9/11": "nine eleven"}
_DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sep|Oct|Nov|Dec)"

# Words that begin a sentence far more often than they follow an abbreviation.
_STARTER = (
    "The|A|An|He|She|It|We|They|You|I|This|That|These|Those|There|Here|His|Her|Its|Our|Their|My|Your|In|On|At|By|For|"
    "From|With|But|And|Or|So|Then|When|While|After|Before|If|As|However|What|Who|Why|How|Where|Is|Are|Was|Were|Do|"
    "Does|Did|Not|No|Yes|Please|Now|Some|Many|Most|All|One|Two|Today|Yesterday|Tomorrow"
)
_SENTENCE_ENDS = re.compile(rf"[\"')\]]*(?:\s*$|\s*\n\s*\n|\s+[\"'(]*(?:{_STARTER})\b)")


def _any(words: Mapping[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_TITLE = re.compile(rf"\b(?:({_any(_TITLES)})\. ?(?=[A-Z]|and (?:Mrs|Ms|Dr)\b)|(Ms) (?=[A-Z]))")
_STREET_NAME = re.compile(rf"\b((?:[A-Z][a-z]+|[0-9]+(?:st|nd|rd|th)) )({_any(_STREETS)})\.")
_AFTER_NAME = re.compile(rf"(?<=[A-Za-z,] )({_any(_AFTER_NAMES)})\.")
_BEFORE_NUMBER = re.compile(rf"\b({_any(_BEFORE_NUMBERS)})\. ?(?=[0-9])", re.IGNORECASE)
_PLAIN_WORD = re.compile(rf"\b({_any(_PLAIN)})\.|\bvs\b", re.IGNORECASE)
_SLASHED_WORD = re.compile(rf"(?<![\w/])({_any(_SLASHED)})(?![\w/])")
_DAY = re.compile(rf"\b({_any(_DAYS)})(?:\.(?=,? (?:{_MONTH}|[0-9]))|(?=,? {_MONTH}))")
_ACRONYM = re.compile(r"(?<![\w.])((?:[A-Za-z]\.){1,8}[A-Za-z])\.(?=\s+[\"'(]?[A-Z0-9])")
_INITIAL = re.compile(r"(?<![^\s(\"'.])([A-HJ-Z])\.(?: (?=[A-Z][\w.'])|(?=[A-Z][a-z]))")
# A name may stand before an initial; "vitamin C." and "Plan B." end sentences.
_BEFORE_INITIAL = re.compile(
    r"(?:^|[.!?:,;(\"'])\s*$|\b(?:[A-Z]\w*|and|by|to|from|of|with)\s+$",
)
_LETTERED = re.compile(
    r"\b(?:Vitamin|Plan|Grade|Group|Type|Class|Section|Option|Appendix|Team|Part|Room|Hepatitis)\s+$"
)

_ROMAN = {"I": 1, "V": 5, "X": 10}
_NUMERAL = r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})"
_COUNTED = (
    "War|Chapter|Part|Volume|Act|Scene|Section|Book|Phase|Type|Class|Level|Stage|Title|Article|Appendix|Figure|Table|"
    "Episode|Season|Mark|Grade|Bowl|Category|Unit|Lesson|Version"
)
_MONARCHS = (
    "Henry|Louis|George|Edward|Charles|William|Elizabeth|James|Richard|John|Paul|Benedict|Pius|Leo|Gregory|Francis|"
    "Philip|Peter|Catherine|Alexander|Nicholas|Napoleon|Ramses|Ramesses|Frederick|Mary|Clement|Innocent|Urban|Otto|"
    "Ferdinand|Alfonso|Christian|Gustav|Haakon|Harald|Olav|Margrethe|Constantine|Wilhelm|Ivan|Robert|Stephen"
)
_ROMAN_COUNT = re.compile(rf"\b((?:{_COUNTED})s? )({_NUMERAL})(?!\w|['.]\w)")
_ROMAN_MONARCH = re.compile(rf"\b((?:{_MONARCHS}) )({_NUMERAL})(?!\w|['.]\w)")
_ROMAN_OTHER = re.compile(rf"\b((?!(?:{_STARTER}) )[A-Z][a-z]+ )((?=[IVX]{{2}}){_NUMERAL})(?!\w|['.]\w)")
_PRONOUN = re.compile(
    r" (?:am|have|had|like|love|hate|think|want|will|would|can|could|should|know|saw|see|met|told|said|do|don't|did|"
    r"didn't|need|wish|hope|believe)\b"
)


def expand(text: str, british: bool) -> str:
    """Expands what is unambiguous in context; a full stop that also ends the sentence stays."""
    text = _SLASHED_WORD.sub(lambda m: _SLASHED[m[1]], text)
    text = _BEFORE_NUMBER.sub(lambda m: _like(m[1], _BEFORE_NUMBERS[m[1].lower()]) + " ", text)
    text = _DAY.sub(lambda m: _DAYS[m[1]], text)
    text = _STREET_NAME.sub(_street, text)
    text = _TITLE.sub(lambda m: _TITLES[m[1] or m[2]] + " ", text)
    text = _AFTER_NAME.sub(lambda m: _AFTER_NAMES[m[1]] + _stop(m), text)
    text = _PLAIN_WORD.sub(lambda m: _like(m[0], _PLAIN[m[0].lower().rstrip(".")]) + _stop(m, m[0].endswith(".")), text)
    text = _ACRONYM.sub(lambda m: m[1] + _stop(m), text)
    text = _INITIAL.sub(_initial, text)
    return _roman(text, british)


def _like(written: str, words: str) -> str:
    return words[0].upper() + words[1:] if written[0].isupper() else words


def _ends(text: str, index: int) -> bool:
    return _SENTENCE_ENDS.match(text, index) is not None


def _stop(match: Match[str], written: bool = True) -> str:
    return "." if written and _ends(match.string, match.end()) else ""


def _street(match: Match[str]) -> str:
    """ "Main St. is" -> "Main Street is", but "Visit St. Paul" and "Meet Dr. Jones" are left to the titles."""
    ends = _ends(match.string, match.end())
    if not ends and re.compile(" ?[A-Z]").match(match.string, match.end()):
        return match[0]
    return match[1] + _STREETS[match[2]] + ("." if ends else "")


def _initial(match: Match[str]) -> str:
    before = match.string[max(0, match.start() - 30) : match.start()]
    is_name = _BEFORE_INITIAL.search(before) and not _LETTERED.search(before)
    return f"{match[1]} " if is_name and not _ends(match.string, match.start() + 2) else match[0]


def _roman(text: str, british: bool) -> str:
    def is_pronoun(match: Match[str]) -> bool:
        return match[2] == "I" and _PRONOUN.match(match.string, match.end()) is not None

    def count(match: Match[str]) -> str:
        return match[0] if is_pronoun(match) else match[1] + cardinal(str(_value(match[2])), british)

    def monarch(match: Match[str]) -> str:
        return match[0] if is_pronoun(match) else f"{match[1]}the {ordinal(_value(match[2]), british)}"

    text = _ROMAN_COUNT.sub(count, text)
    text = _ROMAN_MONARCH.sub(monarch, text)
    return _ROMAN_OTHER.sub(count, text)


def _value(numeral: str) -> int:
    values = [_ROMAN[letter] for letter in numeral]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
