from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vivace.core.audio import Audio, join


def audio(values: list[float], rate: int = 8000) -> Audio:
    return Audio(np.array(values, np.float32), rate)


def test_seconds_are_samples_over_rate() -> None:
    assert audio([0.0] * 4000).seconds == 0.5


def test_pcm16_clips_instead_of_wrapping() -> None:
    assert np.frombuffer(audio([-3.0, -1.0, 0.0, 1.0, 3.0]).pcm16(), "<i2").tolist() == [
        -32767,
        -32767,
        0,
        32767,
        32767,
    ]


@given(hnp.arrays(np.float32, st.integers(0, 200), elements=st.floats(-1, 1, width=32)))
def test_wav_holds_the_samples_to_16_bits(samples: np.ndarray) -> None:
    with wave.open(io.BytesIO(Audio(samples, 22050).wav())) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        read = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    assert len(read) == len(samples)
    assert np.abs(read - samples).max(initial=0) <= 1 / 32767


@given(st.lists(st.lists(st.floats(-1, 1, width=32), max_size=5), min_size=1, max_size=5))
def test_join_keeps_every_sample_in_order(pieces: list[list[float]]) -> None:
    joined = join([audio(piece) for piece in pieces])
    assert joined.samples.tolist() == [sample for piece in pieces for sample in piece]


@pytest.mark.parametrize("pieces", [[], [audio([0.0], 8000), audio([0.0], 16000)]])
def test_join_refuses_none_and_mixed_rates(pieces: list[Audio]) -> None:
    with pytest.raises(ValueError, match="cannot join"):
        join(pieces)
