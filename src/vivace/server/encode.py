"""Audio as bytes in the six formats of OpenAI's interface, chunk by chunk, by FFmpeg's libraries (PyAV) and soxr."""

from __future__ import annotations

import io
import struct
from typing import Any, Protocol

import numpy as np

from vivace.core.audio import Audio
from vivace.server.wire import Format

MEDIA: dict[Format, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
PCM_RATE = 24_000  # of OpenAI's pcm, which has no header to say another
WHOLE: tuple[Format, ...] = ("wav", "flac")  # their headers hold a length
UNKNOWN = 0xFFFFFFFF  # a length in the header of a WAV that is being made: players then read to the end
_CODECS: dict[str, tuple[str, str, str, int]] = {  # container, codec, sample format, bits per second
    "mp3": ("mp3", "libmp3lame", "s16p", 96_000),
    "opus": ("ogg", "libopus", "s16", 48_000),
    "aac": ("adts", "aac", "fltp", 96_000),
    "flac": ("flac", "flac", "s16", 0),
}


class Encoder(Protocol):
    def encode(self, audio: Audio) -> bytes: ...

    def finish(self) -> bytes:
        """What is left after the last chunk."""
        ...


def encoder(form: Format, rate: int) -> Encoder:
    """For one stream of mono audio at `rate` Hz."""
    if form == "pcm":
        return Pcm(rate)
    return Wav(rate) if form == "wav" else Compressed(form, rate)


def whole(form: Format, audio: Audio) -> bytes:
    """A file with its true length in its header, which streams of these two formats cannot have."""
    if form == "wav":
        return audio.wav()
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, audio.samples.clip(-1, 1), audio.rate, format="FLAC")
    return buffer.getvalue()


class Wav:
    """A WAV of unknown length."""

    def __init__(self, rate: int) -> None:
        form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        self._header = struct.pack("<4sI4s4s", b"RIFF", UNKNOWN, b"WAVE", b"fmt ") + form
        self._header += struct.pack("<4sI", b"data", UNKNOWN)

    def encode(self, audio: Audio) -> bytes:
        header, self._header = self._header, b""
        return header + audio.pcm16()

    def finish(self) -> bytes:
        return self._header


class Pcm:
    """16-bit little-endian samples at PCM_RATE."""

    def __init__(self, rate: int) -> None:
        import soxr

        self._stream = soxr.ResampleStream(rate, PCM_RATE, 1, dtype="float32") if rate != PCM_RATE else None

    def encode(self, audio: Audio) -> bytes:
        return self._bytes(audio.samples) if self._stream is None else self._made(audio.samples, last=False)

    def finish(self) -> bytes:
        return b"" if self._stream is None else self._made(np.zeros(0, np.float32), last=True)

    def _made(self, samples: Any, *, last: bool) -> bytes:
        assert self._stream is not None
        return self._bytes(self._stream.resample_chunk(samples, last=last))

    @staticmethod
    def _bytes(samples: Any) -> bytes:
        return Audio(samples, PCM_RATE).pcm16()


class Compressed:
    """A container that is never sought in: what was given stays as it is."""

    def __init__(self, form: Format, rate: int) -> None:
        import av

        container, codec, layout, bits = _CODECS[form]
        self._sink = _Sink()
        paged = {"page_duration": "100000"} if container == "ogg" else {}  # microseconds: a second unless told
        self._container: Any = av.open(self._sink, "w", format=container, options=paged)
        known = av.Codec(codec, "w").audio_rates
        self._rate = rate if not known or rate in known else min((r for r in known if r >= rate), default=max(known))
        stream: Any = self._container.add_stream(codec, rate=self._rate)
        stream.layout, stream.format = "mono", layout
        if bits:
            stream.bit_rate = bits
        stream.codec_context.open()  # now, not with the first audio
        self._stream = stream
        self._resampler = av.AudioResampler(layout, "mono", self._rate)
        self._frame, self._given = av.AudioFrame, 0

    def encode(self, audio: Audio) -> bytes:
        samples = np.ascontiguousarray(audio.samples.clip(-1, 1)[None])
        frame = self._frame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = audio.rate
        frame.pts = self._given
        self._given += samples.shape[1]
        return self._made(self._resampler.resample(frame))

    def finish(self) -> bytes:
        found = self._made([*self._resampler.resample(None), None])
        self._container.close()
        return found + self._sink.taken()

    def _made(self, frames: Any) -> bytes:
        for frame in frames:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        return self._sink.taken()


class _Sink(io.RawIOBase):
    """Collects what the container writes. Not seekable, so that it never goes back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def taken(self) -> bytes:
        found = b"".join(self._parts)
        self._parts.clear()
        return found
