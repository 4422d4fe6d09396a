"""Flow and decoder of a VITS voice, run on windows of frames: equal to one run over all of them, in bounded memory.

Each window has as much context on both sides as its stage can see (see _receptive_field), which is computed and cut
off again. The latent between the two is kept only as far as the decoder still needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from vivace.core.stage import Array, Session
from vivace.families import _vits_graph as vits

WINDOW = 256  # frames that the decoder makes at once
FLOW_WINDOW = 2048  # of the flow, which sees further and holds less
FLOW_WARM = 768  # frames: longer runs of the flow are rare in streams
LATE = 6  # times the work of a decoder's early layers, which may see further than the rest
SWITCH = 60  # frames of the early layers: what it costs to go on with another size


@dataclass(frozen=True)
class Window:
    """The frames `left` to `right` are read, those from `start` to `stop` are made."""

    left: int
    right: int
    start: int
    stop: int


def windows(start: int, stop: int, total: int, overlap: int, size: int, near: int | None = None) -> Iterator[Window]:
    """Windows that together make the frames `start` to `stop` of `total`, with `overlap` frames on both sides, of which
    later layers get `near` (default: all); these never more than `size` frames and twice that. All but the last are
    equal for them."""
    seen = overlap if near is None else near
    while start < stop:
        last = max(0, start - seen) + size + 2 * seen
        ready = min(stop, total if last >= total else last - seen)
        yield Window(max(0, start - overlap), min(total, ready + overlap), start, ready)
        start = ready


def padded(frames: int, multiple: int) -> int:
    """The next size: every multiple from the second to the eighth, every second one up to sixteen, every fourth above.
    What is compiled for a size stays in memory, and a sixteenth of padding is all that fewer cost."""
    if multiple == 1:
        return frames
    grain = next((multiple * k for k in (1, 2) if frames <= 8 * multiple * k), 4 * multiple)
    return max(2 * multiple, -(-frames // grain) * grain)


@cache
def sizes(most: int, multiple: int) -> tuple[int, ...]:
    """All of them, up to `most` frames."""
    return tuple(sorted({padded(frames, multiple) for frames in range(1, most + 1)}))


@dataclass(frozen=True, eq=False)
class Latent:
    """The latent [channels, frames] of a row from frame `first` on, as far as it is made."""

    first: int
    frames: Array

    @property
    def made(self) -> int:
        return self.first + int(self.frames.shape[-1])


@dataclass(frozen=True, eq=False)
class Vocoder:
    """Prior in, samples out, window by window. `flow_overlap` None (not known): the flow runs in one piece.

    What the stages are given is padded to sizes that are multiples of `multiple` frames (see padded), and masked: for
    runtimes that compile for every length. Above 1 the decoder must take a mask; a flow always does. The flow has its
    own multiple: it may run elsewhere.
    """

    flow: Session
    decoder: Session
    hop: int
    overlap: int
    flow_overlap: int | None
    window: int = WINDOW
    flow_window: int = FLOW_WINDOW
    multiple: int = 1
    flow_multiple: int = 1
    cropped_overlap: int | None = None

    @property
    def near(self) -> int:
        """Frames of context that the later layers of the decoder get."""
        return self.overlap if self.cropped_overlap is None else self.cropped_overlap

    def chunk(self, start: int, frames: int) -> int:
        """So many frames from `start` on; of a padded decoder, down to whole windows, or as many as the padding leaves
        room for."""
        if self.multiple == 1:
            return frames
        if frames >= self.window:
            return frames - frames % self.window
        seen = min(start, self.near) + self.near
        return min(self.window, padded(frames + seen, self.multiple) - seen)

    def samples(
        self, prior: Mapping[str, Array], latent: Latent | None, start: int, stop: int, ahead: int
    ) -> tuple[Array, Latent]:
        """The samples of the frames `start` to `stop`, and the latent to give with the next call.

        `prior` holds the inputs of the flow with all frames of the row, and what else the decoder takes. The flow
        runs further than it must, by up to `ahead` frames: the more at once, the less context is computed twice.
        """
        total = int(prior[vits.MEAN].shape[-1])
        kept = self.grown(prior, latent, stop, ahead)
        pieces = []
        size = self._size(start, stop, total)
        for window in windows(start, stop, total, self.overlap, size, self.near):
            frames = kept.frames[None, :, window.left - kept.first : window.right - kept.first]
            pieces.append(self._decoded(prior, frames, window, total))
            needed = max(kept.first, window.stop - self.overlap)
            kept = Latent(needed, kept.frames[:, needed - kept.first :])
        return np.concatenate(pieces), Latent(kept.first, kept.frames.copy())

    def _decoded(self, prior: Mapping[str, Array], frames: Array, window: Window, total: int) -> Array:
        """The samples of a window of the latent [1, channels, frames]."""
        first, late, size = self._shape(window, total)
        feed = {
            **prior,
            vits.MASK: _wide(np.ones((1, 1, frames.shape[-1]), np.float32), size),
            vits.LATENT: _wide(frames, size),
            vits.CROP: np.array([first - window.left, first - window.left + late], np.int64),
        }
        made = next(iter(self.decoder.run(feed).values())).reshape(-1)
        return made[(window.start - first) * self.hop : (window.stop - first) * self.hop]

    def _shape(self, window: Window, total: int) -> tuple[int, int, int]:
        """The first frame that the later layers get, how many they get and how many the early ones read: as many more
        in every padded window, so that there are no more sizes than of the later layers."""
        first = max(0, window.start - self.near)
        late = padded(min(total, window.stop + self.near) - first, self.multiple)
        return first, late, self._early(late) if self.multiple > 1 else window.right - window.left

    def _early(self, late: int) -> int:
        return padded(late + 2 * (self.overlap - self.near), self.multiple)

    def _size(self, start: int, stop: int, total: int) -> int:
        """Of the window sizes up to the largest the one that computes the least, with its context and padding."""
        inner = stop - start - 2 * self.near  # the first and the last window have the edge's share more
        if inner <= self.window:
            return self.window
        least = -(-inner // self.window)
        tried = {-(-inner // count) for count in range(least, 2 * least + 1)}
        if self.multiple > 1:  # those that leave nothing to pad
            tried |= {size - 2 * self.near for size in sizes(self.window + 2 * self.near, self.multiple)}

        def work(size: int) -> int:
            cut = windows(start, stop, total, self.overlap, size, self.near)
            shapes = [self._shape(window, total)[1:] for window in cut]
            switches = sum(one != other for one, other in pairwise(shapes)) if self.multiple > 1 else 0
            return sum(LATE * late + early for late, early in shapes) + SWITCH * switches

        return min((size for size in sorted(tried, reverse=True) if 0 < size <= self.window), key=work)

    def grown(self, prior: Mapping[str, Array], latent: Latent | None, stop: int, ahead: int) -> Latent:
        """The latent with all that the samples of the frames up to `stop` need; see samples."""
        kept = latent or Latent(0, prior[vits.MEAN][0, :, :0])
        total = int(prior[vits.MEAN].shape[-1])
        needed = min(total, stop + self.overlap)
        if kept.made >= needed:
            return kept
        overlap, size, end = total, total, total
        if self.flow_overlap is not None:
            overlap, size = self.flow_overlap, self.flow_window
            end = min(total, max(needed, kept.made + min(ahead, size)))
        pieces = [kept.frames]
        for window in windows(kept.made, end, total, overlap, size):
            feed = {
                name: self._padded(array[..., window.left : window.right])
                if array.ndim == 3 and array.shape[-1] == total
                else array
                for name, array in prior.items()
            }
            made = self.flow.run(feed)[vits.LATENT][0]
            pieces.append(made[:, window.start - window.left : window.stop - window.left])
        return Latent(kept.first, np.concatenate(pieces, axis=1))

    def warm(self, prior: Mapping[str, Array]) -> None:
        """Runs both stages at every size that a stream may meet, on a prior of any length."""
        for size in sizes(FLOW_WARM, self.flow_multiple) if self.flow_multiple > 1 else ():
            self.flow.run(_resized(prior, size))
        if self.multiple == 1:
            return
        for late in sizes(self.window + 2 * self.near, self.multiple):
            size = self._early(late)
            latent = np.zeros((1, prior[vits.MEAN].shape[1], size), np.float32)
            crop = np.array([0, late], np.int64)
            mask = np.ones((1, 1, size), np.float32)
            self.decoder.run({**prior, vits.MASK: mask, vits.LATENT: latent, vits.CROP: crop})

    def _padded(self, array: Array) -> Array:
        return _wide(array, padded(array.shape[-1], self.flow_multiple))


def spent(prior: Mapping[str, Array]) -> dict[str, Array]:
    """A prior of which the whole latent is made: what only the flow reads is zeros that take no memory."""
    zero = np.zeros((), np.float32)
    used = {n: np.broadcast_to(zero, prior[n].shape) for n in (vits.MEAN, vits.LOG_SCALE, vits.PRIOR_NOISE)}
    return {**prior, **used}


def _resized(feed: Mapping[str, Array], frames: int) -> dict[str, Array]:
    """What runs in time, [batch, channels, frames], repeated or cut to so many frames."""
    return {n: np.resize(a, (*a.shape[:2], frames)) if a.ndim == 3 else a for n, a in feed.items()}


def _wide(array: Array, size: int) -> Array:
    """`array` [batch, channels, frames] with zeros behind it, `size` frames in all."""
    if array.shape[-1] == size:
        return np.ascontiguousarray(array)
    wide = np.zeros((*array.shape[:-1], size), array.dtype)
    wide[..., : array.shape[-1]] = array
    return wide
