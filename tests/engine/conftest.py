from __future__ import annotations

from typing import Any

import pytest

from vivace.core.bundle import Bundle


@pytest.fixture(params=[1, 5], ids=["one-shot", "multi-step"])
def voice(request: pytest.FixtureRequest, make_toy: Any) -> Bundle:
    return make_toy(voices=["ann", "bob"], steps=request.param)
