"""What is known of a decoder that makes frames step by step: a step's time by place, and many texts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.stage import Stage
from vivace.workflows._prefix import by_prefix, growth
from vivace.workflows._stopwatch import Reading

CACHE = "kv_cache"


def summary(
    bundle: Bundle,
    stage: Stage,
    readings: Sequence[Reading],
    together: Mapping[str, Mapping[str, Any]],
    said: Mapping[str, str],
) -> dict[str, Any]:
    """`together` holds what time_batches found, by the text's name. `pass` names the pass that ends the growth."""
    rows = by_prefix(readings)
    return {
        "stage": stage.name,
        "by_prefix": rows,
        **growth(rows),
        "pass": CACHE if takes_cache(bundle, stage) else None,
        "batches": [
            {"text": name, "characters": len(said[name]), **row}
            for name, found in together.items()
            for row in found["rows"]
        ],
    }


def takes_cache(bundle: Bundle, stage: Stage) -> bool:
    """Whether the pass kv_cache has something to do; that its result is the same is the pass's own proof."""
    module = registry.load("passes", CACHE)
    return hasattr(registry.load("families", bundle.family), "cached") and not module.accepts(stage, module.Settings())
