"""The clips of a report: which files it names, their bytes as data URIs, and their spectrograms."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from vivace.core.audio import Audio
from vivace.core.errors import BundleError
from vivace.workflows._report_story import Story, Variant

EMBEDDED = 3_400_000  # bytes of audio in the page; base64 makes it a third more
BANDS = 80
COLUMNS = 640  # of a spectrogram; longer clips are drawn more coarsely
_TYPES = {".flac": "audio/flac", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".opus": "audio/ogg"}


@dataclass(frozen=True)
class Clip:
    """One recording of a text. `source` is a data URI, or the file beside the page where that grew too large."""

    id: str
    variant: Variant
    file: str
    source: str


@dataclass(frozen=True)
class Listening:
    """All recordings of one text; `original` and `final` are the pair to compare, where both are there."""

    text: str
    clips: tuple[Clip, ...]
    original: Clip | None
    final: Clip | None


def files(story: Story | None) -> list[str]:
    """Every clip file that a report names, those of the original and the final variant first."""
    if story is None:
        return []
    order = [story.original, story.final, *story.variants]
    named = [str(clip.get("file") or "") for v in order for clip in v.data.get("clips") or ()]
    return [name for name in dict.fromkeys(named) if name]


def read(story: Story | None, folder: Path) -> dict[str, bytes]:
    """The clips that lie in the evidence folder. Raises BundleError for a name that leads out of it."""
    found = {}
    for name in files(story):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise BundleError(f"the report names a clip outside its folder ({name}); do not use it")
        if (folder / name).is_file():
            found[name] = (folder / name).read_bytes()
    return found


def listenings(story: Story, audio: Mapping[str, bytes]) -> tuple[Listening, ...]:
    """The clips by text, as far as `audio` holds them."""
    sources = _sources(files(story), audio)
    named = [(v, clip, str(clip.get("file") or "")) for v in story.variants for clip in v.data.get("clips") or ()]
    by_text: dict[str, list[Clip]] = {}
    for k, (v, clip, name) in enumerate(named):
        if name in sources:
            clips = by_text.setdefault(str(clip.get("text") or ""), [])
            clips.append(Clip(f"clip-{k}", v, name, sources[name]))
    return tuple(_listening(story, text, clips) for text, clips in by_text.items())


def _listening(story: Story, text: str, clips: Sequence[Clip]) -> Listening:
    original = next((c for c in clips if c.variant is story.original), None)
    final = next((c for c in clips if story.changed and c.variant is story.final), None)
    return Listening(text, tuple(clips), original, final)


def _sources(names: Sequence[str], audio: Mapping[str, bytes]) -> dict[str, str]:
    room, sources = EMBEDDED, {}
    for name in names:
        if name not in audio:
            continue
        room -= len(audio[name])
        kind = _TYPES.get(PurePosixPath(name).suffix.lower(), "audio/wav")
        embedded = f"data:{kind};base64,{base64.b64encode(audio[name]).decode()}"
        sources[name] = embedded if room >= 0 else quote(name)
    return sources


def decode(name: str, data: bytes) -> Audio:
    """A clip as mono samples. Raises BundleError for bytes that are no audio."""
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BundleError(f"{name} cannot be read as audio ({error}); make the evidence again") from None
    if not len(samples):
        raise BundleError(f"{name} holds no audio; make the evidence again")
    return Audio(samples.mean(axis=1), rate)


def spectrograms(clips: Sequence[Audio]) -> list[NDArray[np.float32]]:
    """Mel spectrograms float32[BANDS, frames] in dB below the loudest spot of all clips, up to the lowest Nyquist."""
    top = min(clip.rate for clip in clips) / 2
    power = [_mel_power(clip, top) for clip in clips]
    loudest = max(float(p.max()) for p in power) or 1.0
    return [10 * np.log10(np.maximum(p / loudest, 1e-8)).astype(np.float32) for p in power]


def _mel_power(clip: Audio, top: float) -> NDArray[np.float64]:
    size = 1024 if clip.rate <= 32_000 else 2048
    hop = max(size // 16, -(-len(clip.samples) // COLUMNS))
    padded = np.pad(clip.samples.astype(np.float64), (size // 2, size))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[: len(clip.samples) : hop]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)) ** 2
    return np.asarray((spectrum @ _filters(size, clip.rate, top)).T)


def _filters(size: int, rate: int, top: float) -> NDArray[np.float64]:
    """Triangular mel filters [bins, BANDS], each of unit sum."""
    edges = 700 * (10 ** (np.linspace(0, np.log10(1 + top / 700), BANDS + 2)) - 1)
    at = np.fft.rfftfreq(size, 1 / rate)[:, None]
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    # A low band is narrower than a bin: widen it to one bin, so that none is empty.
    reach = rate / size
    rise, fall = np.maximum(mid - low, reach), np.maximum(high - mid, reach)
    weights = np.maximum(0, np.minimum((at - mid) / rise + 1, (mid - at) / fall + 1))
    return np.asarray(weights / weights.sum(axis=0))
