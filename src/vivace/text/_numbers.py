"""English dates, times, money, units, fractions, ranges and years as words.

Only what espeak-ng misreads: plain numbers, percentages and most ordinals are left to it, in the voice's own accent.
"""

from __future__ import annotations

import re
import unicodedata
from re import Match

from vivace.text import _words
from vivace.text._words import cardinal, ordinal, plural

_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,15})(?:\.[0-9]{1,10})?"
_START = r"(?<![\w.,/:$£€¥-])(?<![0-9] )"  # a number that stands alone, not inside a code, a telephone number or a sum
_MONTHS = {
    "Jan": "January", "Feb": "February", "Mar": "March", "Apr": "April", "May": "May", "Jun": "June", "Jul": "July",
    "Aug": "August", "Sep": "September", "Oct": "October", "Nov": "November", "Dec": "December",
}  # fmt: skip
_NAMES = tuple(_MONTHS.values())
_MONTH = rf"(?P<month>{'|'.join(_NAMES)}|(?:{'|'.join(_MONTHS)}|Sept)\b\.?)"
_YEAR = r"(?P<year>(?:1[1-9]|20)[0-9]{2})(?![0-9]|[.,][0-9])"
_DAY = r"(?P<day>[12][0-9]|3[01]|0?[1-9])"

_ISO_DATE = re.compile(rf"{_START}{_YEAR}-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12][0-9]|3[01])(?![\w/-])")
_SLASH_DATE = re.compile(rf"{_START}([0-9]{{1,2}})/([0-9]{{1,2}})/([0-9]{{4}}|[0-9]{{2}})(?![\w/])")
_DAY_MONTH = re.compile(rf"{_START}(?P<the>the )?{_DAY}(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? {_YEAR})?(?!\w)")
_MONTH_DAY = re.compile(
    rf"\b{_MONTH} {_DAY}(?:st|nd|rd|th)?(?![\w%/]|[.:,-][0-9]|–[0-9]| ?[ap]\.?m\b)(?:,? {_YEAR})?(?!\w)"
)
_MONTH_YEAR = re.compile(rf"\b{_MONTH},? {_YEAR}(?!\w)")
_MONTH_RANGE = re.compile(rf"\b{_MONTH} (?={_DAY}[-–][0-9])")

_CLOCK = re.compile(rf"{_START}(1?[0-9]|2[0-3]):0([0-9])(?![0-9:])(?P<half> ?[aApP]\.?[mM]\b)?")

_CURRENCIES = {
    "$": ("dollar", "cent"), "US$": ("U.S. dollar", "cent"), "C$": ("Canadian dollar", "cent"),
    "CA$": ("Canadian dollar", "cent"), "A$": ("Australian dollar", "cent"), "AU$": ("Australian dollar", "cent"),
    "NZ$": ("New Zealand dollar", "cent"), "HK$": ("Hong Kong dollar", "cent"), "£": ("pound", "penny"),
    "€": ("euro", "cent"), "¥": ("yen", ""), "₹": ("rupee", "paisa"), "₩": ("won", ""),
}  # fmt: skip
_PLURALS = {"penny": "pence", "yen": "yen", "won": "won", "paisa": "paise"}
_MAGNITUDES = {
    "k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "tn": "trillion",
}  # fmt: skip
_MAGNITUDE = r"(?P<magnitude>[ -]?(?:thousand|million|billion|trillion|[mbt]n)\b|[kmb]\b)?"
_SYMBOL = "|".join(re.escape(s) for s in sorted(_CURRENCIES, key=len, reverse=True))
_MONEY = re.compile(
    rf"(?P<article>\b[Aa] )?(?<![\w$])(?P<minus>[-−])?(?P<symbol>{_SYMBOL}) ?(?P<amount>{_NUMBER})"
    rf"(?:(?P<range>[-–])(?:{_SYMBOL})?(?P<to>{_NUMBER}))?{_MAGNITUDE}(?![\w]|[.,][0-9])(?P<per>/(?=[a-z]))?",
    re.IGNORECASE,
)
_MONEY_BEHIND = re.compile(rf"{_START}(?P<amount>{_NUMBER}){_MAGNITUDE} ?(?P<symbol>[$£€¥₹])(?![\w])")

