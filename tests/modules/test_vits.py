"""VITS as a PyTorch module: the numbers of the exported graph on every stage, and padding that changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from vivace.core import registry  # noqa: E402
from vivace.core.bundle import Bundle  # noqa: E402
from vivace.core.errors import ModelError  # noqa: E402
from vivace.core.stage import RuntimeOptions  # noqa: E402
from vivace.modules._vits_durations import BINS, TAIL, unspline  # noqa: E402
from vivace.modules.hifigan import Generator, GeneratorShape  # noqa: E402
from vivace.modules.vits import Shape, Vits, expansion, from_onnx  # noqa: E402

CLOSE = 1e-4
DECODER = GeneratorShape(6, (8, 4, 4), (4, 2), (8, 4), (3, 5), ((1, 2), (1, 3)))


@pytest.fixture(scope="module")
def module(real_voice: Bundle) -> Any:
    return from_onnx(onnx.load(real_voice.file(stage.file)) for stage in real_voice.stages)


@pytest.mark.voice
@pytest.mark.parametrize("length", [1, 9, 70])
def test_every_stage_says_what_the_exported_graph_says(real_voice: Bundle, module: Any, length: int) -> None:
    runtime = registry.load("runtimes", "onnxruntime")
    opened = {s.name: runtime.open(s, real_voice.file(s.file), RuntimeOptions(threads=1)) for s in real_voice.stages}
    dice = np.random.default_rng(length)
    ids = dice.integers(1, 100, (1, length))
    scales, noise = np.array([0.6, 1.1, 0.7], np.float32), dice.standard_normal((1, 2, length)).astype(np.float32)
    given = {"input": ids, "input_lengths": np.array([length]), "scales": scales, "duration_noise": noise}
    read = opened["text"].run(given)
    drawn = dice.standard_normal(read["mean"].shape).astype(np.float32)
    latent = opened["flow"].run({**read, "prior_noise": drawn, "scales": scales})["latent"]
    samples = next(iter(opened["decoder"].run({**read, "latent": latent}).values()))
    with torch.no_grad():
        mask = torch.ones(1, 1, length)
        mean, log_scale, frames = module.text(torch.from_numpy(ids), mask, torch.from_numpy(noise) * 0.7, None, 1.1)
        prior = torch.from_numpy(read["mean"] + drawn * np.exp(read["log_scale"]) * np.float32(0.6))
        flowed = module.flow(prior, torch.ones_like(prior[:, :1]))
        spoken = module.dec(torch.from_numpy(latent))
    assert int(frames.sum()) == read["mean"].shape[-1]
    np.testing.assert_allclose(mean, read["mean"], atol=CLOSE)
    np.testing.assert_allclose(log_scale, read["log_scale"], atol=CLOSE)
    np.testing.assert_allclose(flowed, latent, atol=CLOSE)
    np.testing.assert_allclose(spoken.ravel(), samples.ravel(), atol=CLOSE)


def test_a_graph_that_is_no_voice() -> None:
    model = onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [], []))
    with pytest.raises(ModelError, match="no VITS voice as it was exported"):
        from_onnx([model])


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("resblock", ["1", "2"])
def test_padding_changes_nothing(stochastic: bool, resblock: Any) -> None:
    torch.manual_seed(0)
    decoder = GeneratorShape(6, (8, 4, 4), (4, 2), (8, 4), (3, 5), ((1, 2), (1, 3)), resblock, 4, last_bias=True)
    shape = Shape(
        20, decoder, 6, 8, 12, 2, 2, 3, 2, 2, 2, 3, 1, stochastic, 8, 3, 4, speakers=3, speaker_channels=4
    )  # fmt: skip
    voice = Vits(shape).eval()
    tokens, noise = torch.randint(0, 20, (1, 7)), torch.randn(1, 2, 7)
    speaker = voice.speaker(torch.tensor([2]))
    with torch.no_grad():
        mean, _, frames = voice.text(tokens, torch.ones(1, 1, 7), noise, speaker)
        mask = torch.tensor([[[1.0] * 7 + [0.0] * 4]])
        padded = voice.text(
            torch.nn.functional.pad(tokens, (0, 4), value=5), mask, torch.nn.functional.pad(noise, (0, 4)), speaker
        )
        assert padded[2][0].tolist() == [*frames[0].tolist(), 0, 0, 0, 0]
        torch.testing.assert_close(padded[0], mean, atol=1e-5, rtol=0)
        samples = voice(tokens, sid=torch.tensor([2]), generator=torch.Generator().manual_seed(1))
    assert samples.shape[:2] == (1, 1) and samples.shape[2] % 8 == 0 and bool(samples.isfinite().all())


def test_the_decoder_learns() -> None:
    """All of it has a gradient: it is there to be trained."""
    decoder = Generator(DECODER)
    decoder(torch.randn(1, 6, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_the_spline_is_monotonic_and_ends_in_the_identity() -> None:
    torch.manual_seed(0)
    y = torch.linspace(-7, 7, 2001)
    parts = [torch.randn(1, size).expand(2001, -1) * 3 for size in (BINS, BINS, BINS - 1)]
    x = unspline(y, *parts)
    assert bool((x.diff() > 0).all())
    outside = y.abs() > TAIL
    torch.testing.assert_close(x[outside], y[outside])
    ends = unspline(torch.tensor([-TAIL, TAIL]), *(part[:2] for part in parts))
    torch.testing.assert_close(ends, torch.tensor([-TAIL, TAIL]), atol=1e-4, rtol=0)


def test_tokens_are_repeated_as_often_as_they_last() -> None:
    path = expansion(torch.tensor([[2, 0, 3], [1, 1, 1]]))
    assert path[0].tolist() == [[1, 1, 0, 0, 0], [0] * 5, [0, 0, 1, 1, 1]]
    assert path[1].tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
