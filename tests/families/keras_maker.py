"""Small Keras models with their adapters, for tests. Needs Keras with PyTorch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
WORDS = ("yes", "no", "go")
LISTENS = {
    "task": "labels",
    "labels": list(WORDS),
    "seconds": 0.5,
    "features": {"kind": "log_mel", "rate": 8000, "fft": 256, "hop": 80, "mels": 20},
}
SPEAKS = {"task": "speech", "rate": 8000, "hop": 80, "characters": "abcdefghijklmnopqrstuvwxyz .,", "lowercase": True}
MELS = {
    "task": "speech",
    "text": {"front_end": "characters", "characters": "abcdefghijklmnopqrstuvwxyz .,", "lowercase": True},
    "durations": {str(k): 4.0 + k % 5 for k in range(29) if k != 25},  # it cannot say z
    "context": 1,
    "places": 4,
    "mel": {"rate": 8000, "fft": 256, "hop": 64, "mels": 20},
}


def write(model: Any, adapter: dict[str, Any], path: Path) -> Path:
    model.save(path)
    path.with_suffix(".json").write_text(json.dumps(adapter), encoding="utf-8")
    return path


def classifier(channels: int = 16) -> Any:
    """Two convolutions over log-mel frames; [batch, time, 20] -> [batch, 3]."""
    import keras

    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((None, 20))
    x = keras.layers.Normalization(mean=-6.0, variance=9.0)(x)
    for stride in (2, 1):
        x = keras.layers.ZeroPadding1D(1)(x)
        x = keras.layers.Conv1D(channels, 3, strides=stride, use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(len(WORDS), activation="softmax")(x))


def voice() -> Any:
    """A hum for each character: [batch, time] ids -> [batch, samples, 1]."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(len(SPEAKS["characters"]), 16, name="sounds")(x)
    x = keras.layers.UpSampling1D(10)(x)
    x = keras.layers.Conv1D(80, 3, padding="same", activation="tanh", name="wave")(x)
    model = keras.Model(inputs, keras.layers.Reshape((-1, 1))(x))
    times = np.arange(80) / 80
    tones = np.stack([np.sin(2 * np.pi * (k + 1) * times) for k in range(16)])
    kernel = np.zeros((3, 16, 80), np.float32)
    kernel[1] = tones * 0.3
    model.get_layer("wave").set_weights([kernel, np.zeros(80, np.float32)])
    model.get_layer("sounds").set_weights([np.random.default_rng(0).normal(size=(29, 16)).astype(np.float32)])
    return model
