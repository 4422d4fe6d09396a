"""Keras's own INT8: `model.quantize("int8")`, which knows dense layers and embeddings, not convolutions.

Activations are measured at every run. The Keras file gets smaller; in the graph its products are of 32-bit integers
(Keras widens before it multiplies), so nothing is won there. Here to be compared with int8_static.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _retrain

SUMMARY = "Keras's own INT8 quantization of dense layers and embeddings (it has none for convolutions)"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"
OBJECTIVE = "size"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")


def accepts(stage: Stage, settings: Settings) -> str | None:
    if settings.stages and stage.name not in settings.stages:
        return f"stage {stage.name} is not among those asked for ({', '.join(settings.stages)})"
    return None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError for a model without dense layers or embeddings, or one that keeps no Keras source."""
    begun = time.perf_counter()
    family = registry.load("families", bundle.family)
    if not hasattr(family, "source"):
        raise UsageError(f"keras_int8: a model of the family {bundle.family} keeps no Keras model")
    model = family.source(bundle, context.custom)
    context.progress("quantizing", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning for each layer that Keras leaves as it is
        model.quantize("int8")
    if not any(getattr(layer, "quantization_mode", None) == "int8" for layer in model.layers):
        raise UsageError("keras_int8 would change nothing: the model has no dense layer and no embedding")
    label = lambda graph, stage: replace(stage, precision="mixed int8")  # noqa: E731
    return _retrain.write(bundle, out, model, ("keras_int8", VERSION, settings, begun), label)