_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "µm": "micrometer", "nm": "nanometer",
    "mi": "mile", "ft": "foot", "yd": "yard", "kg": "kilogram", "g": "gram", "mg": "milligram", "µg": "microgram",
    "lb": "pound", "lbs": "pound", "oz": "ounce", "l": "liter", "L": "liter", "ml": "milliliter", "mL": "milliliter",
    "cl": "centiliter", "dl": "deciliter", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz",
    "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte",
    "kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second", "W": "watt",
    "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "Wh": "watt hour", "kWh": "kilowatt hour",
    "MWh": "megawatt hour", "V": "volt", "kV": "kilovolt", "mV": "millivolt", "mA": "milliamp",
    "mAh": "milliamp hour", "Ω": "ohm", "kΩ": "kilohm", "Pa": "pascal", "kPa": "kilopascal", "dB": "decibel",
    "kJ": "kilojoule", "kcal": "kilocalorie", "s": "second", "sec": "second", "ms": "millisecond",
    "µs": "microsecond", "ns": "nanosecond", "min": "minute", "h": "hour", "hr": "hour", "hrs": "hour",
    "mph": "mile per hour", "kph": "kilometer per hour", "km/h": "kilometer per hour", "m/s": "meter per second",
    "rpm": "revolution per minute", "fps": "frame per second", "px": "pixel", "°C": "degree Celsius",
    "°F": "degree Fahrenheit", "m²": "square meter", "km²": "square kilometer", "cm²": "square centimeter",
    "ft²": "square foot", "m³": "cubic meter", "cm³": "cubic centimeter", "ha": "hectare",
}  # fmt: skip
_UNIT_PLURALS = {"foot": "feet", "hertz": "hertz", "kilohertz": "kilohertz", "megahertz": "megahertz"}
_UNIT_PLURALS |= {"gigahertz": "gigahertz"}
_UNITS |= {unit.replace("µ", "μ"): name for unit, name in _UNITS.items() if "µ" in unit}  # the Greek letter, too
_SPACED_ONLY = frozenset({"s", "h", "W", "V", "L", "l", "g"})  # "the 5s" and "24h" are not a number with a unit
_UNIT = re.compile(
    rf"(?P<article>\b[Aa]n? )?(?<![\w.,/:$£€¥])(?P<minus>(?<!\S)[-−])?(?P<amount>(?<![0-9]-){_NUMBER})(?P<gap>[ -]?)"
    rf"(?P<unit>{'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})"
    r"(?![\w²³/'’+&°-]|\.\w| [0-9]+(?:st|nd|rd|th))"
)
_FEET = re.compile(rf"{_START}([0-9]{{1,2}})'( ?([0-9]{{1,2}})\")?(?!\w)")

_FRACTION_NAMES = {2: "half", 3: "third", 4: "quarter"}
_DENOMINATOR = r"([2-9]|10|16|32|64|100)"
_FRACTION = re.compile(rf"{_START}(?:([0-9]{{1,3}})[ -])?([1-9][0-9]?)[/⁄]{_DENOMINATOR}(?![\w/⁄]|\.[0-9])")
_VULGAR = re.compile(r"([0-9]?) ?([¼½¾⅐-⅞])(?!\w)")

_YEARS = re.compile(rf"{_START}((?:1[1-9]|20)[0-9]{{2}})[-–]((?:1[1-9]|20)?[0-9]{{2}})(?![\w/-])(?!\.[0-9])")
_RANGE = re.compile(
    rf"(?P<pages>\b(?:pages?|pp\.|lines?|rows?|verses?|chapters?|items?|numbers?) )?{_START}"
    r"(?P<low>[0-9]{1,3}(?:\.[0-9]+)?)(?P<dash>[-–])(?P<high>[0-9]{1,3}(?:\.[0-9]+)?)(?![\w/–'-]|[.:,][0-9])"
)
_DECADE = re.compile(r"(?<![\w.,])(?<![0-9]-)(?:'?([2-9]0)|((?:1[1-9]|20)[0-9]0))'?s\b")
_YEAR_IN_CONTEXT = re.compile(
    r"(\b(?:in|since|from|until|till|by|before|after|circa|early|late|mid|year|summer|spring|autumn|fall|winter|and|"
    r"between|of)[ -]|\(|© ?)((?:1[1-9]|20)[0-9]{2})(?![\w%°$£€-]|[.,:/][0-9]| ?%)",
    re.IGNORECASE,
)
_YEAR_ALONE = re.compile(
    r"(?<![\w.,/:$£€¥#+-])(?<![0-9] )(19[0-9]{2}|20[123][0-9])(?![\w%°$£€/–-]|[.,:][0-9]| ?%| [0-9])"
)

