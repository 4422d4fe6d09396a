"""A vocoder's graph in time: how many samples its tensors have for a frame, and how far its layers see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vivace.passes import _onnx

CONVOLUTIONS = ("Conv", "ConvTranspose")
CROPPED = "crop_context/"  # how the names of what pass crop_context adds begin
PASSED = ("DequantizeLinear", "QuantizeLinear")  # between a convolution and the activation before it


@dataclass(frozen=True)
class Layer:
    """A convolution in time: samples for a frame of what it reads and of what it makes, reach in frames on both sides,
    and products for a frame."""

    node: Any
    rate: int
    made: int
    left: float
    right: float
    work: float


def layers(graph: _onnx.Graph, signal: str) -> tuple[dict[str, int], dict[str, Layer]]:
    """Samples for a frame of every tensor that comes of `signal` [batch, channels, frames], and the convolutions by
    the name of their output. Raises ValueError if a convolution's weight is computed."""
    rates, found = {signal: 1}, {}
    for node in graph.nodes:
        known = [rates[name] for name in node.input if name in rates]
        if not known or node.op_type == "Reshape":
            continue
        rate = max(known)
        if node.op_type in CONVOLUTIONS:
            layer = found[node.output[0]] = _layer(graph, node, rate)
            rate = layer.made
        rates |= dict.fromkeys(node.output, rate)
    return rates, found


def _layer(graph: _onnx.Graph, node: Any, rate: int) -> Layer:
    shape = weight_shape(graph, node)
    given = {a.name: list(a.ints)[-1] for a in node.attribute if a.name in ("strides", "dilations")}
    pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [0, 0])
    pad, stride = pads[len(pads) // 2 - 1], given.get("strides", 1)
    span, size = (shape[-1] - 1) * given.get("dilations", 1), math.prod(shape)
    if node.op_type == "Conv":
        return Layer(node, rate, rate, pad / rate, (span - pad) / rate, rate * size)
    return Layer(node, rate, rate * stride, (span - pad) / stride / rate, pad / stride / rate, rate * size)


def weight_shape(graph: _onnx.Graph, node: Any) -> tuple[int, ...]:
    """Also of a weight that is stored narrow: DequantizeLinear, Cast or Mul of a constant."""
    name = node.input[1]
    while (value := graph.constant(name)) is None:
        source = graph.producer.get(name)
        if source is None:
            raise ValueError(f"has a convolution whose weight is computed ({_onnx.node_name(node)})")
        name = source.input[0]
    return tuple(int(size) for size in value.shape)


def before(graph: _onnx.Graph, name: str) -> str:
    """What a convolution's input was before its activation, which leaves zeros alone."""
    node = graph.producer.get(name)
    while node is not None and node.op_type in PASSED:
        name = node.input[0]
        node = graph.producer.get(name)
    return str(node.input[0]) if node is not None and node.op_type == "LeakyRelu" else name
