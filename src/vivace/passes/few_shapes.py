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

SUMMARY = "Exact: a vocoder takes padded windows, for runtimes that compile for every length"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"
MASKED = "few_shapes/"  # how the names of what is added begin
PASSED = ("DequantizeLinear", "QuantizeLinear")  # between a convolution and the activation before it


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
    rates = {signal: 1}
    spots: dict[str, tuple[int, int]] = {}  # tensors to mask: samples for a frame, dimensions
    for node in graph.nodes:
        known = [rates[name] for name in node.input if name in rates]
        if not known:
            continue
        rate = max(known)
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = graph.constant(node.input[1])
            source = graph.producer.get(node.input[1])
            dims = weight.ndim if weight is not None else _dims(graph, source)
            if not dims:
                return f"has a convolution whose weight is computed ({_onnx.node_name(node)})"
            spots[_before(graph, node.input[0])] = (rate, dims)
            stride = next((list(a.ints)[-1] for a in node.attribute if a.name == "strides"), 1)
            rate *= stride if node.op_type == "ConvTranspose" else 1
        elif node.op_type == "Reshape":
            continue
        rates |= dict.fromkeys(node.output, rate)
    if not spots:
        return "has no convolution"
    nodes, constants = _masks(mask, sorted(set(spots.values())))
    done = [_masked(name, *spots[name], mask) for name in spots if name == signal]
    renamed = {name: f"{MASKED}{name}" for name in spots}
    for node in graph.nodes:
        node.input[:] = [renamed.get(name, name) if _reads(node) else name for name in node.input]
        done.append(node)
        done += [_masked(name, *spots[name], mask) for name in node.output if name in spots]
    model.graph.input.append(helper.make_tensor_value_info(mask, TensorProto.FLOAT, [1, 1, "frames"]))
    _onnx.rewrite(model, [*nodes, *done], constants)
    return None


def _dims(graph: _onnx.Graph, source: Any) -> int:
    """Dimensions of a weight that is stored narrow: DequantizeLinear, Cast or Mul of a constant."""
    while source is not None:
        value = graph.constant(source.input[0])
        if value is not None:
            return int(value.ndim)
        source = graph.producer.get(source.input[0])
    return 0


def _before(graph: _onnx.Graph, name: str) -> str:
    """What to mask so that the convolution's input is masked: the input of its activation, which leaves zeros alone."""
    node = graph.producer.get(name)
    while node is not None and node.op_type in PASSED:
        name = node.input[0]
        node = graph.producer.get(name)
    return str(node.input[0]) if node is not None and node.op_type == "LeakyRelu" else name


def _reads(node: Any) -> bool:
    """Whether the node reads masked tensors: activations and convolutions do; sums take what there is."""
    return node.op_type in ("Conv", "ConvTranspose", "LeakyRelu", "QuantizeLinear", "Unsqueeze", "Transpose")


def _masked(name: str, rate: int, dims: int, mask: str) -> Any:
    from onnx import helper

    return helper.make_node("Mul", [name, _mask_name(mask, rate, dims)], [f"{MASKED}{name}"], name=f"{MASKED}{name}")


def _mask_name(mask: str, rate: int, dims: int) -> str:
    return f"{MASKED}{mask}.{rate}.{dims}"


def _masks(mask: str, wanted: list[tuple[int, int]]) -> tuple[list[Any], list[Any]]:
    """The mask [1, 1, samples], or [1, 1, 1, samples] for two-dimensional layers, at every rate."""
    from onnx import helper, numpy_helper

    nodes, constants = [], [numpy_helper.from_array(np.array([3], np.int64), f"{MASKED}last")]
    column = f"{MASKED}{mask}.column"
    nodes.append(helper.make_node("Unsqueeze", [mask, f"{MASKED}last"], [column], name=column))
    for rate, dims in wanted:
        name = _mask_name(mask, rate, dims)
        ones = numpy_helper.from_array(np.ones((1, 1, 1, rate), np.float32), f"{name}.ones")
        shape = numpy_helper.from_array(np.array([1] * (dims - 1) + [-1], np.int64), f"{name}.shape")
        constants += [ones, shape]
        nodes.append(helper.make_node("Mul", [column, ones.name], [f"{name}.wide"], name=f"{name}.wide"))
        nodes.append(helper.make_node("Reshape", [f"{name}.wide", shape.name], [name], name=name))
    return nodes, constants
