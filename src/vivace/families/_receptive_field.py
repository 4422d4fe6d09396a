"""How far a convolutional stage sees, from its layers: what lies further away changes nothing.

So a stage may work on windows of a long signal, each with that much context, and lose nothing (Araujo, Norris, Sim:
"Computing Receptive Fields of Convolutional Neural Networks", Distill 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vivace.core.errors import ModelError
from vivace.families._vits_graph import LATENT, Graph

POINTWISE = frozenset(
    ["Abs", "Add", "Cast", "Clip", "Cos", "Div", "Elu", "Exp", "Identity", "LeakyRelu", "Log", "Mul", "Neg", "Pow"]
    + ["Relu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze"]
)
CHANNELWISE = ("Concat", "Slice", "Split")  # pointwise in time if they work along the channels
ON_SHAPES = ("Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze")
CHANNELS = (1, -2)  # the axis of [batch, channels, time]


def receptive_field(model: Any, sources: Sequence[str] = (LATENT,)) -> tuple[int, int]:
    """(frames of context that one output sample needs on its worse side, samples for each frame) of a stage.

    `sources` are the inputs that run in time, [batch, channels, frames]. Follows every path from them to the first
    output, adding each layer's reach at that layer's rate. Raises ModelError if the layers on the way are not plain
    convolutions, channel-wise and element-wise operations.
    """
    graph = Graph(model)
    stage = model.graph.name or "stage"
    reach = dict.fromkeys(sources, (0.0, 0.0, 1))  # left, right (frames), samples for a frame
    shapes: set[str] = set()  # tensors that hold the lengths of signals
    for node in graph.nodes:
        known = [reach[t] for t in node.input if t in reach]
        if not known:
            if not shapes.isdisjoint(node.input) and node.op_type != "ConstantOfShape":  # which is a constant in time
                _check(node.op_type in ON_SHAPES, stage, f"it computes with lengths ({node.op_type})")
                shapes.update(node.output)
        elif node.op_type == "Shape":
            shapes.update(node.output)
        else:
            rate = known[0][2]
            _check(all(k[2] == rate for k in known), stage, f"it adds signals of different rates at {node.name}")
            worst = (max(k[0] for k in known), max(k[1] for k in known), rate)
            reach.update(dict.fromkeys(node.output, _behind(graph, node, stage, worst)))
    output = graph.model.graph.output[0].name
    _check(output in reach, stage, f"its output does not depend on {' or '.join(sources)}")
    left, right, rate = reach[output]
    return math.ceil(max(left, right)), rate


def _behind(graph: Graph, node: Any, stage: str, before: tuple[float, float, int]) -> tuple[float, float, int]:
    """What is seen of the sources behind a node, from what was seen before it."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return _convolution(graph, node, stage, *before)
    if node.op_type in CHANNELWISE:
        axes = _axes(graph, node)
        _check(axes is not None and set(axes) <= set(CHANNELS), stage, f"{node.name} ({node.op_type}) works along time")
    else:
        _check(node.op_type in POINTWISE, stage, f"it has a {node.op_type} layer")
    return before


def _convolution(graph: Graph, node: Any, stage: str, left: float, right: float, rate: int) -> tuple[float, float, int]:
    attributes = {a.name: list(a.ints) for a in node.attribute if a.ints}
    weight = graph.constant(node.input[1])
    _check(weight is not None, stage, f"the weight of {node.name} is computed")
    automatic = any(a.name == "auto_pad" and a.s != b"NOTSET" for a in node.attribute)
    _check(not automatic, stage, f"{node.name} has auto_pad")
    pads = attributes.get("pads", [0, 0])
    pad = pads[len(pads) // 2 - 1]  # in time, which is the last axis, at its beginning
    stride, dilation = (attributes.get(name, [1])[-1] for name in ("strides", "dilations"))
    span = (weight.dims[-1] - 1) * dilation
    if node.op_type == "Conv":
        _check(stride == 1, stage, f"{node.name} has a stride")
        return left + pad / rate, right + (span - pad) / rate, rate
    return left + (span - pad) / stride / rate, right + pad / stride / rate, rate * stride


def _axes(graph: Graph, node: Any) -> list[int] | None:
    """The axes along which a Concat, Split or Slice works; None if they are not constant."""
    from onnx import numpy_helper

    attributes = {a.name: a for a in node.attribute}
    if node.op_type != "Slice":
        return [attributes["axis"].i if "axis" in attributes else 0]
    if "axes" in attributes:
        return list(attributes["axes"].ints)
    axes = graph.constant(node.input[3]) if len(node.input) > 3 else None
    return None if axes is None else [int(axis) for axis in numpy_helper.to_array(axes).reshape(-1)]


def _check(holds: bool, stage: str, why: str) -> None:
    if not holds:
        raise ModelError(f"the receptive field of the {stage} is unknown: {why}; this voice cannot be imported")
