"""Predicted overall quality by DNSMOS P.835 (Reddy, Gopal and Cutler, ICASSP 2022): a second opinion, unrelated to
`predicted_mos` in data and network. It was made to judge noise suppression: noise costs most here.

The model comes with the Python package `speechmos`. Its published procedure: clips below 9.01 s are doubled until
they are not, a window of 9.01 s starts at every second, as long as ten whole seconds are left, and the score is the
mean over windows. The package skips the windows at seconds 7 to 23 (a rounding error of its own), which would leave
most of a long clip unheard; here all of them count, so scores of clips above 8 s may differ from its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.audio import Audio, Samples
from vivace.core.errors import MissingDependency
from vivace.metrics._neural import RATE, once, open_session, speech

SUMMARY = "predicted overall quality, background noise included (DNSMOS P.835 OVRL, 1 to 5)"
NEEDS: frozenset[str] = frozenset()
UNIT = "predicted MOS"
BETTER = "up"

MINIMUM = 0.25  # seconds
WINDOW = 144_160  # samples: 9.01 s
FRAMES, SECOND = 900, 100  # spectra in a window, and from one window to the next
HALO = 4  # spectra on each side that reach into a value through the first four convolutions
SCALE = (-0.06766283, 1.11546468, 0.04602535)  # from the network's output to ratings, as published with the model

Floats = NDArray[np.float32]


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """The predicted overall rating (OVRL).

    Raises ValueError for audio that is not finite, or shorter than 0.25 s; MissingDependency without
    `speechmos`.
    """
    return float(np.mean(np.polyval(SCALE, overall(_network(), speech(audio, MINIMUM)))))


def overall(network: tuple[Any, Any, Any], samples: Samples) -> Floats:
    """The network's own overall figure [windows] for 16 kHz samples.

    Windows overlap by eight ninths, and the costly first convolutions see a few spectra only: they run once over
    the whole clip, and again at both ends of each window, where they see padding instead of neighbours.
    """
    spectra, texture, judge = network
    while len(samples) < WINDOW:
        samples = np.concatenate([samples, samples])
    count = max(1, len(samples) // RATE - 9)
    windows = np.stack([samples[i * RATE : i * RATE + WINDOW] for i in range(count)])
    levels = _run(spectra, windows)
    levels = np.concatenate([levels[0], *levels[1:, -SECOND:]])
    inner = _texture(texture, levels)
    figures = []
    for first in range(0, count * SECOND, SECOND):
        last = first + FRAMES
        window = inner[:, :, first:last].copy()
        window[:, :, :HALO] = _run(texture, levels[None, first : first + 2 * HALO])[:, :, :HALO]
        window[:, :, -HALO:] = _run(texture, levels[None, last - 2 * HALO : last])[:, :, -HALO:]
        figures.append(_run(judge, window)[0, 2])
    return np.array(figures, dtype=np.float32)


def _texture(texture: Any, levels: Floats) -> Floats:
    """The first convolutions over any number of spectra, a window's worth at a time to bound the memory."""
    pieces = []
    for at in range(0, len(levels), FRAMES):
        start = max(0, at - HALO)
        piece = _run(texture, levels[None, start : at + FRAMES + HALO])
        pieces.append(piece[:, :, at - start : at - start + FRAMES])
    return np.concatenate(pieces, axis=2)


def _run(session: Any, value: Floats) -> Floats:
    result: Floats = session.run(None, {session.get_inputs()[0].name: value})[0]
    return result


@once
def _network() -> tuple[Any, Any, Any]:
    """The model in three sessions: spectra in dB, the four convolutions before any pooling, and the rest."""
    import onnx

    model = onnx.load(model_path())
    nodes = list(model.graph.node)
    first, second = (next(i for i, n in enumerate(nodes) if n.op_type == kind) for kind in ("Unsqueeze", "MaxPool"))
    parts = (nodes[:first], nodes[first:second], nodes[second:])
    spectra, texture, judge = (open_session(_part(model, part)) for part in parts)
    return spectra, texture, judge


def model_path() -> Path:
    """The model file inside the package `speechmos`. Raises MissingDependency."""
    try:
        import speechmos
    except ImportError as error:
        raise MissingDependency("speechmos", "eval") from error
    return Path(speechmos.__path__[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"


def _part(model: Any, nodes: list[Any]) -> bytes:
    """A model of consecutive nodes, from the first input of the first to the last output of the last."""
    from onnx import TensorProto, helper

    used = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    (source,) = used - made - {tensor.name for tensor in weights}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (source, nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "part", ends[:1], ends[1:], weights)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    data: bytes = part.SerializeToString()
    return data
