"""What models that move in steps share: texts read together, rows stepped together from one cache, frames spoken by
windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError
from vivace.core.speech import Row
from vivace.core.stage import Array, Session
from vivace.families._slots import Slots, appended
from vivace.families._transformer_graph import ENCODER, STEP
from vivace.families._transformer_text import Text, bias
from vivace.families._vits_windows import windows

VOCODER = "vocoder"
WINDOW = 256  # frames that the vocoder makes at once


class Stepping(ABC):
    """An opened model. One step makes `each` frames [`mels`] of every row; a sentence has at most `longest` tokens.

    `smooth` are the frames beside a frame that have a say in what the vocoder hears of it.
    """

    def __init__(
        self,
        bundle: Bundle,
        sessions: Mapping[str, Session],
        text: Text,
        cache: Slots | None,
        *,
        mels: int,
        each: int,
        longest: int,
        smooth: int = 0,
    ) -> None:
        self._bundle, self._sessions, self._text, self._cache = bundle, sessions, text, cache
        self._mels, self._each, self._longest, self._smooth = mels, each, longest, smooth
        self._hop, self._overlap = int(bundle.defaults["hop"]), int(bundle.defaults["overlap"])

    @property
    def cache_bytes(self) -> int:
        """Keys and values that are kept now, of frames and of texts, with the room that is not used yet."""
        return self._text.bytes + (self._cache.bytes if self._cache is not None else 0)

    @abstractmethod
    def _for_reading(self, rows: Sequence[Row]) -> dict[str, Array]:
        """What the encoder is fed besides tokens."""

    @abstractmethod
    def _end(self, row: Row, made: Mapping[str, Array], k: int) -> None:
        """Whether the row is done with its newest frames, those of row `k` of what the step made."""

    def _for_step(self, rows: Sequence[Row], steps: Array) -> dict[str, Array]:  # noqa: ARG002
        """What a step is fed besides cache, text and frames; `steps` are behind each row."""
        return {}

    def _heard(self, row: Row, left: int, right: int) -> Array:
        """[1, mels, right - left]: what the vocoder is fed of these frames."""
        assert row.frames is not None
        return np.ascontiguousarray(row.frames[None, :, left:right])

    def advance(self, rows: Sequence[Row]) -> None:
        if new := [row for row in rows if row.frames is None]:
            self._read(new)
        made = self._step(rows)
        for k, row in enumerate(rows):
            row.frames = appended(row, made["frames"][k].reshape(-1, self._mels).T)
            row.held = self._overlap + self._smooth
            self._end(row, made, k)
            if row.done:
                self.release(row)

    def release(self, row: Row) -> None:
        self._text.release(row)
        if self._cache is not None:
            self._cache.give_back(row)

    def _read(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Reads the texts of new rows together."""
        counts = np.array([len(row.tokens) for row in rows])
        longest = int(counts.max())
        if longest > self._longest:
            raise ModelError(f"a sentence has {longest} tokens; this model reads {self._longest}")
        tokens = np.zeros((len(rows), longest), np.int64)
        for k, row in enumerate(rows):
            tokens[k, : counts[k]] = row.tokens
        feed = {"tokens": tokens, "token_bias": bias(counts, longest), **self._for_reading(rows)}
        made = dict(self._sessions[ENCODER].run(feed))
        self._text.read(rows, made)
        for row in rows:
            if self._cache is not None:
                self._cache.give_back(row)  # a step that failed may have left it there
                self._cache.take(row)
            row.frames = np.zeros((self._mels, 0), np.float32)
        return made

    def _step(self, rows: Sequence[Row]) -> dict[str, Array]:
        """One step of every row from the cache."""
        assert self._cache is not None
        slots = self._cache.places(rows)
        steps = np.array([row.total_frames // self._each for row in rows], np.int64)
        self._cache.reserve(int(steps.max()) + 1)
        feed = {
            **self._text.for_step(rows),
            **self._cache.view(slots),
            "before": np.stack([self._last(row) for row in rows])[:, None],
            "place": steps[:, None],
            "cache_bias": bias(steps, self._cache.room),
            **self._for_step(rows, steps),
        }
        made = self._sessions[STEP].run(feed)
        self._check(rows, made["frames"])  # before the cache holds it: a slot's next row must not find it there
        self._cache.put(slots, steps.tolist(), {name: made[f"new.{name}"] for name in self._cache.names})
        return {name: made[name][:, 0] for name in made if not name.startswith("new.")}

    def _check(self, rows: Sequence[Row], frames: Array) -> None:
        good = np.isfinite(frames).reshape(len(rows), -1).all(axis=1)
        if not good.all():
            after = rows[int(np.argmin(good))].total_frames
            raise ModelError(f"the model made frames that are not numbers, after {after} good ones")

    def _last(self, row: Row) -> Array:
        """What a step is told of the last one, flat; zeros before the first."""
        assert row.frames is not None
        if not row.total_frames:
            return np.zeros(self._each * self._mels, np.float32)
        return row.frames[:, -self._each :].T.reshape(-1)

    def _seconds(self, row: Row) -> float:
        """Of audio that the row has."""
        return (row.total_frames - row.held) * self._hop / self._bundle.sample_rate

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        return [self._render(row) for row in rows]

    def _render(self, row: Row) -> Audio:
        stop, pieces = row.rendered + row.due, []
        sure = row.total_frames if row.done else row.total_frames - self._smooth
        for w in windows(row.rendered, stop, sure, self._overlap, WINDOW):
            feed = {"latent": self._heard(row, w.left, w.right)}
            made = next(iter(self._sessions[VOCODER].run(feed).values())).reshape(-1)
            pieces.append(made[(w.start - w.left) * self._hop : (w.stop - w.left) * self._hop])
        row.rendered = stop
        return Audio(np.concatenate(pieces), self._bundle.sample_rate)
