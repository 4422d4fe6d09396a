from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.listening.links import LinkRefused, Pass, sign, verify

SECRET = b"a secret"


def test_there_and_back() -> None:
    token = sign(SECRET, "listener", "ab-12", 2000.5)
    assert verify(SECRET, token, "listener", 1999.9) == Pass("listener", "ab-12", 2000)
    with pytest.raises(LinkRefused, match="expired"):
        verify(SECRET, token, "listener", 2000)
    with pytest.raises(LinkRefused, match="something else"):
        verify(SECRET, token, "results", 10)
    with pytest.raises(LinkRefused, match="not valid"):
        verify(b"another secret", token, "listener", 10)


@pytest.mark.parametrize(
    "token", ["", ".", "a.b.c.d", "listener.1.99.", "listener.1.x." + "A" * 43, "é.1.2.3", "a" * 9999]
)
def test_nonsense(token: str) -> None:
    with pytest.raises(LinkRefused):
        verify(SECRET, token, "listener", 0)


@given(st.integers(0, 80), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_letter_is_noticed(at: int, letter: str) -> None:
    token = sign(SECRET, "listener", "ab-12", 2000)
    at %= len(token)
    changed = token[:at] + letter + token[at + 1 :]
    if changed != token:
        with pytest.raises(LinkRefused):
            verify(SECRET, changed, "listener", 10)


def test_nobody_lives_longer_by_writing_another_date() -> None:
    token = sign(SECRET, "listener", "ab-12", 2000)
    with pytest.raises(LinkRefused, match="not valid"):
        verify(SECRET, token.replace("2000", "9999"), "listener", 10)
