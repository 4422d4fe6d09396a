"""A cache of keys and values for decoders that make frames step by step: a step costs what is new, not all before it.

Only for causal decoders, and only if its steps are measured to be what full recomputation gives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle, Step
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage

SUMMARY = "Exact: keys and values of earlier steps are kept; refused where the decoder is not causal"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    tolerance: float = option(1e-3, "largest difference to full recomputation, in standard deviations of the frames")


def accepts(stage: Stage, settings: Settings) -> str | None:  # noqa: ARG001
    return None if stage.loop == "frame" and "frame_bias" in stage.inputs else "computes no prefix step by step"


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:  # noqa: ARG001
    """Raises UsageError, with the measured difference, where a cache would change the frames."""
    family = registry.load("families", bundle.family)
    if not hasattr(family, "cached"):
        raise UsageError(f"kv_cache: models of the family {bundle.family} make all frames at once: nothing to keep")
    old, new, data, difference = family.cached(bundle)
    if not difference <= settings.tolerance:
        raise UsageError(
            f"kv_cache: with a cache the frames differ from full recomputation by {difference:.2g} standard deviations "
            f"(at most {settings.tolerance:g}): this decoder is not causal, so that every step changes what was kept. "
            "The keys and values of the text are kept all the same; for more, train it with a causal mask"
        )
    stages = tuple(new if stage.name == old else stage for stage in bundle.stages)

    def change(folder: Path) -> None:
        (folder / bundle.stage(old).file).unlink()
        (folder / new.file).write_bytes(data)

    step = Step("kv_cache", VERSION, json.loads(json.dumps(vars(settings))))
    return bundle.derive(out, step, change, stages=stages)
