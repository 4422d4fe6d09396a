"""A VITS voice that speaks: three sessions (text, flow, decoder) and a front end, whatever format it came in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.errors import UsageError
from vivace.core.speech import FIRST_CHUNK, Request, Row
from vivace.core.stage import Array, Session, seeded
from vivace.families import _vits_graph as vits
from vivace.families._vits_windows import FLOW_WINDOW, WINDOW, Vocoder, spent


class Voice:
    """An opened VITS voice: one step makes the prior of a sentence (all its frames), `render` makes samples of it."""

    most_rows = 2**31  # each holds its own memory

    def __init__(
        self,
        bundle: Bundle,
        sessions: Mapping[str, Session],
        front_end: str,
        config: Mapping[str, Any],
        default_speaker: int,
    ) -> None:
        """`config`: what the front end of that name reads of the voice."""
        defaults = bundle.defaults
        multiple = int(defaults.get("frame_multiple", 1))
        runtime = registry.load("runtimes", bundle.stage(vits.FLOW).runtime)
        self._bundle = bundle
        self._text = sessions[vits.TEXT]
        self._front_end, self._config, self._default_speaker = front_end, config, default_speaker
        self._vocoder = Vocoder(
            sessions[vits.FLOW],
            sessions[vits.DECODER],
            int(defaults["hop"]),
            int(defaults["overlap"]),
            defaults.get("flow_overlap"),  # bundles of before have none
            int(defaults.get("window", WINDOW)),
            multiple=multiple,
            flow_multiple=multiple if getattr(runtime, "PER_SIZE", False) else 1,
            cropped_overlap=defaults.get("cropped_overlap"),
        )

    def warm(self) -> None:
        """See Vocoder.warm."""
        request = Request("warm", "a")
        row = Row(request, np.zeros(1, np.int64), seeded(0))
        self._advance([row], np.array(self._scales(request), np.float32))
        self._vocoder.warm(row.state["prior"])

    def encode(self, request: Request) -> Iterator[Array]:
        self._speaker(request)
        front_end = registry.load("text", self._front_end)
        return (np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._config))

    def advance(self, rows: Sequence[Row]) -> None:
        """Rows that share their scales run as one batch: the graph takes one set of scales for a run."""
        groups: dict[tuple[float, float, float], list[Row]] = {}
        for row in rows:
            groups.setdefault(self._scales(row.request), []).append(row)
        for scales, group in groups.items():
            self._advance(group, np.array(scales, np.float32))

    def _advance(self, rows: list[Row], scales: Array) -> None:
        lengths = np.array([len(row.tokens) for row in rows], np.int64)
        tokens = np.zeros((len(rows), int(lengths.max())), np.int64)
        duration_noise = np.zeros((len(rows), vits.DURATION_CHANNELS, tokens.shape[1]), np.float32)
        for k, row in enumerate(rows):
            tokens[k, : lengths[k]] = row.tokens
            duration_noise[k, :, : lengths[k]] = _normal(row, (vits.DURATION_CHANNELS, int(lengths[k])))
        speakers = np.array([self._speaker(row.request) for row in rows], np.int64)
        feed = {
            "input": tokens,
            "input_lengths": lengths,
            "scales": scales,
            "sid": speakers,
            vits.DURATION_NOISE: duration_noise,
        }
        made = self._text.run(feed)
        frames = made[vits.MASK].sum(axis=(1, 2)).astype(int)
        for k, row in enumerate(rows):
            prior = {name: _own(array, k, int(frames[k])) for name, array in made.items()}
            prior[vits.PRIOR_NOISE] = _normal(row, prior[vits.MEAN].shape[1:])[None]
            row.frames, row.fitted = prior[vits.MEAN][0], self._vocoder.chunk
            row.state = {"prior": {**prior, "scales": scales, "sid": speakers[k : k + 1]}, "latent": None}
            row.done = True

    def release(self, row: Row) -> None:
        """Nothing is held outside the row."""

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        return [self._render(row) for row in rows]

    def _render(self, row: Row) -> Audio:
        """In a stream, the flow runs ahead by as much as the listener has to play meanwhile; further, where chunks are
        larger than they must be: then many are waiting, and context that is computed twice counts more."""
        stop, first = row.rendered + row.due, row.request.chunk_frames
        ahead = row.before + row.rendered + 4 * max(0, first - FIRST_CHUNK) if first else FLOW_WINDOW
        prior, latent = row.state["prior"], row.state["latent"]
        latent = self._vocoder.grown(prior, latent, stop, ahead)
        if latent.made == prior[vits.MEAN].shape[-1]:
            prior = spent(prior)
            row.frames = prior[vits.MEAN][0]
        row.state = {"prior": prior, "latent": latent}
        samples, latent = self._vocoder.samples(prior, latent, row.rendered, stop, ahead)
        row.rendered, row.state = stop, {"prior": prior, "latent": latent}
        return Audio(samples, self._bundle.sample_rate)

    def _scales(self, request: Request) -> tuple[float, float, float]:
        defaults = self._bundle.defaults
        noise = defaults["noise_scale"] if request.noise_scale is None else request.noise_scale
        noise_w = defaults["noise_w"] if request.noise_w is None else request.noise_w
        return (noise, defaults["length_scale"] / request.speed, noise_w)

    def _speaker(self, request: Request) -> int:
        voices = self._bundle.voices
        if not request.voice or request.voice == self._bundle.name:
            return self._default_speaker
        if request.voice in voices:
            return voices.index(request.voice)
        known = ", ".join(voices[:8]) + (" ..." if len(voices) > 8 else "") or self._bundle.name
        raise UsageError(f"unknown voice {request.voice!r}; known: {known}")


def _normal(row: Row, shape: tuple[int, ...]) -> Array:
    return row.rng.standard_normal(shape, dtype=np.float32)


def _own(array: Array, k: int, frames: int) -> Array:
    """Row k of what the text stage made of a batch, without the padding: a copy, so that the batch can go."""
    return array[k : k + 1, ..., : max(frames, 1)].copy()
