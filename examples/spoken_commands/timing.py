"""Times a Keras model beside what it became: `predict`, a compiled call, ONNX Runtime in fp32 and INT8, interleaved.

One thread everywhere; features are made before, so that the model alone is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import model as network
import numpy as np

import keras_steps
from vivace.core.bundle import Bundle
from vivace.workflows import stats

BATCHES = (1, 32)


def keras_answers(saved: Path, test: Path, labels: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy of the saved model as Keras runs it, with its interval by speakers."""
    import csv

    import keras

    x, y = network.read(test, labels)
    with (test / "manifest.csv").open(encoding="utf-8", newline="") as file:
        speakers = [row["group"] for row in csv.DictReader(file)]
    hits = keras.saving.load_model(saved, compile=False).predict(x, verbose=0).argmax(axis=1) == y
    found = stats.mean_interval(hits.astype(float), speakers)
    return {"accuracy": {"value": found.mean, "low": found.low, "high": found.high}}


def measure(saved: Path, fp32: Bundle, int8: Bundle, test: Path, rounds: int) -> dict[str, Any]:
    """Seconds of every run by batch and arm; a compiler that is not there leaves its arm out, with the reason."""
    x, _ = network.read(test, network_labels(fp32))
    arms, missing = keras_steps.arms(saved, fp32, int8, np.zeros((2, 48, network.FEATURES.mels), np.float32))
    found: dict[str, Any] = {"missing": missing, "rounds": rounds}
    for batch in BATCHES:
        rows = np.stack([x[k % len(x)] for k in range(batch)])
        found[str(batch)] = keras_steps.interleaved(arms, rows, rounds)
    return found


def network_labels(bundle: Bundle) -> tuple[str, ...]:
    from vivace.workflows._task import opened

    with opened(bundle, 1) as classifier:
        return classifier.labels
