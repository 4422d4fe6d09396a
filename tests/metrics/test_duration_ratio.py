from __future__ import annotations

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import duration_ratio


def test_seconds_over_seconds_whatever_the_rates() -> None:
    a, b = Audio(np.zeros(8000, np.float32), 16000), Audio(np.zeros(44100, np.float32), 44100)
    assert duration_ratio.score(a, "", b) == 0.5
    assert duration_ratio.score(b, "", a) == 2.0
    assert duration_ratio.score(a, "", a) == 1.0


def test_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="reference"):
        duration_ratio.score(Audio(np.zeros(10, np.float32), 16000), "", None)
