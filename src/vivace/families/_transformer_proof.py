"""The proof that a decoder may have a cache: its cached steps beside full recomputation.

A decoder without a causal mask lets every frame see the ones after it, so that all its keys and values change with
every step: a cache of them is wrong, however the model was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vivace.core.speech import Request, Row
from vivace.families import _transformer_graph as graph
from vivace.families._graph_builder import Plain
from vivace.families._slots import Spec
from vivace.families._transformer_text import ReadText, Text, WholeText, bias

STEPS, TOKENS = 24, 12


def difference(shape: graph.Shape, models: Mapping[str, Any], specs: Mapping[str, Spec], steps: int = STEPS) -> float:
    """The largest difference between the frames that the step and the prefix make of the same frames before, in
    standard deviations of the frames. Two rows with texts of different lengths, as in a batch. `specs` is what the step
    keeps."""
    sessions = {name: Plain(model) for name, model in models.items()}
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, shape.tokens, (2, TOKENS))
    rows = [Row(Request(str(n), "proof"), tokens[k, :n], rng) for k, n in enumerate((TOKENS, TOKENS // 2))]
    text: Text = ReadText(shape, 1.0) if shape.timed else WholeText(shape, 0.0)
    read = {"tokens": tokens, "token_bias": bias(np.array([TOKENS, TOKENS // 2]), TOKENS)}
    text.read(rows, sessions[graph.ENCODER].run(read | {"length_scale": np.ones((2, 1, 1), np.float32)}))
    before = rng.standard_normal((2, steps, shape.outputs)).astype(np.float32)
    before[:, 0] = 0
    cache = {name: np.zeros(spec.whole(2, steps), spec.dtype) for name, spec in specs.items()}
    worst, seen = 0.0, []
    for step in range(steps):
        for row in rows:
            row.frames = np.zeros((shape.mels, step * shape.frames_per_step), np.float32)
        so_far = {"before": before[:, : step + 1], "frame_bias": np.zeros((2, 1, 1, step + 1), np.float32)}
        whole = sessions[graph.PREFIX].run({**text.for_prefix(rows), **so_far})["frames"][:, -1]
        last = {"before": before[:, step : step + 1], "place": np.full((2, 1), step)}
        open_ = bias(np.array([step, step]), steps)
        if shape.window:
            open_[..., : max(0, step - shape.window + 1)] = graph.FORBIDDEN
        made = sessions[graph.STEP].run({**text.for_step(rows), **cache, **last, "cache_bias": open_})
        for name, spec in specs.items():
            cache[name][(slice(None), *spec.part(step, step + 1))] = made[f"new.{name}"]
        worst = max(worst, float(np.abs(made["frames"][:, 0] - whole).max()))
        seen.append(whole)
    return worst / max(float(np.std(seen)), 1e-9)
