"""Magnitude pruning with fine-tuning for Keras models (Zhu and Gupta, "To prune, or not to prune", 2017).

The smallest weights of each layer become zero, more of them with every step, while the rest learn to do without.
Zeros alone make no file smaller and no product faster: what stores them packed follows, or the gate refuses.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _retrain

SUMMARY = "Keras models: zeroes the smallest weights step by step while the rest are trained on (needs --training)"
NEEDS: frozenset[str] = frozenset()
VERSION = "2"
OBJECTIVE = "size"
RAMP = 0.7  # share of the steps over which the sparsity rises; the rest recover


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    sparsity: float = option(0.5, "share of the weights of each layer that become zero")
    epochs: int = option(3, "times through the training clips")
    rate: float = option(0.0003, "learning rate at the beginning")
    batch: int = option(48, "clips in a step")

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise UsageError(f"finetune_sparse: sparsity is {self.sparsity}; it must lie between 0 and 1")
        if self.epochs < 1 or self.batch < 1 or self.rate <= 0:
            raise UsageError("finetune_sparse: epochs, batch and rate must be above 0")


def accepts(stage: Stage, settings: Settings) -> str | None:
    if settings.stages and stage.name not in settings.stages:
        return f"stage {stage.name} is not among those asked for ({', '.join(settings.stages)})"
    return None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError without training clips, or for a model that keeps no Keras source."""
    from vivace.core import registry

    begun = time.perf_counter()
    x, y = _retrain.data(bundle, "finetune_sparse", context)
    model = registry.load("families", bundle.family).source(bundle, context.custom)
    weights = _retrain.kernels(model)
    total = settings.epochs * -(-(len(x) - -(-len(x) // _retrain.HELD_OUT)) // settings.batch)

    def prune(step: int) -> None:
        share = settings.sparsity * (1 - (1 - min(1.0, step / max(1, RAMP * total))) ** 3)
        for weight in weights:
            weight.assign(thinned(np.asarray(weight.numpy()), share))

    _retrain.train(
        model,
        x,
        y,
        epochs=settings.epochs,
        rate=settings.rate,
        batch=settings.batch,
        checkpoint=_retrain.checkpoint_of(out),
        tell=context.progress,
        each_step=prune,
        best_from=math.ceil(RAMP * settings.epochs),  # before that there are fewer zeros than asked for
    )
    for weight in weights:
        weight.assign(thinned(np.asarray(weight.numpy()), settings.sparsity))
    return _retrain.write(bundle, out, model, ("finetune_sparse", VERSION, settings, begun))


def thinned(weight: np.ndarray, share: float) -> np.ndarray:
    """The weights with `share` of them, those of least magnitude, set to zero."""
    count = int(share * weight.size)
    if not count:
        return weight
    limit = np.partition(np.abs(weight).reshape(-1), count - 1)[count - 1]
    return np.where(np.abs(weight) <= limit, 0, weight).astype(weight.dtype)
