from __future__ import annotations

from pathlib import Path

import pytest

from core.bundle_maker import SAMPLE, fill
from vivace.core.bundle import Bundle, write_bundle


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "voice", SAMPLE, fill)
