"""Places stages on a runtime, in a precision that it computes in. The files stay as they are.

Which runtime is faster differs between machines and stages: this pass only says where; the gate measures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle, Step
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage

SUMMARY = "Runs stages on another runtime, in fp32 or bf16 where the processor has it"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    runtime: str = option("openvino", "where the stages run (vivace list runtimes)")
    precision: str = option("fp32", "what their float layers compute in", ("fp32", "bf16"))
    stages: tuple[str, ...] = option((), "stages to place; none: all that the runtime can read")


def accepts(stage: Stage, settings: Settings) -> str | None:
    runtime = registry.load("runtimes", settings.runtime)
    offered = runtime.precisions()
    if settings.stages and stage.name not in settings.stages:
        return "not among the stages asked for"
    if Path(stage.file).suffix[1:] not in runtime.FORMATS:
        made = ", which pass to_torch makes" if settings.runtime == "torch" else ""
        return f"{settings.runtime} reads {', '.join(runtime.FORMATS)} files{made}"
    if settings.precision not in offered:
        return (
            f"this machine computes {', '.join(offered)} in {settings.runtime}, not {settings.precision}"
            if offered
            else f"{settings.runtime} is not installed; run: pip install 'vivace[{settings.runtime}]'"
        )
    if stage.runtime == settings.runtime and stage.options.get("precision", "fp32") == settings.precision:
        return "is there already"
    return None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:  # noqa: ARG001
    """Raises UsageError, with the reasons, if no stage can be placed."""
    reasons = {stage.name: accepts(stage, settings) for stage in bundle.stages}
    if all(reasons.values()):
        raise UsageError("place: " + "; ".join(f"stage {name}: {reason}" for name, reason in reasons.items()))
    stages = tuple(stage if reasons[stage.name] else placed(stage, settings) for stage in bundle.stages)
    step = Step("place", VERSION, json.loads(json.dumps(vars(settings))))
    return bundle.derive(out, step, stages=stages)


def placed(stage: Stage, settings: Settings) -> Stage:
    """The same stage there; its label names what its float layers compute in."""
    words = [settings.precision if word in ("fp32", "bf16") else word for word in stage.precision.split(", ")]
    if settings.precision == "bf16" and "bf16" not in words:
        words.append("bf16")
    options = {**stage.options, "precision": settings.precision}
    return replace(stage, runtime=settings.runtime, precision=", ".join(words), options=options)
