"""Small transformer_mel models with seeded weights, as a user would hand them over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vivace.families import _transformer_graph as graph
from vivace.families import _transformer_vocoder as vocoder

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,'"
SIZES: dict[str, Any] = {
    "width": 32, "heads": 4, "hidden": 64, "encoder_layers": 2, "decoder_layers": 2, "mels": 8, "longest": 256,
}  # fmt: skip
READING: dict[str, Any] = {
    "positions": "rotary", "norm": "pre", "activation": "gelu", "prenet": 16, "encoder_window": 4, "window": 10,
    "timed": True, "back": 3, "ahead": 4, "frames_per_step": 2,
}  # fmt: skip


def shape(**changes: Any) -> graph.Shape:
    return graph.Shape(tokens=len(CHARACTERS), **SIZES | changes)


def weights(wanted: dict[str, tuple[int, ...]], seed: int = 0, stop: float = -4.0) -> dict[str, np.ndarray]:
    """Spread so that nothing fades or blows up. `stop` is the bias of the stop head: -4 never stops early."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, size in wanted.items():
        fan = size[-1] if len(size) == 2 else size[1] if len(size) == 3 else 8
        drawn = np.ones(size) if "norm" in name and name.endswith("weight") else rng.standard_normal(size) / fan**0.5
        made[name] = drawn.astype(np.float32)
    if "stop.bias" in made:
        made["stop.bias"][:] = stop
    if "duration_out.bias" in made:
        made["duration_out.bias"][:] = 2  # six frames of a token
    return made


def make(
    folder: Path,
    name: str = "hum",
    *,
    max_steps: int = 40,
    stop: float = -4.0,
    channels: Sequence[int] = (16, 8, 1),
    strides: Sequence[int] = (8, 4, 1),
    **changes: Any,
) -> Path:
    folder = folder / name
    folder.mkdir(parents=True)
    s = shape(**changes)
    wanted = graph.weights_wanted(s) | vocoder.weights_wanted(s.mels, channels, strides)
    save_file(weights(wanted, stop=stop), folder / "model.safetensors")
    config = {
        "model_type": "transformer_mel",
        "sample_rate": 8000,
        "text": {"characters": CHARACTERS, "lowercase": True, "language": "en"},
        **SIZES,
        **changes,
        "max_steps": max_steps,
        "vocoder": {"channels": list(channels), "strides": list(strides)},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
