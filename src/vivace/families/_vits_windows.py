"""Flow and decoder of a VITS voice, run on windows of frames: equal to one run over all of them, in bounded memory.

Each window has as much context on both sides as its stage can see (see _receptive_field), which is computed and cut
off again. The latent between the two is kept only as far as the decoder still needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vivace.core.stage import Array, Session
from vivace.families import _vits_graph as vits

WINDOW = 256  # frames that the decoder makes at once
FLOW_WINDOW = 2048  # of the flow, which sees further and holds less
FLOW_WARM = 768  # frames: longer runs of the flow are rare in streams
STEP = 16  # the last window of a row is a multiple of this: few sizes, for runtimes that compile for each


@dataclass(frozen=True)
class Window:
    """The frames `left` to `right` are read, those from `start` to `stop` are made."""

    left: int
    right: int
    start: int
    stop: int


def windows(start: int, stop: int, total: int, overlap: int, size: int) -> Iterator[Window]:
    """Windows that together make the frames `start` to `stop` of `total`, none reading more than `size` frames and
    `overlap` on both sides. All but the last are equal; the last begins earlier rather than having an odd size."""
    while start < stop:
        left = max(0, start - overlap)
        right = min(total, left + size + 2 * overlap)
        ready = right if right == total else right - overlap
        if ready >= stop:
            right, ready = min(total, stop + overlap), stop
            wanted = -(-(stop - start) // STEP) * STEP
            left = max(0, right - size - 2 * overlap, min(start, stop - wanted) - overlap)
        yield Window(left, right, start, ready)
        start = ready


def padded(frames: int, multiple: int) -> int:
    """The next size: every multiple up to eight, every second one up to sixteen, every fourth above. What is compiled
    for a size stays in memory, and a sixteenth of padding is all that fewer cost."""
    grain = next((multiple * k for k in (1, 2) if frames <= 8 * multiple * k), 4 * multiple) if multiple > 1 else 1
    return -(-frames // grain) * grain


def sizes(most: int, multiple: int) -> list[int]:
    """All of them, up to `most` frames."""
    return sorted({padded(frames, multiple) for frames in range(1, most + 1)})


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
    runtimes that compile for every length. Above 1 the decoder must take a mask; a flow always does.
    """

    flow: Session
    decoder: Session
    hop: int
    overlap: int
    flow_overlap: int | None
    window: int = WINDOW
    flow_window: int = FLOW_WINDOW
    multiple: int = 1

    def samples(
        self, prior: Mapping[str, Array], latent: Latent | None, start: int, stop: int, ahead: int
    ) -> tuple[Array, Latent]:
        """The samples of the frames `start` to `stop`, and the latent to give with the next call.

        `prior` holds the inputs of the flow with all frames of the row, and what else the decoder takes. The flow
        runs further than it must, by up to `ahead` frames: the more at once, the less context is computed twice.
        """
        total = int(prior[vits.MEAN].shape[-1])
        kept = latent or Latent(0, prior[vits.MEAN][0, :, :0])
        pieces = []
        inner = stop - start - 2 * self.overlap  # the first and the last window have the edge's share more
        size = self._size(inner) if inner > self.window else self.window
        for window in windows(start, stop, total, self.overlap, size):
            kept = self._grown(prior, kept, window.right, ahead)
            frames = kept.frames[None, :, window.left - kept.first : window.right - kept.first]
            mask = np.ones((1, 1, frames.shape[-1]), np.float32)
            feed = {**prior, vits.MASK: self._padded(mask), vits.LATENT: self._padded(frames)}
            made = next(iter(self.decoder.run(feed).values())).reshape(-1)
            pieces.append(made[(window.start - window.left) * self.hop : (window.stop - window.left) * self.hop])
            needed = max(kept.first, window.stop - STEP - self.overlap)
            kept = Latent(needed, kept.frames[:, needed - kept.first :])
        return np.concatenate(pieces), Latent(kept.first, kept.frames.copy())

    def _size(self, frames: int) -> int:
        """Of the equal windows for so many frames those that compute the least, with their context and padding."""
        least = -(-frames // self.window)
        equal = [-(-frames // count) for count in range(least, 2 * least + 1)]
        return min(equal, key=lambda size: -(-frames // size) * padded(size + 2 * self.overlap, self.multiple))

    def _grown(self, prior: Mapping[str, Array], kept: Latent, needed: int, ahead: int) -> Latent:
        """The latent with at least the frames up to `needed`."""
        if kept.made >= needed:
            return kept
        total = int(prior[vits.MEAN].shape[-1])
        overlap, size, stop = total, total, total
        if self.flow_overlap is not None:
            overlap, size = self.flow_overlap, self.flow_window
            stop = min(total, max(needed, kept.made + min(ahead, size)))
        pieces = [kept.frames]
        for window in windows(kept.made, stop, total, overlap, size):
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
        if self.multiple == 1:
            return
        for size in sizes(FLOW_WARM, self.multiple):
            feed = {n: np.resize(a, (*a.shape[:2], size)) if a.ndim == 3 else a for n, a in prior.items()}
            latent = self.flow.run(feed)[vits.LATENT]
            if size <= padded(self.window + 2 * self.overlap, self.multiple):
                self.decoder.run({**feed, vits.MASK: np.ones((1, 1, size), np.float32), vits.LATENT: latent})

    def _padded(self, array: Array) -> Array:
        short = padded(array.shape[-1], self.multiple) - array.shape[-1]
        return np.pad(array, ((0, 0), (0, 0), (0, short))) if short else np.ascontiguousarray(array)
