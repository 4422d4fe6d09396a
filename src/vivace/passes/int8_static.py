"""Static INT8: chosen layers compute in 8-bit integers, with activation ranges measured on real sentences.

Writes the QuantizeLinear/DequantizeLinear ("QDQ") form, which runtimes fuse into integer kernels. Several
applications with different methods may follow one another: what is quantized already stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Array, Stage
from vivace.passes import _calibration, _onnx

SUMMARY = "Computes chosen layers in INT8, with activation ranges calibrated on real sentences"
NEEDS = frozenset({"calibration"})
VERSION = "2"
WEIGHTED = ("Conv", "MatMul", "Gemm")
ELEMENTWISE = ("Add", "LeakyRelu", "Mul", "Sigmoid")
SMALLEST_SCALE = 1e-12
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    include: tuple[str, ...] = option((), "shell-style patterns of node names to quantize; none: all")
    exclude: tuple[str, ...] = option((), "shell-style patterns of node names to leave in float")
    op_types: tuple[str, ...] = option(
        WEIGHTED, "operators to quantize (run layout_conv2d first for ConvTranspose)", (*WEIGHTED, *ELEMENTWISE)
    )
    method: str = option("minmax", "how activation ranges are found", _calibration.METHODS)
    percentile: float = option(99.99, "share of the values that the range must hold, for method percentile")
    activations: str = option("uint8", "type of activations: uint8 on x86, int8 on ARM", ("uint8", "int8"))
    per_channel: bool = option(True, "a weight scale for each output channel instead of one for the tensor")
    reduce_range: bool = option(False, "7-bit weights, for x86 without VNNI, where sums of 8-bit products saturate")

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise UsageError(f"int8_static: percentile is {self.percentile}; it must lie above 50, up to 100")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no layer matches or there are no calibration rows, ModelError for a stage that fails."""

    def edit(stage: Stage, model: Any) -> str | None:
        nodes = targets(model, settings)
        if not nodes:
            return f"stage {stage.name} has no {', '.join(settings.op_types)} with constant float weights that matches"
        quantize(model, nodes, _ranges(stage.name, model, nodes, settings, context), settings)
        return None

    return _onnx.edit_stages(bundle, out, ("int8_static", VERSION), settings, edit)


def _ranges(
    stage: str, model: Any, nodes: list[str], settings: Settings, context: Context
) -> dict[str, tuple[float, float]]:
    """The ranges around the nodes; where results are remembered, of all that could be chosen, so that the next choice
    finds its own."""
    fresh = all(node.op_type != "QuantizeLinear" for node in model.graph.node)
    if context.remember is not None and fresh:
        nodes = targets(model, replace(settings, include=(), exclude=()))
    tensors = to_calibrate(model, nodes)

    def compute() -> dict[str, tuple[float, float]]:
        return _calibration.ranges(
            model,
            tensors,
            context.calibration(stage),
            settings.method,
            settings.percentile,
            context.threads,
            lambda share: context.progress(f"calibrating {stage}", share),
        )

    if context.remember is None:
        return compute()
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    found = context.remember(f"ranges {digest} {settings.method} {settings.percentile} {tensors}", compute)
    return {name: (low, high) for name, (low, high) in found.items()}


def targets(model: Any, settings: Settings) -> list[str]:
    """The names of the nodes that match the settings, can be quantized and are not quantized yet."""
    graph = _onnx.Graph(model)
    floats = _onnx.float_tensors(model)
    return [
        _onnx.node_name(node)
        for node in graph.nodes
        if node.op_type in settings.op_types
        and _onnx.selected(_onnx.node_name(node), settings.include, settings.exclude)
        and (_weighted(graph, node) if node.op_type in WEIGHTED else _elementwise(graph, node, floats))
    ]


def _weighted(graph: _onnx.Graph, node: Any) -> bool:
    weight = graph.weight(node)
    if weight is None or graph.constant(node.input[0]) is not None:
        return False
    if node.op_type == "MatMul" and weight.ndim != 2:  # ONNX Runtime has no integer product with a stack of matrices
        return False
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if len(node.input) > 2 and node.input[2] and (bias is None or bias.ndim != 1):
        return False
    attributes = {a.name: a for a in node.attribute}
    plain = all(a not in attributes or attributes[a].f == 1 for a in ("alpha", "beta"))
    return plain and not (attributes["transA"].i if "transA" in attributes else 0)


