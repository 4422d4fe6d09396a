from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.metrics import dc_offset


@pytest.mark.parametrize("offset", [0.01, -0.05])
def test_it_is_the_distance_of_the_mean_from_zero(speechlike: Callable[..., Audio], offset: float) -> None:
    audio = speechlike()
    assert dc_offset.score(audio, "", None) < dc_offset.TOLERANCE / 5
    shifted = Audio(audio.samples + np.float32(offset), audio.rate)
    assert dc_offset.score(shifted, "", None) == pytest.approx(abs(offset), abs=1e-3)


@pytest.mark.voice
def test_the_real_voice(real_speech: list[Audio]) -> None:
    assert max(dc_offset.score(a, "", None) for a in real_speech) < dc_offset.TOLERANCE / 5