_HUNDREDTH = re.compile(r"(?<![\w.,])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{3,15})(?<=00)th\b")
_HASH_NUMBER = re.compile(r"(?<![\w&#])#(?=[0-9]+\b)")
_TIMES = re.compile(r"(?<![\w.,])([0-9]+(?:\.[0-9]+)?)x(?:(?=([0-9]+)(?:x[0-9]+)?\b)|\b)")
_POWER = re.compile(r"(?<=[\w)])(?:\^([0-9]+|[A-Za-z])\b|([²³]))")
_ABOUT = re.compile(r"(?<!\S)[~≈] ?(?=[$£€]?[0-9])")
_ERA = re.compile(r"\bAD(?= [0-9]{1,4}\b)|(?<=[0-9] )AD\b")


def expand(text: str, british: bool) -> str:
    """Expands the numbers that espeak-ng misreads; `british` voices read days first and say "and"."""
    text = _dates(text, british)
    text = _CLOCK.sub(_clock, text)
    text = _ABOUT.sub("about ", text)
    text = _ERA.sub("A.D", text)
    text = _MONEY.sub(lambda m: _money(m, british), text)
    text = _MONEY_BEHIND.sub(lambda m: _amount(m["amount"], m["symbol"], m["magnitude"] or "", british), text)
    text = _VULGAR.sub(_vulgar, text)
    text = _FRACTION.sub(lambda m: _fraction(m, british), text)
    text = _FEET.sub(_feet, text)
    text = _YEARS.sub(lambda m: _years(m, british), text)
    text = _RANGE.sub(_range, text)
    text = _UNIT.sub(lambda m: _unit(m, british), text)
    text = _DECADE.sub(lambda m: _decade(m, british), text)
    text = _YEAR_ALONE.sub(lambda m: _year(m[1], british), text)
    text = _YEAR_IN_CONTEXT.sub(lambda m: m[1] + _year(m[2], british), text)
    text = _HUNDREDTH.sub(lambda m: ordinal(int(m[1].replace(",", "")), british), text)
    text = _HASH_NUMBER.sub("number ", text)
    text = _TIMES.sub(lambda m: f"{m[1]} by " if m[2] else f"{m[1]} times", text)
    return _POWER.sub(_power, text)


def _dates(text: str, british: bool) -> str:
    def words(match: Match[str], the: str) -> str:
        day = ordinal(int(match["day"]), british)
        month = _month(match["month"])
        if the:
            year = f" {_words.year(int(match['year']), british)}" if match["year"] else ""
            return f"{the}{day} of {month}{year}"
        year = f", {_words.year(int(match['year']), british)}" if match["year"] else ""
        return f"{month} {day}{year}"

    text = _ISO_DATE.sub(lambda m: words(m, "the " if british else ""), text)
    text = _SLASH_DATE.sub(lambda m: _slash_date(m, british), text)
    text = _DAY_MONTH.sub(lambda m: words(m, "the "), text)
    text = _MONTH_DAY.sub(lambda m: words(m, ""), text)
    text = _MONTH_YEAR.sub(lambda m: f"{_month(m['month'])} {_year(m['year'], british)}", text)
    return _MONTH_RANGE.sub(lambda m: f"{_month(m['month'])} ", text)


def _month(written: str) -> str:
    return _NAMES[int(written) - 1] if written.isdigit() else _MONTHS[written[:3]]


def _slash_date(match: Match[str], british: bool) -> str:
    """The voice's own order (3/15 or 15/3), unless only the other one is a date."""
    first, second, year = int(match[1]), int(match[2]), int(match[3])
    day, month = (first, second) if british else (second, first)
    if month > 12:
        day, month = month, day
    if not (1 <= month <= 12 and 1 <= day <= 31) or 99 < year < 1100:
        return match[0]
    if year < 100:
        year += 2000 if year < 70 else 1900
    spoken = _words.year(year, british)
    if british:
        return f"the {ordinal(day, british)} of {_NAMES[month - 1]} {spoken}"
    return f"{_NAMES[month - 1]} {ordinal(day)}, {spoken}"


def _clock(match: Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), match["half"] or ""
    if minute:
        return f"{cardinal(str(hour))} oh {cardinal(str(minute))}{half}"
    if half:
        return f"{cardinal(str(hour))}{half}"
    return f"{cardinal(str(hour))} {'hundred' if hour > 12 else 'o' + chr(39) + 'clock'}" if hour else match[0]


def _money(match: Match[str], british: bool) -> str:
    symbol = match["symbol"].upper()
    magnitude = match["magnitude"] or ""
    words = _amount(match["to"] or match["amount"], symbol, magnitude, british, singular=bool(match["article"]))
    if match["to"]:
        words = f"{cardinal(match['amount'], british)} to {words}"
    minus = "minus " if match["minus"] else ""
    return f"{match['article'] or ''}{minus}{words}{' per ' if match['per'] else ''}"


