"""What the metrics share: checks, resampling, spectra and time alignment. No metric itself.

All levels are in dB relative to a full-scale sine (which reads 0 dB in the bin of its frequency).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vivace.core.audio import Audio, Samples

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

WINDOW = 0.025  # seconds
HOP = 0.010  # seconds
BANDS = 40
INAUDIBLE = 70.0  # dB below speech, in one band
FLOOR = -140.0  # dB: gives digital silence a finite level
SILENT = -60.0  # dB: a clip that never rises above it holds no speech


def checked(audio: Audio) -> Samples:
    """The samples of `audio`. Raises ValueError if there are none, if one is not finite, or if they are not mono."""
    samples = np.asarray(audio.samples, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"the audio has shape {samples.shape}; a metric judges mono audio")
    if samples.size == 0:
        raise ValueError("the audio is empty")
    if not np.isfinite(samples).all():
        raise ValueError("the audio holds samples that are not finite")
    return samples


def resample(audio: Audio, rate: int) -> Samples:
    """The samples of `audio` at `rate` Hz, float32 (libsoxr, quality HQ). Raises ValueError as `checked` does."""
    samples = checked(audio)
    if audio.rate == rate:
        return samples
    import soxr

    resampled = np.asarray(soxr.resample(samples, audio.rate, rate, quality="HQ"), dtype=np.float32)
    if resampled.size == 0:
        raise ValueError(f"the audio is too short ({samples.size} samples at {audio.rate} Hz)")
    return resampled


def pair(audio: Audio, reference: Audio | None) -> tuple[Samples, Samples, int]:
    """Both clips at the lower of their two rates, and that rate. Raises ValueError also if there is no reference."""
    if reference is None:
        raise ValueError("this metric compares with a reference, and none was given")
    rate = min(audio.rate, reference.rate)
    return resample(audio, rate), resample(reference, rate), rate


def decibels(power: Floats | np.float64) -> Floats:
    """10 log10, never below `FLOOR`."""
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10))), dtype=np.float64)


def frames(samples: Samples, rate: int, window: float = WINDOW, hop: float = HOP) -> Floats:
    """Overlapping pieces [n, round(window * rate)] of the clip, each without its own mean: an offset is no sound.

    The last piece is filled up with the last sample.
    """
    size, step = round(window * rate), round(hop * rate)
    count = 1 + max(0, -(-(len(samples) - size) // step))
    padded = np.full((count - 1) * step + size, samples[-1], dtype=np.float64)
    padded[: len(samples)] = samples
    cut = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    return np.asarray(cut - cut.mean(axis=1, keepdims=True), dtype=np.float64)


def levels(samples: Samples, rate: int, window: float = WINDOW, hop: float = HOP) -> Floats:
    """The level of each frame [n] in dB."""
    return decibels(2 * (frames(samples, rate, window, hop) ** 2).mean(axis=1))


def speech_level(frame_levels: Floats) -> float:
    """The level of speech in dB: the power mean of the frames no more than 30 dB below the loudest.

    A simple form of the active speech level of ITU-T P.56, which pauses do not lower.
    """
    active = frame_levels[frame_levels >= frame_levels.max() - 30]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


def spectrogram(samples: Samples, rate: int) -> Floats:
    """Power spectra [frames, bins] of Hann windows of 25 ms every 10 ms, zero-padded to twice their length or more."""
    cut = frames(samples, rate)
    window = np.hanning(cut.shape[1])
    size = 1 << (2 * cut.shape[1] - 1).bit_length()
    spectrum = np.fft.rfft(cut * (window * (2 / window.sum())), size)
    return np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float64)


def mel(power: Floats, rate: int, bands: int = BANDS) -> Floats:
    """The mean power [frames, bands] of triangular bands, equally wide on the mel scale, up to half the rate."""
    return np.asarray(power @ _filters(rate, power.shape[1], bands), dtype=np.float64)


def log_mel(samples: Samples, rate: int, bands: int = BANDS) -> Floats:
    """Mel band levels [frames, bands] in dB relative to the clip's speech level, none lower than `-INAUDIBLE`.

    Without that floor, noise that nobody hears would decide over the distance of two pauses.
    """
    relative = decibels(mel(spectrogram(samples, rate), rate, bands)) - speech_level(levels(samples, rate))
    return np.maximum(relative, -INAUDIBLE)


@cache
def _filters(rate: int, bins: int, bands: int) -> Floats:
    """Weights [bins, bands]; O'Shaughnessy's mel scale (2595 log10(1 + f / 700))."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, bins)[:, None]
    rise = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rise, fall))
    weights /= weights.sum(axis=0)
    weights.setflags(write=False)
    return np.asarray(weights, dtype=np.float64)


def cepstra(log_levels: Floats, order: int = 24) -> Floats:
    """Cosine-series coefficients 1 to `order` [frames, order] of ln(amplitude), from mel band levels in dB.

    ln(amplitude at position x of the mel axis, 0 to 1) = c_0 + sum of c_k cos(pi k x): the form for which the
    mel-cepstral distance is the root mean square difference of two spectra in dB.
    """
    bands = log_levels.shape[1]
    cosines = np.cos(np.pi * np.outer(np.arange(bands) + 0.5, np.arange(1, order + 1)) / bands)
    return np.asarray(log_levels @ cosines * (np.log(10) / 20 * 2 / bands), dtype=np.float64)


def runs(mask: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Where each run of true values starts, and the index after its end."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges[::2], edges[1::2]


def align(a: Floats, b: Floats, slack: int = 100) -> tuple[Indices, Indices]:
    """Dynamic time warping of feature frames a [n, d] and b [m, d]: the path as two index arrays of equal length.

    Steps (1, 1), (1, 0), (0, 1) of equal weight and Euclidean cost (Sakoe and Chiba 1978), within a band around
    the straight line: `slack` frames and the difference in length, 500 at most, so that memory and time grow
    linearly with the length of the clips.
    """
    n, m = len(a), len(b)
    if n == 1 or m == 1:
        long = np.arange(max(n, m))
        return (np.zeros_like(long), long) if n == 1 else (long, np.zeros_like(long))
    slope = (m - 1) / (n - 1)
    radius = max(min(slack + abs(n - m), 500), 1 + slope)
    moves: list[tuple[int, NDArray[np.uint8]]] = []
    last = before = np.full(n + 1, np.inf)  # costs of the last two anti-diagonals, at index i + 1
    for k in range(n + m - 1):
        low = max(0, k - m + 1, int(np.ceil((k - radius) / (1 + slope))))
        high = min(n - 1, k, int((k + radius) // (1 + slope)))
        difference = a[low : high + 1] - b[k - high : k - low + 1][::-1]
        cost = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        came = np.stack([before[low : high + 1], last[low : high + 1], last[low + 1 : high + 2]])
        move = came.argmin(axis=0).astype(np.uint8)
        moves.append((low, move))
        now = np.full(n + 1, np.inf)
        now[low + 1 : high + 2] = cost if k == 0 else cost + came.min(axis=0)
        before, last = last, now
    i, k = n - 1, n + m - 2
    path = [(i, k - i)]
    while k > 0:
        low, move = moves[k]
        step = move[i - low]
        i, k = i - (step < 2), k - (2 if step == 0 else 1)
        path.append((int(i), int(k - i)))
    along = np.array(path[::-1], dtype=np.intp)
    return along[:, 0], along[:, 1]
