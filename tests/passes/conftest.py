from __future__ import annotations

from pathlib import Path

import pytest

from passes.stage_maker import bundle_of, encoder, rows, vocoder
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context


@pytest.fixture
def context() -> Context:
    return Context(calibration=rows)


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    """Two ONNX stages, `text` and `decoder`, and a stage in another format."""
    return bundle_of({"text": encoder(), "decoder": vocoder()}, tmp_path / "small")
