"""What the storage passes share: weights that lie in the file in a narrow type and are widened to float32 on loading.

They are widened by Cast (and Mul) rather than DequantizeLinear: a runtime folds those into constants when it loads
the file, and cannot take them for an order to compute in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vivace.core.stage import Array
from vivace.passes import _onnx

READERS = (*_onnx.WEIGHTED, "Gather")
Narrow = Callable[[str, Array, int], tuple[list[Any], list[Any]]]


def narrow(model: Any, include: tuple[str, ...], exclude: tuple[str, ...], smallest: int, store: Narrow) -> str | None:
    """Replaces each float32 weight matrix by what `store(name, weight, axis)` returns: nodes that make a tensor of
    that name, and their constants. Returns None, or why there is nothing to replace.

    A weight is a constant that some layer reads as its weight or a Gather as its table, of at least `smallest`
    elements and two dimensions; it is chosen if all its readers' names are.
    """
    graph = _onnx.Graph(model)
    made: list[Any] = []
    constants: list[Any] = []
    for name, value in _weights(graph, smallest):
        readers = graph.consumers[name]
        if all(_onnx.selected(_onnx.node_name(n), include, exclude) for n in readers):
            nodes, parts = store(name, value, _axis(readers[0]))
            made += nodes
            constants += parts
    if not made:
        return "has no float32 weights that match"
    replaced = {name for node in made for name in node.output}
    kept = [i for i in model.graph.initializer if i.name not in replaced]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    rest = [n for n in graph.nodes if not (n.op_type == "Constant" and n.output[0] in replaced)]
    _onnx.rewrite(model, [*made, *rest], constants)
    return None


def _weights(graph: _onnx.Graph, smallest: int) -> list[tuple[str, Array]]:
    found: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op_type not in READERS:
            continue
        name = node.input[0 if node.op_type == "Gather" else 1]
        value = graph.constant(name)
        if value is not None and value.dtype == np.float32 and value.ndim >= 2 and value.size >= smallest:
            found[name] = value
    return list(found.items())


def _axis(reader: Any) -> int:
    """The axis along which rows differ in size: output channels (of a Gather's table, its rows)."""
    if reader.op_type == "MatMul":
        return -1
    if reader.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in reader.attribute) else 1
    grouped = any(a.name == "group" and a.i > 1 for a in reader.attribute)
    return 1 if reader.op_type == "ConvTranspose" and not grouped else 0
