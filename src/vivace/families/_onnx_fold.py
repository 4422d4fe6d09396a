"""Folds what scales and shifts the channels after a convolution (a batch norm, a bias) into its weights and bias."""

from __future__ import annotations

from typing import Any

import numpy as np

from vivace.core.stage import Array

AFTER = ("Add", "Sub", "Mul", "Div")


def fold(model: Any) -> Any:
    """The model, changed in place: equal but for rounding. Only constants of one value for each channel are folded,
    and only into a convolution whose output nothing else reads."""
    while _once(model):
        pass
    return model


def _once(model: Any) -> bool:
    from onnx import numpy_helper

    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    shown = {value.name for value in graph.output}
    for conv in graph.node:
        last = conv  # the convolution, or the transpose behind it that puts its channels last
        users = readers.get(conv.output[0], []) if conv.op_type == "Conv" else []
        turned = len(users) == 1 and conv.output[0] not in shown and _puts_channels_last(users[0])
        if turned:
            last = users[0]
            users = readers.get(last.output[0], [])
        if len(users) != 1 or last.output[0] in shown or users[0].op_type not in AFTER:
            continue
        node = users[0]
        place = list(node.input).index(last.output[0])
        other = node.input[1 - place]
        has_bias = len(conv.input) > 2 and bool(conv.input[2])
        if conv.input[1] not in constants or other not in constants or (has_bias and conv.input[2] not in constants):
            continue
        if place == 1 and node.op_type == "Div":
            continue
        weight = numpy_helper.to_array(constants[conv.input[1]])
        value = _by_channel(numpy_helper.to_array(constants[other]), weight, -1 if turned else 1)
        if value is None:
            continue
        bias = numpy_helper.to_array(constants[conv.input[2]]) if has_bias else np.zeros(len(weight), np.float32)
        weight, bias = _folded(node.op_type, place, weight, bias, value)
        names = (f"{conv.output[0]}/{node.output[0]}/weight", f"{conv.output[0]}/{node.output[0]}/bias")
        for name, array in zip(names, (weight, bias), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        del conv.input[1:]
        conv.input.extend(names)
        last.output[0] = node.output[0]
        graph.node.remove(node)
        _drop_unused(graph)
        return True
    return False


def _puts_channels_last(node: Any) -> bool:
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    return node.op_type == "Transpose" and order == [0, *range(2, len(order)), 1]


def _by_channel(value: Array, weight: Array, axis: int) -> Array | None:
    """float64[channels] if the constant has one value for each channel, which are on `axis` (or one in all)."""
    rank, channels = weight.ndim, len(weight)
    if value.size == 1:
        return np.full(channels, float(value.reshape(())), np.float64)
    shape = (1,) * (rank - value.ndim) + value.shape
    if value.ndim > rank or shape[axis] != channels or value.size != channels:
        return None
    return value.reshape(-1).astype(np.float64)


def _folded(kind: str, place: int, weight: Array, bias: Array, value: Array) -> tuple[Array, Array]:
    scale, shift = np.ones(len(value)), np.zeros(len(value))
    if kind in ("Mul", "Div"):
        scale = value if kind == "Mul" else 1 / value
    elif kind == "Add":
        shift = value
    elif place == 0:
        shift = -value
    else:  # constant - output
        scale, shift = -scale, value
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + shift


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