def _elementwise(graph: _onnx.Graph, node: Any, floats: frozenset[str]) -> bool:
    if any(t not in floats and graph.constant(t) is None for t in (*node.input, *node.output)):
        return False
    users = graph.consumers.get(node.output[0], [])
    done = len(users) == 1 and users[0].op_type == "QuantizeLinear"
    return not done and any(graph.constant(t) is None for t in node.input)


def to_calibrate(model: Any, names: Sequence[str]) -> list[str]:
    """The tensors around the named nodes whose range is not fixed by quantization yet."""
    graph = _onnx.Graph(model)
    chosen = set(names)
    found: dict[str, None] = {}
    for node in graph.nodes:
        if _onnx.node_name(node) not in chosen:
            continue
        inputs = node.input[:1] if node.op_type in WEIGHTED else node.input
        for tensor in inputs:
            if graph.constant(tensor) is None and _quantized(graph, tensor) is None:
                found[tensor] = None
        if node.op_type not in _FLOAT_OUTPUT:
            found[node.output[0]] = None
    return list(found)


# Matrix products are fused with a float output, so theirs need not lose precision a second time.
_FLOAT_OUTPUT = ("MatMul", "Gemm")


@dataclass(frozen=True)
class _Activation:
    """A quantized tensor: its dequantized name, scale, and whether it is unsigned."""

    name: str
    scale: float
    unsigned: bool


def _quantized(graph: _onnx.Graph, tensor: str) -> _Activation | None:
    """The quantized form that `tensor` has in the graph already: it is one, or one is made from it."""
    source = graph.producer.get(tensor)
    candidates = [source] if source is not None and source.op_type == "DequantizeLinear" else []
    for user in graph.consumers.get(tensor, []):
        if user.op_type == "QuantizeLinear":
            candidates += [n for n in graph.consumers.get(user.output[0], []) if n.op_type == "DequantizeLinear"]
    for node in candidates:
        scale, zero = graph.constant(node.input[1]), graph.constant(node.input[2]) if len(node.input) > 2 else None
        made = graph.producer.get(node.input[0])
        if made is not None and made.op_type == "QuantizeLinear" and scale is not None and scale.size == 1:
            return _Activation(node.output[0], float(scale), zero is None or zero.dtype == np.uint8)
    return None


def quantize(model: Any, names: Sequence[str], ranges: dict[str, tuple[float, float]], settings: Settings) -> None:
    """Puts the named nodes of the model between QuantizeLinear and DequantizeLinear."""
    chosen = set(names)
    writer = _Writer(_onnx.Graph(model), ranges, settings)
    for node in writer.graph.nodes:
        if _onnx.node_name(node) not in chosen:
            writer.nodes.append(node)
        elif node.op_type in WEIGHTED:
            writer.weighted(node)
        else:
            writer.elementwise(node)
    _onnx.rewrite(model, writer.nodes, writer.constants)


