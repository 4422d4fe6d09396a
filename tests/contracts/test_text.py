"""Every text front end: ids of each sentence, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.samples import VOICES
from vivace.core import registry
from vivace.core.errors import ModelError, TextError

FRONT_ENDS = registry.names("text")


def tokens(name: str, text: str, voice: Mapping[str, Any] | None = None) -> list[list[int]]:
    return list(registry.load("text", name).tokens(text, VOICES[name] if voice is None else voice))


def test_every_front_end_has_a_sample() -> None:
    assert sorted(VOICES) == FRONT_ENDS, "add settings of a voice to tests/contracts/samples.py"


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_sentences_become_ids(name: str) -> None:
    found = tokens(name, "Hello there. How are you")
    assert found
    assert all(ids and all(type(i) is int and i >= 0 for i in ids) for ids in found)
    assert found == tokens(name, "Hello there. How are you")


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("text", ["", "   \n", "…", "\u200b"])
def test_nothing_to_speak_is_an_error(name: str, text: str) -> None:
    with pytest.raises(TextError):
        tokens(name, text)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_settings_that_do_not_serve_are_an_error(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        tokens(name, "hello", {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FRONT_ENDS)
@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_ids_or_nothing_to_speak(name: str, text: str) -> None:
    try:
        found = tokens(name, text)
    except TextError as error:
        assert "\n" not in str(error)
    else:
        assert found
        assert all(found)
