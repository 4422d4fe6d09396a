"""What the passes over PyTorch stages share. A stage of a VITS voice that is an ONNX graph becomes a module first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle, Step
from vivace.core.errors import ModelError, UsageError
from vivace.core.stage import Stage
from vivace.passes import _onnx

RUNTIME, MODULE, SUFFIX = "torch", "vits", ".safetensors"
PARTS = {"text": "input", "flow": "prior_noise", "decoder": "latent"}  # and an input by which each is known

Weights = dict[str, Any]  # name -> torch.Tensor
Edited = tuple[Stage, Weights]
Edit = Callable[[Stage, Weights], Edited | str]


def unfit(stage: Stage, stages: tuple[str, ...]) -> str | None:
    """Why a pass that was asked to work on `stages` (none: all) leaves this one alone, or None."""
    if stages and stage.name not in stages:
        return f"stage {stage.name} is not among those asked for ({', '.join(stages)})"
    if find_spec("torch") is None or find_spec("safetensors") is None:
        return "PyTorch is not installed; run: pip install 'vivace[torch]'"
    if is_module(stage):
        return None
    if PARTS.get(stage.name) not in stage.inputs or Path(stage.file).suffix != ".onnx":
        return f"stage {stage.name} is no part of a VITS voice"
    return None


def is_module(stage: Stage) -> bool:
    return stage.runtime == RUNTIME and stage.options.get("module") == MODULE


def edit_stages(
    bundle: Bundle, out: Path, owner: tuple[str, str], settings: Any, edit: Edit, stages: tuple[str, ...] | None = None
) -> Bundle:
    """Writes the child in which `edit(stage, weights)` has made each asked-for stage anew: it returns the stage and its
    weights, or the reason why it changed nothing. A stage it returns may be an ONNX one: with a ModelProto as "onnx"
    among its weights. `settings` has a field `stages`, unless they are given.

    Raises UsageError if a stage is unknown, a graph is no VITS voice as it was exported, or nothing at all was changed,
    MissingDependency without PyTorch.
    """
    registry.load("modules", MODULE)  # before anything else: without PyTorch it says so
    start = time.perf_counter()
    asked: tuple[str, ...] = settings.stages if stages is None else stages
    known = [stage.name for stage in bundle.stages]
    if unknown := [name for name in asked if name not in known]:
        raise UsageError(f"{owner[0]}: the model has no stage {unknown[0]!r}; it has {', '.join(known)}")
    reasons = {stage.name: reason for stage in bundle.stages if (reason := unfit(stage, asked))}
    fit = [stage for stage in bundle.stages if stage.name not in reasons]
    made: dict[str, Edited] = {}
    for stage, weights in read(bundle, fit, owner[0]):
        edited = edit(stage, weights)
        if isinstance(edited, str):
            reasons[stage.name] = edited
        else:
            made[stage.name] = edited
    if not made:
        told = (reason for name, reason in reasons.items() if not asked or name in asked)
        raise UsageError(f"{owner[0]} would change nothing: {'; '.join(dict.fromkeys(told))}")

    def change(folder: Path) -> None:
        for old in bundle.stages:
            if old.name in made:
                (folder / old.file).unlink()
                write(folder, *made[old.name])

    step = Step(owner[0], owner[1], asdict(settings), seconds=round(time.perf_counter() - start, 3))
    children = tuple(made[s.name][0] if s.name in made else s for s in bundle.stages)
    return bundle.derive(out, step, change, stages=children)


def read(bundle: Bundle, stages: list[Stage], owner: str) -> list[Edited]:
    """Each stage as a module's, with its weights. Raises UsageError for a graph that was changed since its export."""
    from safetensors.torch import load_file

    graphs = [stage for stage in stages if not is_module(stage)]
    shape, weights = _from_onnx(bundle, graphs, owner) if graphs else ({}, {})
    found: list[Edited] = []
    for stage in stages:
        if is_module(stage):
            found.append((stage, load_file(bundle.file(stage.file))))
        else:
            found.append((_module_stage(stage, shape, owner), weights[stage.name]))
    return found


def _from_onnx(bundle: Bundle, graphs: list[Stage], owner: str) -> tuple[Any, dict[str, Weights]]:
    """The voice's shape, and the weights of the stages `graphs`."""
    import torch

    known = next((stage.options["shape"] for stage in bundle.stages if is_module(stage)), None)
    needed = graphs if known else list(bundle.stages)
    models = {s.name: _onnx.read(bundle.file(s.file)) for s in needed if Path(s.file).suffix == ".onnx"}
    try:
        shape, arrays = registry.load("modules", MODULE).parts_from_onnx(models, known)
    except ModelError as error:
        raise UsageError(f"{owner}: {error}") from None
    wanted = {stage.name for stage in graphs}
    return shape, {
        name: {key: torch.tensor(value) for key, value in own.items()} for name, own in arrays.items() if name in wanted
    }


def _module_stage(stage: Stage, shape: Mapping[str, Any], owner: str) -> Stage:
    part = registry.load("modules", MODULE).part(stage.name, shape)
    for have, can in ((stage.inputs, part.inputs), (stage.outputs, part.outputs)):
        if odd := sorted(set(have) ^ set(can)):
            raise UsageError(f"{owner}: stage {stage.name} was changed ({odd[0]}); begin with the original voice")
    options = {"module": MODULE, "part": stage.name, "shape": json.loads(json.dumps(shape)), "precision": "fp32"}
    file = str(Path(stage.file).with_suffix(SUFFIX))
    return replace(stage, file=file, runtime=RUNTIME, precision="fp32", options=options)


def write(folder: Path, stage: Stage, weights: Weights) -> None:
    from safetensors.torch import save_file

    if "onnx" in weights:
        _onnx.write(weights["onnx"], folder / stage.file)
    else:
        save_file({name: weights[name].contiguous() for name in sorted(weights)}, folder / stage.file)


def with_options(stage: Stage, **changes: Any) -> Stage:
    """The stage with these options (None takes one away), and a label that is true of them."""
    options = {key: value for key, value in {**stage.options, **changes}.items() if value is not None}
    quantized = set(options.get("quantized", {}).values())
    words = [options["precision"]]
    if quantized & {"dynamic", "dynamic torchao"}:
        words = ["mixed int8"]
    if "weight_only" in quantized:
        words.append("int8 weights")
    words += [word for word in ("pruned", "compile") if options.get(word)]
    return replace(stage, options=options, precision=", ".join(w if w != "compile" else "compiled" for w in words))


def voice(stage: Stage) -> Any:
    """The stage's module without weights, for its layers and their sizes."""
    return registry.load("modules", MODULE).part(stage.options["part"], stage.options["shape"]).voice


def whole(stage: Stage, weights: Weights) -> Weights:
    """The weights with those that are kept sparse made whole."""
    shapes = {name: tuple(value.shape) for name, value in voice(stage).state_dict().items()}
    found: Weights = registry.load("modules", "quantized").dense(weights, shapes)
    return found
