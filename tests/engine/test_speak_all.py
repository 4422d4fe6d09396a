"""The whole audio of many requests, each named if it fails."""

from __future__ import annotations

import pytest

from engine.driver import TEXTS, requests
from vivace.core.bundle import Bundle
from vivace.core.errors import VivaceError
from vivace.core.speech import Request
from vivace.engine.pool import Pool, speak_all


def test_speak_all_gives_whole_audio(toy: Bundle) -> None:
    with Pool(toy, 2) as pool:
        spoken = {request.id: audio for request, audio in speak_all(pool, requests())}
    assert set(spoken) == {request.id for request in requests()}
    for name in TEXTS:
        assert spoken[name].samples.shape == spoken[f"{name} in chunks"].samples.shape


def test_speak_all_names_the_text_that_fails(toy: Bundle) -> None:
    with Pool(toy, 2) as pool, pytest.raises(VivaceError, match=r"cannot speak '~~~': .*no letter"):
        list(speak_all(pool, [Request("a", "hi"), Request("b", "~~~")]))