@dataclass
class _Writer:
    """Collects the nodes and constants of the quantized graph, in order."""

    graph: _onnx.Graph
    ranges: dict[str, tuple[float, float]]
    settings: Settings
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    done: dict[str, _Activation] = field(default_factory=dict)

    def weighted(self, node: Any) -> None:
        """Conv, Gemm or MatMul: int8 weights, int32 bias of scale (input scale x weight scale)."""
        x = self.activation(node.input[0])
        weight = self.graph.weight(node)
        assert weight is not None
        axis = _output_axis(node) % weight.ndim
        others = tuple(k for k in range(weight.ndim) if k != axis)
        peak = np.abs(weight).max(axis=others) if self.settings.per_channel else np.abs(weight).max().reshape(1)
        largest = 63 if self.settings.reduce_range else 127
        scale = np.maximum(peak.astype(np.float64) / largest, SMALLEST_SCALE)
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if bias is not None:  # a channel of almost no weight must still hold its bias in 32 bits
            floor = np.abs(bias) if self.settings.per_channel else np.abs(bias).max()
            scale = np.maximum(scale, floor / (x.scale * BIAS_LIMIT))
        scale = scale.astype(np.float32)
        name = _onnx.node_name(node)
        along = scale.reshape([-1 if k == axis else 1 for k in range(weight.ndim)]) if len(scale) > 1 else scale
        whole = np.clip(np.round(weight / along), -largest, largest).astype(np.int8)
        # ONNX Runtime has an integer kernel for a matrix product only if its weight's zero point is written, though 0.
        zero = None if node.op_type == "Conv" else np.zeros(scale.shape, np.int8)
        inputs = [x.name, self.stored(f"{name}/weight", whole, scale, axis, zero)]
        if bias is not None:
            step = (np.float32(x.scale) * scale).astype(np.float32)
            whole = np.round(bias / step.astype(np.float64)).astype(np.int32)
            inputs.append(self.stored(f"{name}/bias", whole, np.broadcast_to(step, bias.shape), 0))
        self.put(node, inputs, x.unsigned)

    def elementwise(self, node: Any) -> None:
        """Every input and the output quantized; constants with a scale of their own."""
        inputs = []
        unsigned = self.settings.activations == "uint8"
        for tensor in node.input:
            value = self.graph.constant(tensor)
            if value is None:
                x = self.activation(tensor)
                unsigned = x.unsigned
                inputs.append(x.name)
            else:
                scale, zero = affine(min(float(value.min()), 0.0), max(float(value.max()), 0.0), unsigned)
                limits = np.iinfo(zero.dtype)
                whole = np.clip(np.round(value / scale) + int(zero), limits.min, limits.max).astype(zero.dtype)
                inputs.append(self.stored(f"{_onnx.node_name(node)}/{tensor}", whole, scale, None, zero))
        self.put(node, inputs, unsigned)

    def put(self, node: Any, inputs: list[str], unsigned: bool) -> None:
        """The node itself; unless its product stays in float, its output becomes a quantized one of the same name."""
        import onnx

        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        self.nodes.append(copy)
        if node.op_type in _FLOAT_OUTPUT:
            return
        tensor = node.output[0]
        copy.output[0] = f"{tensor}/float"
        self.pair(copy.output[0], tensor, self.ranges[tensor], unsigned)

    def activation(self, tensor: str) -> _Activation:
        """The quantized form of a tensor, made on first use."""
        if tensor not in self.done:
            found = _quantized(self.graph, tensor)
            unsigned = self.settings.activations == "uint8"
            self.done[tensor] = found or self.pair(tensor, f"{tensor}/dequantized", self.ranges[tensor], unsigned)
        return self.done[tensor]

    def pair(self, source: str, target: str, limits: tuple[float, float], unsigned: bool) -> _Activation:
        from onnx import helper

        scale, zero = affine(*limits, unsigned)
        parameters = [self.constant(f"{target}/scale", scale), self.constant(f"{target}/zero", zero)]
        whole = f"{target}/quantized"
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, *parameters], [whole], name=f"{target}/QuantizeLinear"),
            helper.make_node("DequantizeLinear", [whole, *parameters], [target], name=f"{target}/DequantizeLinear"),
        ]
        self.done[target] = _Activation(target, float(scale), unsigned)
        return self.done[target]

    def stored(self, name: str, whole: Array, scale: Array, axis: int | None, zero: Array | None = None) -> str:
        """A quantized constant and the node that dequantizes it; returns the name of the latter's output. Without
        `zero` the grid is symmetric and no zero point is written: of a weight and its 32-bit bias those are five
        bytes for every channel."""
        from onnx import helper

        if scale.size == 1:
            scale, axis = scale.reshape(()), None
        parts = {"quantized": whole, "scale": scale} | ({} if zero is None else {"zero": zero.reshape(scale.shape)})
        inputs = [self.constant(f"{name}/{k}", value) for k, value in parts.items()]
        options = {} if axis is None else {"axis": axis}
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}/DequantizeLinear", **options)
        )
        return name

    def constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def affine(low: float, high: float, unsigned: bool) -> tuple[Array, Array]:
    """Scale (float32) and zero point (uint8 or int8) of the 8-bit grid over [low, high], which must hold 0:
    zero itself is exact, so that zero padding stays silent (ONNX QuantizeLinear)."""
    first, kind = (0, np.uint8) if unsigned else (-128, np.int8)
    scale = np.float32(max((high - low) / 255, SMALLEST_SCALE))
    zero = round(first - low / float(scale))
    return np.asarray(scale), np.asarray(np.clip(zero, first, first + 255), kind)


def _output_axis(node: Any) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "MatMul":
        return -1
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 1 if node.op_type == "Gemm" and not transposed else 0
