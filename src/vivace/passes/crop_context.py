"""Lets a vocoder leave out context where its later layers no longer see it.

A window of frames is read with context on both sides that only the early layers need: of the twelve frames of a Piper
voice, those behind the second upsampling see one. They do nine tenths of the work, so that small windows cost little
more than large ones. How far layers see: see families/_receptive_field.py.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, Step
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage, TensorSpec
from vivace.passes import _onnx
from vivace.passes._frames import CONVOLUTIONS, CROPPED, Layer, before, layers

SUMMARY = "Exact: a vocoder's later layers leave out the context of a window that they do not see"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    window: int = option(116, "frames made at once: fewer need less memory, more compute less context twice")

    def __post_init__(self) -> None:
        if not 16 <= self.window <= 4096:
            raise UsageError(f"crop_context: window is {self.window}; it must lie between 16 and 4096")


def accepts(stage: Stage, settings: Settings) -> str | None:  # noqa: ARG001
    if Path(stage.file).suffix != ".onnx":
        return "is no ONNX file"
    if "mask" in stage.inputs:
        return "takes a mask; run crop_context before few_shapes"
    return "leaves out context already" if "crop" in stage.inputs else None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError for a family that does not crop, or a vocoder that has no place for it."""
    begun = time.perf_counter()
    family = registry.load("families", bundle.family)
    if not hasattr(family, "CROPPED"):
        raise UsageError(f"crop_context: the family {bundle.family} does not crop what its stages get")
    name, signal, crop = family.CROPPED
    stage = bundle.stage(name)
    context.progress(f"cropping {name}", 0.0)
    model = _onnx.read(bundle.file(stage.file))
    found = accepts(stage, settings) or rewrite(model, signal, crop, int(bundle.defaults["overlap"]))
    if isinstance(found, str):
        raise UsageError(f"crop_context would change nothing: stage {name} {found}")
    cropped = replace(stage, inputs={**stage.inputs, crop: TensorSpec("int64", (2,))})
    stages = tuple(cropped if s.name == name else s for s in bundle.stages)
    step = Step("crop_context", VERSION, asdict(settings), seconds=time.perf_counter() - begun)
    defaults = {**bundle.defaults, "cropped_overlap": found, "window": settings.window}

    def change(folder: Path) -> None:
        _onnx.write(model, folder / stage.file)

    return bundle.derive(out, step, change, stages=stages, defaults=defaults)


def rewrite(model: Any, signal: str, crop: str, overlap: int) -> int | str:
    """Changes the ModelProto in place; returns the frames of context that are left, or why nothing was changed.

    `signal` [batch, channels, frames] is read with `overlap` frames on both sides; `crop` [2] becomes an input: of the
    frames read, the first that the later layers get and the one behind their last.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = _onnx.Graph(model)
    try:
        rates, known = layers(graph, signal)
    except ValueError as error:
        return str(error)
    places = {}
    for layer in known.values():
        if layer.node.op_type == "ConvTranspose":
            name = before(graph, layer.node.input[0])
            if (seen := _behind(graph, name, rates, known)) and seen[0] < overlap:
                places[name] = ((overlap - seen[0]) * seen[1], seen[0])
    if not places:
        return "has no upsampling behind which less is seen"
    name = max(places, key=lambda tensor: places[tensor][0])
    constants = [numpy_helper.from_array(np.array(v, np.int64), f"{CROPPED}{n}") for n, v in _NUMBERS]
    constants.append(numpy_helper.from_array(np.array([rates[name]], np.int64), f"{CROPPED}rate"))
    made = [
        helper.make_node("Mul", [crop, f"{CROPPED}rate"], [f"{CROPPED}samples"]),
        helper.make_node("Gather", [f"{CROPPED}samples", f"{CROPPED}first"], [f"{CROPPED}begin"]),
        helper.make_node("Gather", [f"{CROPPED}samples", f"{CROPPED}second"], [f"{CROPPED}end"]),
        helper.make_node("Slice", [name, f"{CROPPED}begin", f"{CROPPED}end", f"{CROPPED}last"], [f"{CROPPED}{name}"]),
    ]
    for node in made:
        node.name = node.output[0]
    nodes = []
    for node in graph.nodes:
        if made and name in node.input:
            nodes += made
            made = []
        node.input[:] = [f"{CROPPED}{name}" if one == name else one for one in node.input]
        nodes.append(node)
    for value in list(model.graph.value_info):  # the lengths that it tells are of before
        model.graph.value_info.remove(value)
    model.graph.input.append(helper.make_tensor_value_info(crop, TensorProto.INT64, [2]))
    _onnx.rewrite(model, nodes, constants)
    return places[name][1]


_NUMBERS = (("first", [0]), ("second", [1]), ("last", [-1]))


def _behind(graph: _onnx.Graph, name: str, rates: dict[str, int], known: dict[str, Layer]) -> tuple[int, float] | None:
    """(frames that the layers behind `name` see on their worse side, their products for a frame); None if one of them
    reads what was there before as well."""
    reach, work = {name: (0.0, 0.0)}, 0.0
    for node in graph.nodes:
        inside = [reach[one] for one in node.input if one in reach]
        if not inside:
            continue
        if any(one in rates and one not in reach for one in node.input):
            return None
        if node.op_type in CONVOLUTIONS and node.output[0] not in known:  # behind a layer that orders time anew
            return None
        left, right = max(r[0] for r in inside), max(r[1] for r in inside)
        if layer := known.get(node.output[0]):
            left, right, work = left + layer.left, right + layer.right, work + layer.work
        reach |= dict.fromkeys(node.output, (left, right))
    if graph.model.graph.output[0].name not in reach:
        return None
    return math.ceil(max(max(r) for r in reach.values())), work
