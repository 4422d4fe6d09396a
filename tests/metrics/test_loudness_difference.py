from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import loudness_difference

Speech = Callable[..., Audio]


@pytest.mark.parametrize("decibels", [-12, -3, 0, 6])
def test_it_reads_a_gain(speechlike: Speech, decibels: float) -> None:
    audio = speechlike()
    changed = Audio((audio.samples * 10 ** (decibels / 20)).astype(np.float32), audio.rate)
    assert loudness_difference.score(changed, "", audio) == pytest.approx(decibels, abs=0.01)


def test_pauses_do_not_count(speechlike: Speech) -> None:
    audio = speechlike()
    longer = Audio(np.concatenate([audio.samples, np.zeros(audio.rate * 2, np.float32)]), audio.rate)
    assert loudness_difference.score(longer, "", audio) == pytest.approx(0, abs=0.05)
