"""The proof of an imported SpeechT5: its cached steps beside full recomputation, from the user's own weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.families import _speecht5_graph as graph
from vivace.families._graph_builder import FORBIDDEN, Plain
from vivace.families._transformer_graph import cache_names

STEPS, TOKENS = 16, 12
TOLERANCE = 1e-3  # standard deviations of the frames


def prove(shape: graph.Shape, models: Mapping[str, Any]) -> float:
    """The largest difference, in standard deviations of the frames. Raises ModelError where it is too large."""
    found = difference(shape, models)
    if not found <= TOLERANCE:
        raise ModelError(
            f"the cached steps of this model differ from full recomputation by {found:.2g} standard deviations of the "
            f"frames (at most {TOLERANCE:g}): its weights are damaged, or it is not the model that config.json says"
        )
    return found


def difference(s: graph.Shape, models: Mapping[str, Any]) -> float:
    """Of two rows with texts of different lengths, as in a batch, that keep different parts of the prenet."""
    sessions = {name: Plain(models[name]) for name in (graph.ENCODER, graph.STEP, graph.PREFIX)}
    rng = np.random.default_rng(0)
    steps, tokens = min(STEPS, s.longest_speech), min(TOKENS, s.longest_text)
    padding = np.zeros((2, 1, 1, tokens), np.float32)
    padding[1, ..., tokens // 2 + 1 :] = FORBIDDEN
    read: dict[str, Array] = {"tokens": rng.integers(0, s.tokens, (2, tokens)), "token_bias": padding}
    speaker = rng.standard_normal((2, 1, s.speaker)).astype(np.float32)
    text = sessions[graph.ENCODER].run(read | {graph.SPEAKER: speaker}) | {"token_bias": padding}
    given = {"before": rng.standard_normal((2, steps, s.mels)).astype(np.float32)}
    given["before"][:, 0] = 0
    for name in graph.keep_names(s):
        given[name] = 2 * rng.integers(0, 2, (2, steps, s.prenet_units)).astype(np.float32)
    whole = sessions[graph.PREFIX].run({**text, **given})
    cache: dict[str, Array] = {}
    for k in range(s.decoder_layers):
        key, value = cache_names(k)
        cache[key] = np.zeros((2, s.heads, s.head, steps), np.float32)
        cache[value] = np.zeros((2, s.heads, steps, s.head), np.float32)
    worst = 0.0
    for step in range(steps):
        last = {name: array[:, step : step + 1] for name, array in given.items()}
        seen = np.where(np.arange(steps) < step, 0, FORBIDDEN).astype(np.float32)
        last |= {"place": np.full((2, 1), step), "cache_bias": np.tile(seen, (2, 1, 1, 1))}
        made = sessions[graph.STEP].run({**text, **cache, **last})
        for k in range(s.decoder_layers):
            key, value = cache_names(k)
            cache[key][..., step : step + 1] = made[f"new.{key}"]
            cache[value][:, :, step : step + 1] = made[f"new.{value}"]
        apart = np.abs(made["frames"][:, 0] - whole["frames"][:, step]).max()
        worst = max(worst, float(np.nan_to_num(apart, nan=np.inf)))
    return worst / max(float(np.std(whole["frames"])), 1e-9) if np.isfinite(whole["frames"]).all() else float("inf")
