"""Times a Keras model beside what it became: `predict`, a compiled call, ONNX Runtime in fp32 and INT8, interleaved.

One thread everywhere; features are made before, so that the model alone is timed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model as network
import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.stage import RuntimeOptions
from vivace.engine.sessions import open_sessions
from vivace.workflows import stats

BATCHES = (1, 32)
ARMS = ("Keras, model.predict", "Keras, compiled call", "ONNX Runtime, fp32", "ONNX Runtime, INT8")


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
    import torch

    torch.set_num_threads(1)
    x, _ = network.read(test, network_labels(fp32))
    arms, missing = _arms(saved, fp32, int8)
    found: dict[str, Any] = {"missing": missing, "rounds": rounds}
    shuffle = random.Random(0)
    for batch in BATCHES:
        rows = np.stack([x[k % len(x)] for k in range(batch)])
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for call in arms.values():  # compilers and arenas warm up
            for _ in range(3):
                call(rows)
        for _ in range(rounds):
            order = list(arms)
            shuffle.shuffle(order)
            for name in order:
                begun = time.perf_counter()
                arms[name](rows)
                seconds[name].append(time.perf_counter() - begun)
        found[str(batch)] = seconds
    return found


def network_labels(bundle: Bundle) -> tuple[str, ...]:
    from vivace.workflows._task import opened

    with opened(bundle, 1) as classifier:
        return classifier.labels


def _arms(saved: Path, fp32: Bundle, int8: Bundle) -> tuple[dict[str, Callable[[Any], Any]], dict[str, str]]:
    import keras
    import torch

    whole = keras.saving.load_model(saved, compile=False)
    arms: dict[str, Callable[[Any], Any]] = {ARMS[0]: lambda rows: whole.predict(rows, batch_size=32, verbose=0)}
    missing = {}

    class Inference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = whole

        def forward(self, rows: Any) -> Any:
            return self.inner(rows, training=False)

    try:  # exported first: Keras's own Python would be compiled anew for every layer, up to a limit
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        example = torch.zeros(2, 48, network.FEATURES.mels)
        with torch.no_grad():
            graph = torch.export.export(Inference().eval(), (example,), dynamic_shapes=(axes,)).module()
        compiled = torch.compile(graph)
        compiled(example)
        arms[ARMS[1]] = lambda rows: _without_gradients(compiled, rows)
    except Exception as error:  # noqa: BLE001 - no C++ compiler, for instance: the page says so
        missing[ARMS[1]] = str(error).splitlines()[0][:200]
    for name, bundle in zip(ARMS[2:], (fp32, int8), strict=True):
        session = open_sessions(bundle, RuntimeOptions(threads=1))["model"]
        given = next(iter(bundle.stages[0].inputs))
        arms[name] = lambda rows, session=session, given=given: session.run({given: rows})
    return arms, missing


def _without_gradients(call: Callable[[Any], Any], rows: Any) -> Any:
    import torch

    with torch.inference_mode():
        return call(torch.from_numpy(rows))


def sizes(saved: Path, fp32: Bundle, int8: Bundle) -> dict[str, int]:
    """Bytes at every step: what was saved, without the optimizer, as fp32 ONNX, as INT8 ONNX."""
    told = fp32.defaults["saved"]
    return {
        "saved": saved.stat().st_size,
        "without optimizer": told["file"] - told["optimizer"],
        "fp32": fp32.size,
        "int8": int8.size,
    }
