"""What is pruned is gone everywhere, what is not stays the same bits, and the decoder's graph is the decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from vivace.core.errors import UsageError  # noqa: E402
from vivace.modules import pruning  # noqa: E402
from vivace.modules.hifigan import Generator, GeneratorShape  # noqa: E402

SHAPE = GeneratorShape(6, (16, 12, 8), (4, 2), (8, 4), (3, 5), ((1, 2), (1, 3)))


def decoder(resblock: Any = "2", speakers: int = 0, last_bias: bool = False) -> Generator:
    torch.manual_seed(0)
    return Generator(replace(SHAPE, resblock=resblock, speaker_channels=speakers, last_bias=last_bias)).eval()


@pytest.mark.parametrize(("resblock", "speakers", "last_bias"), [("1", 0, False), ("2", 5, True)])
def test_every_weight_has_its_channels_named(resblock: str, speakers: int, last_bias: bool) -> None:
    made = decoder(resblock, speakers, last_bias)
    known = pruning.axes(made.shape)
    sizes = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    assert set(known) == set(sizes)
    for name, along in known.items():
        for axis, width in enumerate(along):
            assert width is None or sizes[name][axis] == made.shape.widths[width]


@pytest.mark.parametrize(("resblock", "speakers"), [("1", 0), ("2", 5)])
def test_channels_that_do_nothing_go_first_and_nothing_is_heard(resblock: str, speakers: int) -> None:
    """A quarter of the channels of each width is silent, and goes; the samples stay."""
    made = decoder(resblock, speakers)
    silent = {k: [1, w - 1, 3, 5][: w // 4] for k, w in enumerate(made.shape.widths)}
    weights = made.state_dict()
    for name, along in pruning.axes(made.shape).items():
        for axis, width in enumerate(along):
            if width is not None:
                weights[name].index_fill_(axis, torch.tensor(silent[width]), 0.0)
    latent, speaker = torch.randn(1, 6, 9), torch.randn(1, speakers, 1) if speakers else None
    shape, kept = pruning.narrower(made.shape, weights, 0.25, 1)
    assert shape.widths == (12, 9, 6)
    with torch.no_grad():
        torch.testing.assert_close(pruning.decoder(shape, kept)(latent, speaker), made(latent, speaker))


def test_widths_are_multiples_and_nothing_to_do_is_said() -> None:
    weights = decoder().state_dict()
    assert pruning.narrower(SHAPE, weights, 0.5, 4)[0].widths == (8, 8, 4)
    assert pruning.narrower(SHAPE, weights, 0.99, 4)[0].widths == (4, 4, 4)
    with pytest.raises(UsageError, match=r"no channel goes at a share of 0.05 in multiples of 4"):
        pruning.narrower(SHAPE, weights, 0.05, 4)


@pytest.mark.parametrize("each", [True, False])
def test_the_smallest_weights_become_zero(each: bool) -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(20, 5), "b": 10 * torch.randn(10, 10)}
    made = pruning.smallest(weights, 0.3, each=each)
    zeros = {name: int((value == 0).sum()) for name, value in made.items()}
    assert sum(zeros.values()) == 60
    assert (zeros == {"a": 30, "b": 30}) == each
    for name, value in made.items():
        gone = value == 0
        assert weights[name][gone].abs().max() <= weights[name][~gone].abs().min()
        assert torch.equal(value[~gone], weights[name][~gone])


def test_zeros_stay_zero_while_it_learns() -> None:
    made = decoder()
    names = pruning.prunable(made)
    assert "conv_post.weight" not in names
    weights = dict(made.state_dict())
    made.load_state_dict({**weights, **pruning.smallest({n: weights[n] for n in names}, 0.5, each=True)})
    before = {name: value.clone() for name, value in made.state_dict().items()}
    pruning.hold_zeros(made)
    optimizer = torch.optim.SGD(made.parameters(), 0.5)
    made(torch.randn(2, 6, 5)).square().sum().backward()
    optimizer.step()
    pruning.let_go(made)
    after = made.state_dict()
    assert set(after) == set(before)
    for name in names:
        assert torch.equal(after[name] == 0, before[name] == 0)
        assert not torch.equal(after[name], before[name])


@pytest.mark.parametrize("speakers", [0, 5])
def test_the_graph_is_the_decoder(speakers: int) -> None:
    made = decoder("1", speakers)
    model = pruning.to_onnx(made)
    assert any(node.name == "/dec/conv_pre/Conv" for node in model.graph.node)
    session = ort.InferenceSession(model.SerializeToString())
    for batch, frames in ((1, 3), (2, 40)):
        feed = {"latent": torch.randn(batch, 6, frames)} | ({"speaker": torch.randn(batch, 5, 1)} if speakers else {})
        with torch.no_grad():
            right = made(*feed.values()).numpy()
        found = session.run(["output"], {name: value.numpy() for name, value in feed.items()})[0]
        assert found.shape == (batch, 1, 1, frames * 8)
        np.testing.assert_allclose(found[:, 0], right, atol=1e-5)
