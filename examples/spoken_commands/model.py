"""The network of the spoken commands: seven convolutions over log-mel frames, 4.2 million parameters."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

from vivace.core.features import LogMel

FEATURES = LogMel(rate=16000, fft=512, hop=320, mels=64)
LAYERS = ((256, 5, 2), (384, 3, 2), (384, 3, 1), (512, 3, 2), (512, 3, 1), (640, 3, 2), (512, 3, 1))
CROP = 8  # frames by which training clips are shifted


def build(labels: int, width: float = 1.0) -> Any:
    """[batch, frames, mels] -> probabilities. `width` scales the channels (tests use a narrow one)."""
    x = inputs = keras.Input((None, FEATURES.mels), name="log_mel")
    x = keras.layers.Normalization(mean=-6.0, variance=9.0)(x)
    for channels, kernel, stride in LAYERS:
        x = keras.layers.ZeroPadding1D(kernel // 2)(x)
        x = keras.layers.Conv1D(max(8, round(width * channels)), kernel, strides=stride, use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, keras.layers.Dense(labels, activation="softmax")(x), name="commands")


def read(folder: Path, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(float32[clips, frames, mels], int64[clips]) of a set that `speech.make` wrote."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    features = [FEATURES(soundfile.read(folder / row["path"], dtype="float32")[0]) for row in rows]
    return np.stack(features), np.array([labels.index(row["label"]) for row in rows])


def train(
    training: Path,
    labels: tuple[str, ...],
    out: Path,
    *,
    epochs: int,
    width: float = 1.0,
    batch: int = 48,
    tell: Callable[[str], None] = print,
) -> Any:
    """Trains a model and saves it with its optimizer at `out`, its adapter beside it. Returns the model."""
    keras.utils.set_random_seed(0)
    x, y = read(training, labels)
    model = build(len(labels), width)
    steps = epochs * -(-len(x) // batch)
    rate = keras.optimizers.schedules.CosineDecay(1e-4, steps, warmup_target=1e-3, warmup_steps=max(1, steps // 10))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        shifts = rng.integers(-CROP, CROP + 1, len(x))
        moved = np.stack([np.roll(one, shift, axis=0) for one, shift in zip(x, shifts, strict=True)])
        for one in moved:  # a band of frequencies is masked, so that no word hangs on one of them
            first = rng.integers(0, FEATURES.mels - 8)
            one[:, first : first + rng.integers(0, 9)] = -8
        found = model.fit(moved, y, batch_size=batch, verbose=0).history
        tell(f"epoch {epoch + 1}/{epochs}: loss {found['loss'][0]:.3f}, accuracy {found['accuracy'][0]:.4f}")
    model.save(out)
    adapter = {"task": "labels", "labels": list(labels), "features": {"kind": "log_mel", **vars(FEATURES)}}
    out.with_suffix(".json").write_text(json.dumps(adapter, indent=1), encoding="utf-8")
    return model