def _amount(amount: str, symbol: str, magnitude: str, british: bool, singular: bool = False) -> str:
    major, minor = _CURRENCIES[symbol]
    if magnitude:
        written = magnitude.lower().lstrip(" -")
        spoken = _MAGNITUDES.get(written, written)
        return f"{cardinal(amount, british)} {spoken} {major if singular else _several(major)}"
    whole, _, decimals = amount.replace(",", "").partition(".")
    if len(decimals) != 2 or not minor:
        one = singular or (whole.lstrip("0") == "1" and not decimals)
        return f"{cardinal(amount, british)} {major if one else _several(major)}"
    units = f"{cardinal(whole, british)} {major if singular or int(whole) == 1 else _several(major)}"
    if decimals == "00":
        return units
    parts = f"{cardinal(decimals, british)} {minor if int(decimals) == 1 else _several(minor)}"
    return f"{units} and {parts}" if int(whole) else parts


def _several(word: str) -> str:
    return _PLURALS.get(word, word + "s")


def _vulgar(match: Match[str]) -> str:
    whole = f"{match[1]} " if match[1] else ""
    return whole + unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")


def _fraction(match: Match[str], british: bool) -> str:
    whole, top, bottom = match[1], int(match[2]), int(match[3])
    if top >= bottom:
        return match[0]
    name = _FRACTION_NAMES.get(bottom) or ordinal(bottom, british).replace(" ", "-")
    several = "halves" if name == "half" else name + "s"
    if whole:
        words = f"a {name}" if top == 1 else f"{cardinal(str(top))} {several}"
        return f"{cardinal(whole, british)} and {words}"
    return f"{cardinal(str(top))} {name if top == 1 else several}"


def _feet(match: Match[str]) -> str:
    if match[3]:
        return f"{cardinal(match[1])} foot {cardinal(match[3])}"
    return match[0]


def _years(match: Match[str], british: bool) -> str:
    first, second = int(match[1]), int(match[2])
    if len(match[2]) == 2:
        if first % 100 >= second:
            return match[0]
        last = cardinal(match[2]) if second >= 10 else f"oh {cardinal(match[2])}"
    else:
        last = _words.year(second, british)
    return f"{_words.year(first, british)} to {last}"


def _range(match: Match[str]) -> str:
    """Three digits, a hyphen and three digits are as often a type ("737-800") as a range: only round ones are.
    A falling range is a score ("3-2") if it is short."""
    low, high, pages = match["low"], match["high"], match["pages"] or ""
    coded = len(low) == len(high) == 3 and (low + high).isdigit() and match["dash"] == "-" and not pages
    odd = coded and not (low.endswith("0") and high.endswith("0"))
    falling = float(low) > float(high) and len(low) > 2
    leading_zero = any(number.startswith("0") and number[1:2].isdigit() for number in (low, high))
    return match[0] if odd or falling or leading_zero else f"{pages}{low} to {high}"


def _unit(match: Match[str], british: bool) -> str:
    unit, gap, amount = match["unit"], match["gap"], match["amount"]
    if unit in _SPACED_ONLY and gap != " ":
        return match[0]
    name = _UNITS[unit]
    if amount != "1" and gap != "-" and not match["article"]:
        head, space, rest = name.partition(" ")
        # "miles per hour" but "square meters" and "watt hours"
        name = f"{_plural_unit(head)}{space}{rest}" if _counts_first(rest) else f"{head} {_plural_unit(rest)}"
    minus = "minus " if match["minus"] else ""
    return f"{match['article'] or ''}{minus}{cardinal(amount, british)}{'-' if gap == '-' else ' '}{name}"


def _counts_first(rest: str) -> bool:
    return not rest or rest.startswith("per ") or rest in ("Celsius", "Fahrenheit")


def _plural_unit(word: str) -> str:
    return _UNIT_PLURALS.get(word, word + "s")


def _decade(match: Match[str], british: bool) -> str:
    if match[1]:
        return plural(cardinal(match[1]))
    return plural(_words.year(int(match[2]), british))


def _year(written: str, british: bool) -> str:
    number = int(written)
    # espeak-ng reads these rightly already
    return written if number % 1000 < 10 else _words.year(number, british)


def _power(match: Match[str]) -> str:
    if match[2]:
        return " squared" if match[2] == "²" else " cubed"
    power = match[1]
    return {"2": " squared", "3": " cubed"}.get(power, f" to the power of {power}")
