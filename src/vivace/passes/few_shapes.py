"""Lets a vocoder take padded windows, so that a runtime that compiles for every length does so for few of them.

A convolution sees zeros beyond the end of its input. Of padding it would see what the layers before made of it; so the
padding is set to zero again before every convolution, by the frame mask, and the numbers of the rest stay the same.
"""

from __future__ import annotations

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
from vivace.passes._frames import CROPPED, before, layers, weight_shape

SUMMARY = "Exact: a vocoder takes padded windows, for runtimes that compile for every length"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"
MASKED = "few_shapes/"  # how the names of what is added begin


@dataclass(frozen=True, order=True)
class Spot:
    """What the mask of a tensor hangs on: samples for a frame, dimensions, whether context was left out before."""

    rate: int
    dims: int
    cropped: bool


@dataclass(frozen=True)
class Settings:
    multiple: int = option(24, "frames: windows are padded to a multiple of it")

    def __post_init__(self) -> None:
        if not 2 <= self.multiple <= 1024:
            raise UsageError(f"few_shapes: multiple is {self.multiple}; it must lie between 2 and 1024")


def accepts(stage: Stage, settings: Settings) -> str | None:  # noqa: ARG001
    if Path(stage.file).suffix != ".onnx":
        return "is no ONNX file"
    return "takes a mask already" if "mask" in stage.inputs else None


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError for a family that does not pad, or a vocoder that cannot be masked."""
    begun = time.perf_counter()
    family = registry.load("families", bundle.family)
    if not hasattr(family, "PADDED"):
        raise UsageError(f"few_shapes: the family {bundle.family} does not pad what its stages get")
    name, signal, mask = family.PADDED
    stage = bundle.stage(name)
    context.progress(f"masking {name}", 0.0)
    model = _onnx.read(bundle.file(stage.file))
    if reason := accepts(stage, settings) or rewrite(model, signal, mask):
        raise UsageError(f"few_shapes would change nothing: stage {name} {reason}")
    spec = TensorSpec("float32", (1, 1, stage.inputs[signal].shape[-1]))
    masked = replace(stage, inputs={**stage.inputs, mask: spec})
    stages = tuple(masked if s.name == name else s for s in bundle.stages)
    step = Step("few_shapes", VERSION, asdict(settings), seconds=time.perf_counter() - begun)
    defaults = {**bundle.defaults, "frame_multiple": settings.multiple}

    def change(folder: Path) -> None:
        _onnx.write(model, folder / stage.file)

    return bundle.derive(out, step, change, stages=stages, defaults=defaults)


def rewrite(model: Any, signal: str, mask: str) -> str | None:
    """Changes the ModelProto in place; returns None, or why nothing was changed.

    `signal` [batch, channels, frames] is the input that is padded; `mask` [1, 1, frames] becomes an input.
    """
    from onnx import TensorProto, helper

    graph = _onnx.Graph(model)
    spots: dict[str, Spot] = {}
    cropped = _cropped(graph)
    try:
        for layer in layers(graph, signal)[1].values():
            name, dims = before(graph, layer.node.input[0]), len(weight_shape(graph, layer.node))
            spots[name] = Spot(layer.rate, dims, name in cropped)
    except ValueError as error:
        return str(error)
    if not spots:
        return "has no convolution"
    crop = graph.producer[f"{CROPPED}samples"].input[0] if cropped else ""
    nodes, constants = _masks(mask, crop, sorted(set(spots.values())))
    done = [_masked(name, spots[name], mask) for name in spots if name == signal]
    renamed = {name: f"{MASKED}{name}" for name in spots}
    for node in graph.nodes:
        node.input[:] = [renamed.get(name, name) if _reads(node) else name for name in node.input]
        done.append(node)
        done += [_masked(name, spots[name], mask) for name in node.output if name in spots]
    model.graph.input.append(helper.make_tensor_value_info(mask, TensorProto.FLOAT, [1, 1, "frames"]))
    _onnx.rewrite(model, [*nodes, *done], constants)
    return None


def _reads(node: Any) -> bool:
    """Whether the node reads masked tensors: activations and convolutions do; sums take what there is."""
    return node.op_type in ("Conv", "ConvTranspose", "LeakyRelu", "QuantizeLinear", "Unsqueeze", "Transpose")


def _cropped(graph: _onnx.Graph) -> set[str]:
    """The tensors behind the place where pass crop_context left out context."""
    found: set[str] = set()
    for node in graph.nodes:
        if (node.op_type == "Slice" and node.name.startswith(CROPPED)) or not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _masked(name: str, spot: Spot, mask: str) -> Any:
    from onnx import helper

    return helper.make_node("Mul", [name, _mask_name(mask, spot)], [f"{MASKED}{name}"], name=f"{MASKED}{name}")


def _mask_name(mask: str, spot: Spot) -> str:
    return f"{MASKED}{mask}.{'cropped.' if spot.cropped else ''}{spot.rate}.{spot.dims}"


def _masks(mask: str, crop: str, wanted: list[Spot]) -> tuple[list[Any], list[Any]]:
    """The mask [1, 1, samples], or [1, 1, 1, samples] for two-dimensional layers, at every rate."""
    from onnx import helper, numpy_helper

    nodes, constants = [], [numpy_helper.from_array(np.array([3], np.int64), f"{MASKED}last")]
    column = f"{MASKED}{mask}.column"
    nodes.append(helper.make_node("Unsqueeze", [mask, f"{MASKED}last"], [column], name=column))
    if crop:
        numbers = {"first": [0], "second": [1], "frames": [2]}
        constants += [numpy_helper.from_array(np.array(v, np.int64), f"{MASKED}{n}") for n, v in numbers.items()]
        begin, end, less = (f"{MASKED}{mask}.{word}" for word in ("begin", "end", "cropped"))
        nodes.append(helper.make_node("Gather", [crop, f"{MASKED}first"], [begin], name=begin))
        nodes.append(helper.make_node("Gather", [crop, f"{MASKED}second"], [end], name=end))
        nodes.append(helper.make_node("Slice", [column, begin, end, f"{MASKED}frames"], [less], name=less))
    for spot in wanted:
        name = _mask_name(mask, spot)
        ones = numpy_helper.from_array(np.ones((1, 1, 1, spot.rate), np.float32), f"{name}.ones")
        shape = numpy_helper.from_array(np.array([1] * (spot.dims - 1) + [-1], np.int64), f"{name}.shape")
        constants += [ones, shape]
        source = f"{MASKED}{mask}.cropped" if spot.cropped else column
        nodes.append(helper.make_node("Mul", [source, ones.name], [f"{name}.wide"], name=f"{name}.wide"))
        nodes.append(helper.make_node("Reshape", [f"{name}.wide", shape.name], [name], name=name))
    return nodes, constants
