"""Voices whose network makes log-mels of frames: phonemes by a text front end, mean durations, Griffin-Lim.

The network is given, for every frame, a row of ids of one table, and gives the frame's log-mels. The ids say which
phoneme it is, with `context` neighbours on each side, how far it is from the phoneme's first and last frame, and how
far the phoneme is from the sentence's ends (the features of statistical synthesis: Zen, Tokuda and Black 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError, TextError
from vivace.core.features import LogMel
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, Session
from vivace.families._griffin_lim import GriffinLim
from vivace.families._tasks import Speaker

OUTSIDE = 0  # the id of what is before the first phoneme and behind the last
PLACES = 4  # from the phoneme's first frame, to its last; from the sentence's first phoneme, to its last


def table(adapter: Mapping[str, Any]) -> int:
    """How many different ids there are: what the network's embedding must have rows for."""
    return int(1 + len(adapter["durations"]) + PLACES * adapter["places"])


def columns(adapter: Mapping[str, Any]) -> int:
    """How many ids stand for a frame."""
    return int(2 * adapter["context"] + 1 + PLACES)


def feed(phonemes: Array, lengths: Array, adapter: Mapping[str, Any]) -> Array:
    """int64[frames, columns] of phonemes (each its place in `durations`) and how many frames each lasts."""
    context, places, count = adapter["context"], adapter["places"], len(phonemes)
    padded = np.pad(phonemes + 1, context, constant_values=OUTSIDE)
    around = np.stack([padded[k : k + count] for k in range(2 * context + 1)], axis=1)
    whose = np.repeat(np.arange(count), lengths)
    since = np.arange(len(whose)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    distances = np.stack([since, lengths[whose] - 1 - since, whose, count - 1 - whose], axis=1)
    first = 1 + len(adapter["durations"]) + places * np.arange(PLACES)
    found: Array = np.concatenate([around[whose], first + np.minimum(distances, places - 1)], axis=1)
    return found.astype(np.int64)


def lengths(phonemes: Array, adapter: Mapping[str, Any], speed: float = 1.0) -> Array:
    """int64[phonemes]: whole frames, their mean durations over `speed`; rounding does not add up."""
    mean = np.array(list(adapter["durations"].values()), float)
    ends = np.rint(np.cumsum(mean[phonemes]) / speed).astype(np.int64)
    return np.diff(ends, prepend=0)


class MelSpeaker(Speaker):
    """A sentence is made in one run of the network, and given frame by frame."""

    def __init__(self, bundle: Bundle, adapter: Mapping[str, Any], session: Session) -> None:
        mel = LogMel(**adapter["mel"])
        super().__init__(bundle, {**adapter, "rate": mel.rate, "hop": mel.hop}, session)
        self._phonemes = {int(name): place for place, name in enumerate(adapter["durations"])}
        self._vocoder = GriffinLim(mel)

    def encode(self, request: Request) -> Iterator[Array]:
        self._check_voice(request)
        return self._encode(request)

    def _encode(self, request: Request) -> Iterator[Array]:
        text = self._adapter["text"]
        spoken = False
        for ids in registry.load("text", text["front_end"]).tokens(request.text, text):
            known = np.array([self._phonemes[i] for i in ids if i in self._phonemes], np.int64)
            if len(known) and lengths(known, self._adapter).sum():
                spoken = True
                yield known
        if not spoken:
            raise TextError("this voice knows no sound of the text; write it in the voice's language")

    def advance(self, rows: Sequence[Row]) -> None:
        for row in rows:
            lasting = lengths(row.tokens, self._adapter, row.request.speed)
            lasting[-1] += not lasting.sum()  # a very fast voice says something, too
            given = feed(row.tokens, lasting, self._adapter).astype(self._type)
            made = next(iter(self._session.run({self._input: given[None]}).values()))
            shape = (1, len(given), self._vocoder.mel.mels)
            if made.shape != shape or not np.isfinite(made).all():
                raise ModelError(f"the model gives {list(made.shape)} where finite log-mels {list(shape)} are due")
            samples = self._vocoder(made[0].astype(np.float32), row.rng)
            row.frames = np.clip(samples, -1, 1).reshape(-1, self._hop).T
            row.done = True
