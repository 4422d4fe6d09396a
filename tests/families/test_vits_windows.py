"""Windows of flow and decoder: they cover what is asked, with all the context, and never more than their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import piper_maker
from families.piper_maker import Shape
from families.vits_runner import in_stages, session
from vivace.core.stage import Array, Tensors
from vivace.families import _vits_graph as vits
from vivace.families._receptive_field import receptive_field
from vivace.families._vits_windows import Vocoder, Window, padded, sizes, windows


@given(
    start=st.integers(0, 900),
    more=st.integers(0, 900),
    after=st.integers(0, 60),
    overlap=st.integers(0, 40),
    near=st.integers(0, 40),
    size=st.integers(1, 400),
)
def test_windows_make_every_frame_once_with_its_context(
    start: int, more: int, after: int, overlap: int, near: int, size: int
) -> None:
    stop, total, near = start + more, start + more + after, min(near, overlap)
    found = list(windows(start, stop, total, overlap, size, near))
    assert [frame for w in found for frame in range(w.start, w.stop)] == list(range(start, stop))
    for w in found:
        assert w.left == max(0, w.start - overlap)
        assert w.right == min(total, w.stop + overlap)
        assert min(total, w.stop + near) - max(0, w.start - near) <= size + 2 * near


@given(total=st.integers(1, 3000), overlap=st.integers(0, 40), size=st.integers(1, 600))
def test_windows_have_few_sizes(total: int, overlap: int, size: int) -> None:
    found = list(windows(0, total, total, overlap, size))
    assert len({w.right - w.left for w in found[1:-1]}) <= 1
    if len(found) > 1:
        assert found[0].right == size + 2 * overlap


@given(frames=st.integers(1, 3000), multiple=st.integers(2, 64))
def test_padding_is_little_and_its_sizes_few(frames: int, multiple: int) -> None:
    size = padded(frames, multiple)
    assert frames <= size < frames + max(multiple, frames / 4) or size == 2 * multiple
    assert size % multiple == 0
    assert padded(size, multiple) == size
    assert padded(frames, 1) == frames


def test_the_sizes_of_a_real_voice() -> None:
    assert sizes(768, 24) == (*range(48, 193, 24), *range(240, 385, 48), *range(480, 769, 96))


def test_what_fits_is_one_window() -> None:
    assert list(windows(0, 406, 406, 12, 384)) == [Window(0, 406, 0, 406)]
    assert list(windows(0, 409, 409, 12, 384)) == [Window(0, 408, 0, 396), Window(384, 409, 396, 409)]
    assert list(windows(5, 5, 9, 1, 4)) == []


class Counting:
    """A stage that notes how many frames it is given."""

    def __init__(self, model: Any, name: str) -> None:
        self.session = session(model)
        self.name = name
        self.frames: list[int] = []

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.frames.append(inputs[self.name].shape[-1])
        names = [o.name for o in self.session.get_outputs()]
        feed = {i.name: inputs[i.name] for i in self.session.get_inputs()}
        return dict(zip(names, self.session.run(names, feed), strict=True))

    def close(self) -> None:
        pass


class Silent:
    """A flow or a decoder of nothing, which notes how many frames it is given."""

    def __init__(self, name: str, hop: int) -> None:
        self.name, self.hop, self.frames = name, hop, list[int]()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.frames.append(inputs[self.name].shape[-1])
        return {vits.LATENT: np.zeros((1, 1, self.frames[-1] * self.hop), np.float32)}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("multiple", "given"), [(1, [256] * 4 + [252]), (24, [240] * 5 + [120]), (100, [200] * 7)])
def test_long_rows_are_cut_into_the_windows_that_compute_least(multiple: int, given: list[int]) -> None:
    """At multiples of 24 five windows of 256 would be computed as 288 frames each: 1,440 in place of 1,320."""
    decoder = Silent(vits.LATENT, 1)
    made = Vocoder(Silent(vits.MEAN, 1), decoder, 1, 12, 0, window=256, multiple=multiple)
    prior = {name: np.zeros((1, 1, 1180), np.float32) for name in (vits.MEAN, vits.MASK)}
    made.samples(prior, None, 0, 1180, 0)
    assert decoder.frames == given


@given(start=st.integers(0, 500), frames=st.integers(1, 600), multiple=st.sampled_from([1, 24]))
def test_a_chunk_fills_what_it_must_take(start: int, frames: int, multiple: int) -> None:
    made = Vocoder(
        Silent(vits.MEAN, 1), Silent(vits.LATENT, 1), 1, 12, 0, window=116, multiple=multiple, cropped_overlap=2
    )
    chunk = made.chunk(start, frames)
    assert 0 < chunk < frames + 2 * max(multiple, 1)
    if multiple == 1:
        assert chunk == frames
    elif frames >= 116:
        assert chunk % 116 == 0 and chunk > frames - 116
    else:
        late = min(start, 2) + chunk + 2
        assert late == padded(late, multiple) or chunk == 116
        assert chunk >= frames


IDS = [1, *range(4, 34), *range(4, 34), *range(4, 34), 2]
HOP = piper_maker.HOP


@pytest.fixture(scope="module", params=[Shape(), Shape(speakers=3)], ids=str)
def voice(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    parts = vits.split(piper_maker.model(request.param))
    feed = {
        "input": np.array([IDS], np.int64),
        "input_lengths": np.array([len(IDS)], np.int64),
        "scales": np.array([0.667, 1.0, 0.8], np.float32),
        "sid": np.array([request.param.speakers - 1], np.int64),
    }
    return parts, in_stages(parts, feed, seed=3)


def vocoder(parts: dict[str, Any], flow_overlap: int | None, window: int, flow_window: int, less: int = 0) -> Vocoder:
    overlap, hop = receptive_field(parts[vits.DECODER])
    flow, decoder = Counting(parts[vits.FLOW], vits.MEAN), Counting(parts[vits.DECODER], vits.LATENT)
    return Vocoder(flow, decoder, hop, overlap - less, flow_overlap, window, flow_window)


def reach(parts: dict[str, Any]) -> int:
    return receptive_field(parts[vits.FLOW], vits.in_time(parts[vits.FLOW]))[0]


def in_chunks(made: Vocoder, prior: dict[str, np.ndarray], chunk: int, ahead: int) -> np.ndarray:
    total, latent, pieces = prior[vits.MEAN].shape[-1], None, []
    for start in range(0, total, chunk):
        samples, latent = made.samples(prior, latent, start, min(total, start + chunk), ahead)
        pieces.append(samples)
    return np.concatenate(pieces)


@pytest.mark.parametrize("window", [1, 7, 64, 10_000])
@pytest.mark.parametrize("flow_window", [1, 30, 10_000])
@pytest.mark.parametrize("chunk", [16, 45, 10_000])
def test_windows_and_chunks_are_the_whole(voice: Any, window: int, flow_window: int, chunk: int) -> None:
    parts, fed = voice
    made = vocoder(parts, reach(parts), window, flow_window)
    samples = in_chunks(made, fed, chunk, ahead=25)
    assert np.abs(samples - fed["output"].reshape(-1)).max() < 1e-6
    total = fed[vits.MEAN].shape[-1]
    assert max(made.decoder.frames) <= min(total, window + 2 * made.overlap)  # type: ignore[attr-defined]
    assert max(made.flow.frames) <= min(total, flow_window + 2 * reach(parts))  # type: ignore[attr-defined]


def test_the_flow_runs_no_further_than_asked(voice: Any) -> None:
    parts, fed = voice
    made = vocoder(parts, reach(parts), 64, 10_000)
    _, latent = made.samples(fed, None, 0, 16, 0)
    assert made.flow.frames == [16 + made.overlap + reach(parts)]  # type: ignore[attr-defined]
    _, latent = made.samples(fed, latent, 16, 20, 100)
    assert latent.made == 16 + made.overlap + 100
    assert latent.first == max(0, 20 - made.overlap)
    made.samples(fed, latent, 20, 30, 100)
    assert len(made.flow.frames) == 2, "what is made already is not made again"  # type: ignore[attr-defined]


def test_a_flow_of_unknown_reach_runs_once_over_all(voice: Any) -> None:
    parts, fed = voice
    made = vocoder(parts, None, 20, 30)
    samples = in_chunks(made, fed, 16, ahead=0)
    assert made.flow.frames == [fed[vits.MEAN].shape[-1]]  # type: ignore[attr-defined]
    assert np.abs(samples - fed["output"].reshape(-1)).max() < 1e-6


@pytest.mark.parametrize(("less", "flow_less"), [(3, 0), (0, 2)])
def test_less_context_would_be_heard(voice: Any, less: int, flow_less: int) -> None:
    """Both overlaps are needed: the test of windows above can fail."""
    parts, fed = voice
    made = vocoder(parts, reach(parts) - flow_less, 16, 16, less)
    samples = in_chunks(made, fed, 10_000, ahead=0)
    assert np.abs(samples - fed["output"].reshape(-1)).max() > 1e-4


@given(total=st.integers(30, 2000), window=st.integers(40, 300))
def test_the_windows_of_a_sentence_are_alike(total: int, window: int) -> None:
    """So that a runtime which compiles for every length compiles one for a long sentence."""

    class Decoder:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def run(self, inputs: Tensors) -> dict[str, Array]:
            self.sizes.append(inputs[vits.LATENT].shape[-1])
            return {"output": np.zeros((1, 1, inputs[vits.LATENT].shape[-1]), np.float32)}

        def close(self) -> None: ...

    class Flow(Decoder):
        def run(self, inputs: Tensors) -> dict[str, Array]:
            return {vits.LATENT: inputs[vits.MEAN]}

    decoder = Decoder()
    prior = {vits.MEAN: np.zeros((1, 2, total), np.float32)}
    samples, _ = Vocoder(Flow(), decoder, 1, 12, 32, window).samples(prior, None, 0, total, 100)
    assert len(samples) == total
    assert max(decoder.sizes) - min(decoder.sizes) <= len(decoder.sizes) + 12
    assert max(decoder.sizes) <= window + 24
