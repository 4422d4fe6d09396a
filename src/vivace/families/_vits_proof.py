"""The proof that a VITS voice survives its import: whole, cut into stages and run in windows it sounds the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array, Tensors
from vivace.families import _vits_graph as vits
from vivace.families._vits_windows import Vocoder

EXACT = 1e-5  # largest difference between samples
CLOSE = 1e-4  # where another library computes


def prove(
    model: Any,
    parts: Mapping[str, Any],
    tokens: Array,
    hop: int,
    overlap: int,
    flow_overlap: int,
    original: Callable[[Array], Array] | None = None,
) -> None:
    """Runs the whole graph, the cut one, and the cut one in windows, on `tokens` [n] (all that the voice knows),
    without noise, and the `original` of the graph, if there is one ([1, n] to samples). Raises ModelError if they
    differ."""
    ids = tokens[None, :256].astype(np.int64)
    feed: dict[str, Array] = {
        "input": ids,
        "input_lengths": np.array([ids.shape[1]], np.int64),
        "scales": np.array([0.0, 1.0, 0.0], np.float32),
        "sid": np.array([0], np.int64),
        vits.DURATION_NOISE: np.zeros((1, vits.DURATION_CHANNELS, ids.shape[1]), np.float32),
    }
    try:
        whole = _Plain.load(model).run(feed)["output"]
        if original is not None:
            _compare("making a graph of this voice", original(ids).reshape(whole.shape), whole, CLOSE)
        stages = {name: _Plain.load(parts[name]) for name in vits.STAGES}
        for stage in stages.values():
            feed |= stage.run(feed)
            if vits.MEAN in feed:
                feed.setdefault(vits.PRIOR_NOISE, np.zeros_like(feed[vits.MEAN]))
        cut = feed[parts[vits.DECODER].graph.output[0].name]
        frames = int(feed[vits.MASK].sum())
        if cut.size != hop * frames:
            raise ModelError(f"the voice makes {cut.size} samples of {frames} frames, not {hop} of each")
        _compare("cutting this voice into stages", whole, cut)
        third = max(1, frames // 3)
        vocoder = Vocoder(stages[vits.FLOW], stages[vits.DECODER], hop, overlap, flow_overlap, third, third)
        _compare("decoding this voice in windows", whole.reshape(-1), vocoder.samples(feed, None, 0, frames, 0)[0])
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the voice does not run on its own phonemes: {first_line(error)}") from error


def _compare(deed: str, whole: Array, other: Array, most: float = EXACT) -> None:
    worst = float(np.abs(whole - other).max()) if whole.shape == other.shape else float("inf")
    if not worst <= most:
        raise ModelError(f"{deed} changes its samples by {worst:g} (at most {most:g} allowed)")


@dataclass(frozen=True)
class _Plain:
    """ONNX Runtime without options, as a Session."""

    session: Any

    @classmethod
    def load(cls, model: Any) -> _Plain:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        return cls(ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"]))

    def run(self, inputs: Tensors) -> dict[str, Array]:
        outputs = [o.name for o in self.session.get_outputs()]
        feed = {i.name: inputs[i.name] for i in self.session.get_inputs()}
        return dict(zip(outputs, self.session.run(outputs, feed), strict=True))

    def close(self) -> None:
        pass


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
