"""Training a bundle's Keras model on: what the passes that need labelled clips share.

The model is reached through its family, which keeps the source and converts it again. A checkpoint after every epoch
lies beside the output, so that an interrupted pass goes on where it was.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, Step, atomic_file
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
    each_step: Callable[[int], None] = lambda step: None,
    best_from: int = 1,
) -> None:
    """Fits the model in place by Adam with a falling rate; ends with the weights of its best epoch, of those from
    `best_from` on.

    `each_step` is called after every step of the optimizer, with the steps that were made. `checkpoint` is a file of
    weights, the best ones and the optimizer's state, left behind only by an interruption.
    """
    import keras

    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    held, learnt = order[::HELD_OUT], np.setdiff1d(order, order[::HELD_OUT])
    each = -(-len(learnt) // batch)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not _probabilities(model))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, max(1, epochs * each)))
    model.compile(optimizer, loss)
    optimizer.build(model.trainable_variables)  # now: what is not built yet reads no state
    done, best, kept = 0, -1.0, model.get_weights()
    if checkpoint.is_file():
        done, best, kept = _resume(model, optimizer, checkpoint)
    for epoch in range(done, epochs):
        shuffled = np.random.default_rng(epoch).permutation(learnt)
        for k in range(each):
            rows = shuffled[k * batch : (k + 1) * batch]
            model.train_on_batch(x[rows], y[rows])
            each_step(epoch * each + k + 1)
            tell(f"training, epoch {epoch + 1}/{epochs}", (epoch + k / each) / epochs)
        right = float(np.mean(model.predict(x[held], verbose=0).argmax(axis=1) == y[held]))
        if right >= best and epoch + 1 >= best_from:
            best, kept = right, model.get_weights()
        _keep(model, optimizer, kept, checkpoint, {"epochs": epoch + 1, "best": best})
    model.set_weights(kept)
    checkpoint.unlink(missing_ok=True)


def _keep(model: Any, optimizer: Any, best: list[Array], file: Path, told: dict[str, Any]) -> None:
    arrays = {f"weight.{k}": w for k, w in enumerate(model.get_weights())}
    arrays |= {f"best.{k}": w for k, w in enumerate(best)}
    arrays |= {f"optimizer.{k}": np.asarray(v.numpy()) for k, v in enumerate(optimizer.variables)}
    buffer = io.BytesIO()
    np.savez(buffer, told=np.array(json.dumps(told)), **arrays)
    atomic_file(file, buffer.getvalue())


def _resume(model: Any, optimizer: Any, file: Path) -> tuple[int, float, list[Array]]:
    """(epochs that are done, the best one's share of right answers, its weights)."""
    with np.load(file, allow_pickle=False) as data:
        told = json.loads(str(data["told"]))
        count = len(model.get_weights())
        model.set_weights([data[f"weight.{k}"] for k in range(count)])
        for k, variable in enumerate(optimizer.variables):
            variable.assign(data[f"optimizer.{k}"])
        return int(told["epochs"]), float(told["best"]), [data[f"best.{k}"] for k in range(count)]


def checkpoint_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.training.npz")


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
