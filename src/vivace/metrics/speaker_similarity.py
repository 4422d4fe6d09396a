"""Whether a pass changed who is speaking: the cosine between voice embeddings of a clip and of its reference.

The encoder is Resemblyzer's (generalized end-to-end loss, Wan et al. 2018; 1.6 s windows over 40 mel powers).
`scripts/convert_resemblyzer.py` makes the model file and shows that it embeds as the original does. The package's
trimming of pauses is left out: the clips compared say the same words.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vivace.core.audio import Audio, Samples
from vivace.metrics._neural import DATA, RATE, session, silent, speech

SUMMARY = "cosine similarity of the speaker to the reference's (Resemblyzer, 0 to 1)"
NEEDS = frozenset({"reference"})
UNIT = ""
BETTER = "up"

MINIMUM = 0.5  # seconds
LEVEL = 10 ** (-30 / 20)  # quieter clips are raised to this root mean square
FFT, HOP, MELS = 400, 160, 40  # 25 ms, 10 ms
WINDOW, STEP = 160, 77  # frames: 1.6 s, 1.3 windows begin in a second
COVERED = 0.75  # the last window is left out if it holds less sound than this

Floats = NDArray[np.float32]


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """The cosine. Of six synthetic voices, different sentences of one reached 0.90 to 0.96, of two 0.37 to 0.92: a
    low figure proves a changed voice, a high one does not prove the same voice.

    Raises ValueError if there is no reference, or a clip is silent, not finite, or shorter than 0.5 s.
    """
    if reference is None:
        raise ValueError("speaker similarity needs a reference, and none was given")
    ours, theirs = (embedding(speech(clip, MINIMUM)) for clip in (audio, reference))
    return float(np.clip(ours @ theirs, 0.0, 1.0))


def embedding(samples: Samples) -> Floats:
    """The speaker in 16 kHz samples, float32 [256] of unit length. Raises ValueError for silence."""
    if silent(samples):
        raise ValueError("the audio is silent; there is no voice to compare")
    samples = samples * np.float32(max(1.0, LEVEL / np.sqrt(np.mean(samples.astype(np.float64) ** 2))))
    starts = windows(len(samples))
    samples = np.pad(samples, (0, max(0, (starts[-1] + WINDOW) * HOP - len(samples))))
    powers = mel_powers(samples)
    cut = np.stack([powers[at : at + WINDOW] for at in starts])
    mean = session(DATA / "resemblyzer.onnx").run(None, {"mels": cut})[0].mean(axis=0)
    unit: Floats = mean / np.linalg.norm(mean)
    return unit


def windows(length: int) -> range:
    """The frames at which the windows over `length` samples begin; at least one."""
    frames = -(-(length + 1) // HOP)
    starts = range(0, max(1, frames - WINDOW + STEP + 1), STEP)
    if len(starts) > 1 and (length / HOP - starts[-1]) / WINDOW < COVERED:
        return starts[:-1]
    return starts


def mel_powers(samples: Samples) -> Floats:
    """Mel powers [1 + n // 160, 40] of Hann windows of 25 ms around every 10 ms, as librosa defines them."""
    padded = np.pad(samples, FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)).astype(np.float32)
    spectrum = np.fft.rfft(frames * hann)
    return np.asarray((spectrum.real**2 + spectrum.imag**2) @ _filters(), dtype=np.float32)


@cache
def _filters() -> Floats:
    """Triangles of equal area [bins, bands] on Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    linear, step = 1000 / (200 / 3), np.log(6.4) / 27
    top = linear + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < linear, mels * 200 / 3, 1000 * np.exp(step * (mels - linear)))
    frequencies = np.linspace(0, RATE / 2, FFT // 2 + 1)[:, None]
    rise = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))
    return np.asarray(weights, dtype=np.float32)
