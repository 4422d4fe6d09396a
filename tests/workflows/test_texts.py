"""The sentence sets: long enough, balanced from the first sentence on, and strangers to each other."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from vivace.core.errors import UsageError
from vivace.workflows import texts

SETS = {
    "evaluation": texts.evaluation(),
    "calibration": texts.calibration(),
    "latency": list(texts.latency().values()),
}


def kind(text: str) -> str:
    return "short" if len(text) < 40 else "medium" if len(text) <= 110 else "long"


def five_words(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w']+", text.lower())
    return {tuple(words[k : k + 5]) for k in range(len(words) - 4)}


def test_sizes() -> None:
    assert len(SETS["evaluation"]) >= 100
    assert len(SETS["calibration"]) == 64
    assert list(texts.latency()) == ["short", "medium", "long"]
    assert [len(t) for t in SETS["latency"]] == [13, 50, 258]


@pytest.mark.parametrize(("one", "other"), list(combinations(SETS, 2)))
def test_the_sets_share_no_five_words_in_a_row(one: str, other: str) -> None:
    a, b = (set().union(*map(five_words, SETS[name])) for name in (one, other))
    assert not a & b
    assert not set(SETS[one]) & set(SETS[other])


@pytest.mark.parametrize("name", SETS)
def test_every_text_is_one_plain_sentence_or_two(name: str) -> None:
    assert len(set(SETS[name])) == len(SETS[name])
    for text in SETS[name]:
        assert 10 <= len(text) <= 280
        assert text.isascii()
        assert re.search(r"[.?!]\"?$", text)


def test_every_prefix_of_the_evaluation_set_is_a_balanced_mix() -> None:
    for n in range(1, len(SETS["evaluation"]) + 1):
        count = Counter(map(kind, SETS["evaluation"][:n]))
        assert max(count.values()) - min(count.get(k, 0) for k in texts.LENGTHS) <= 1


@pytest.mark.parametrize("n", [24, 40, 60, 100])
def test_usual_prefixes_are_as_long_and_as_mixed_as_the_whole(n: int) -> None:
    whole, part = SETS["evaluation"], texts.evaluation(n)
    mean = sum(map(len, whole)) / len(whole)
    assert sum(map(len, part)) / n == pytest.approx(mean, rel=0.06)
    for sign in ("?", "!", '"', "1", ","):
        assert any(sign in text for text in part)


def test_the_first_n() -> None:
    assert texts.evaluation(7) == SETS["evaluation"][:7]
    assert texts.calibration(64) == SETS["calibration"]


@pytest.mark.parametrize("n", [0, -1, 10_000])
def test_more_than_there_are_or_less_than_one(n: int) -> None:
    for load in (texts.evaluation, texts.calibration):
        with pytest.raises(UsageError, match=str(n)):
            load(n)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_bytes("\ufeffGrüße aus Köln.\r\n\r\n  Two words \n".encode())
    assert texts.from_file(file) == ["Grüße aus Köln.", "Two words"]
    assert texts.from_file(str(file)) == texts.from_file(file)


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text("\n  \n", encoding="utf-8")
    other.write_bytes("Grüße".encode("latin-1"))
    for path, words in (
        (tmp_path / "none.txt", "No such file"),
        (tmp_path, "director"),
        (empty, "no text"),
        (other, "UTF-8"),
    ):
        with pytest.raises(UsageError, match=words):
            texts.from_file(path)
