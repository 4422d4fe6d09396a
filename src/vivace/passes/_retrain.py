"""Training a bundle's Keras model on: what the passes that need labelled clips share.

The model is reached through its family, which keeps the source and converts it again. A checkpoint after every epoch
lies beside the output, so that an interrupted pass goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, Step
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.stage import Array, Stage

HELD_OUT = 10  # one clip in so many is not trained on: the epoch that names most of them rightly is kept


def data(bundle: Bundle, owner: str, context: Context) -> tuple[Array, Array]:
    """The inputs and labels to train on. Raises UsageError where there are none, or nothing to train."""
    if not hasattr(registry.load("families", bundle.family), "source"):
        raise UsageError(f"{owner}: a model of the family {bundle.family} keeps nothing that could be trained on")
    if context.training is None:
        raise UsageError(f"{owner} needs labelled clips to train on: --training FOLDER")
    return context.training()


def train(
    model: Any,
    x: Array,
    y: Array,
    *,
    epochs: int,
    rate: float,
    batch: int,
    checkpoint: Path,
    tell: Callable[[str, float], None],
    each_step: Callable[[], None] = lambda: None,
) -> None:
    """Fits the model in place by Adam with a falling rate; ends with the weights of its best epoch.

    `each_step` is called after every step of the optimizer. `checkpoint` is a file of weights and its progress, left
    behind only by an interruption.
    """
    import keras

    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    held, learnt = order[::HELD_OUT], np.setdiff1d(order, order[::HELD_OUT])
    steps = epochs * -(-len(learnt) // batch)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not _probabilities(model))
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, max(1, steps))), loss)
    progress = checkpoint.with_suffix(".json")
    done, best, kept = 0, -1.0, model.get_weights()
    if progress.is_file() and checkpoint.is_file():
        model.load_weights(checkpoint)
        told = json.loads(progress.read_text(encoding="utf-8"))
        done, best, kept = int(told["epochs"]), float(told["best"]), model.get_weights()
    for epoch in range(done, epochs):
        shuffled = np.random.default_rng(epoch).permutation(learnt)
        for first in range(0, len(shuffled), batch):
            rows = shuffled[first : first + batch]
            model.train_on_batch(x[rows], y[rows])
            each_step()
            tell(f"training, epoch {epoch + 1}/{epochs}", (epoch + first / len(shuffled)) / epochs)
        right = float(np.mean(model.predict(x[held], verbose=0).argmax(axis=1) == y[held]))
        if right >= best:
            best, kept = right, model.get_weights()
        model.save_weights(checkpoint)
        progress.write_text(json.dumps({"epochs": epoch + 1, "best": best}), encoding="utf-8")
    model.set_weights(kept)
    for file in (checkpoint, progress):
        file.unlink(missing_ok=True)


def checkpoint_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.weights.h5")


def write(
    bundle: Bundle,
    out: Path,
    model: Any,
    step: tuple[str, str, Any, float],
    change: Callable[[Any, Stage], Stage] = lambda graph, stage: stage,
) -> Bundle:
    """The child of a trained model: its graph (altered by `change`, which returns the stage) and its new source."""
    family = registry.load("families", bundle.family)
    graph, stage = family.converted(model)
    stage = change(graph, stage)
    name, version, settings, begun = step

    def fill(folder: Path) -> None:
        (folder / stage.file).write_bytes(graph.SerializeToString())
        family.save(model, folder / family.SOURCE)

    history = Step(name, version, asdict(settings), seconds=round(time.perf_counter() - begun, 3))
    return bundle.derive(out, history, fill, stages=(stage,))


def _probabilities(model: Any) -> bool:
    last = getattr(model.layers[-1], "activation", None)
    return getattr(last, "__name__", "") == "softmax"


def kernels(model: Any) -> list[Any]:
    """The weight variables of two or more dimensions that a product or convolution uses."""
    return [w for w in model.trainable_weights if len(w.shape) >= 2 and w.name in ("kernel", "depthwise_kernel")]
