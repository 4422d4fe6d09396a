"""A cache of keys and values for decoders that make frames step by step: a step costs what is new, not all before it.

Only for causal decoders, and only if its steps are measured to be what full recomputation gives: exactly, or within a
tolerance of its own where keys and values are kept in fewer bits.
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

SUMMARY = "Keys and values of earlier steps are kept: exact, or in fewer bits; refused where the decoder is not causal"
NEEDS: frozenset[str] = frozenset()
VERSION = "2"
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-3, "int8": 0.03}


NOT_CAUSAL = (
    "this decoder is not causal, so that every step changes what was kept. "
    "The keys and values of the text are kept all the same; for more, make a causal copy: vivace distill --causal"
)
COARSE = "{} is too coarse for this decoder (in fp32: {:.2g}); keep them in more bits"


@dataclass(frozen=True)
class Settings:
    precision: str = option("fp32", "how they are kept; below fp32 the frames change a little", tuple(TOLERANCES))
    tolerance: float = option(
        0.0,
        "largest difference to full recomputation, in standard deviations of the frames; 0: "
        + ", ".join(f"{most:g} for {precision}" for precision, most in TOLERANCES.items()),
    )


def accepts(stage: Stage, settings: Settings) -> str | None:  # noqa: ARG001
    return None if stage.loop == "frame" and "frame_bias" in stage.inputs else "computes no prefix step by step"


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:  # noqa: ARG001
    """Raises UsageError, with the measured difference, where a cache would change the frames."""
    family = registry.load("families", bundle.family)
    if not hasattr(family, "cached"):
        raise UsageError(f"kv_cache: models of the family {bundle.family} make all frames at once: nothing to keep")
    old, new, data, difference = family.cached(bundle, settings.precision)
    most = settings.tolerance or TOLERANCES[settings.precision]
    if not difference <= most:
        coarse = settings.precision != "fp32" and (exact := family.cached(bundle)[-1]) <= TOLERANCES["fp32"]
        raise UsageError(
            f"kv_cache: with a cache in {settings.precision} the frames differ from full recomputation by "
            f"{difference:.2g} standard deviations (at most {most:g}): "
            + (COARSE.format(settings.precision, exact) if coarse else NOT_CAUSAL)
        )
    stages = tuple(new if stage.name == old else stage for stage in bundle.stages)

    def change(folder: Path) -> None:
        (folder / bundle.stage(old).file).unlink()
        (folder / new.file).write_bytes(data)

    step = Step("kv_cache", VERSION, json.loads(json.dumps(vars(settings))))
    return bundle.derive(out, step, change, stages=stages)
