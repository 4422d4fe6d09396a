"""A VITS module as an ONNX graph: Piper's signature, the module's samples, and the same module when it is read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from vivace.modules.hifigan import GeneratorShape  # noqa: E402
from vivace.modules.vits import Shape, Vits, from_onnx, to_onnx  # noqa: E402

DECODER = GeneratorShape(6, (8, 4, 2), (4, 2), (8, 4), (3, 5), ((1, 2), (1, 3)))
CLOSE = 1e-5


def voice(stochastic: bool, speakers: int, resblock: Any) -> Vits:
    torch.manual_seed(stochastic + 2 * speakers)
    channels = 4 if speakers else 0
    decoder = replace(DECODER, resblock=resblock, speaker_channels=channels)
    shape = Shape(
        20, decoder, 6, 8, 12, 2, 2, 3, 2, 2, 2, 3, 1, stochastic, 8, speakers=speakers, speaker_channels=channels,
        duration_least=1e-5 if stochastic else 1e-4,
    )  # fmt: skip
    made = Vits(shape).eval()
    for coupling in made.flow.flows[::2]:
        torch.nn.init.normal_(coupling.post.weight)  # zeros, as they begin, would hide the flow
    return made


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("speakers", [0, 3])
@pytest.mark.parametrize("resblock", ["1", "2"])
def test_the_graph_speaks_like_the_module_and_gives_it_back(stochastic: bool, speakers: int, resblock: str) -> None:
    module = voice(stochastic, speakers, resblock)
    model = to_onnx(module)
    session = ort.InferenceSession(model.SerializeToString())
    assert {i.name for i in session.get_inputs()} == {"input", "input_lengths", "scales"} | (
        {"sid"} if speakers else set()
    )
    texts = [np.arange(9)[::-1].copy(), np.array([3, 1])]
    alone = []
    for tokens in texts:
        feed = {"input": tokens[None], "input_lengths": np.array([len(tokens)])}
        feed |= {"scales": np.array([0, 1.2, 0], np.float32)} | ({"sid": np.array([2])} if speakers else {})
        alone.append(session.run(None, feed)[0])
        with torch.no_grad():
            said = module(torch.from_numpy(tokens)[None], 0.0, 1.2, 0.0, torch.tensor([2]) if speakers else None)
        assert alone[-1].shape == (1, 1, *said.shape[1:])
        np.testing.assert_allclose(alone[-1][0], said.numpy(), atol=CLOSE)
    batch = np.stack([texts[0], np.pad(texts[1], (0, 7))])
    feed = {"input": batch, "input_lengths": np.array([9, 2]), "scales": np.array([0, 1.2, 0], np.float32)}
    together = session.run(None, feed | ({"sid": np.array([2, 2])} if speakers else {}))[0]
    np.testing.assert_allclose(together[:1], alone[0], atol=CLOSE)

    again = from_onnx([model])
    assert again.shape == module.shape
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
