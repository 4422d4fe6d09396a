"""Relative-position attention (Shaw et al. 2018) that computes the few positions of its window instead of all.

The usual export pads the window's embeddings with zeros to all 2T-1 distances, multiplies by them, and shears T x 2T
matrices by padding and reshaping. Nearly all of that is zeros. Here the window's products alone are made, and are added
to the scores, or taken from the weights, where they belong. Equal up to float rounding, and checked on real inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError
from vivace.core.settings import option
from vivace.core.stage import Array, Stage
from vivace.passes import _onnx
from vivace.passes._region import alive
from vivace.passes._symbolic import Symbols

SUMMARY = "Exact: attention with relative positions computes its window only; pays on long text"
NEEDS = frozenset({"calibration"})
VERSION = "2"
OPSET = 16  # the first whose ScatterElements adds
TOLERANCE = 1e-3  # largest difference of any output, as a share of its largest value
ROWS = 6  # calibration texts that the two graphs are compared on
SHEAR = ("Slice", "Reshape", "Pad", "Reshape", "Pad")  # from the sheared matrix back to what was sheared


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no stage has such attention, ModelError if the two graphs do not give the same."""

    def edit(stage: Stage, model: Any) -> str | None:
        context.progress(f"rewriting {stage.name}", 0.0)
        before = model.SerializeToString()
        reason = rewrite(model)
        if reason is None:
            prove(before, model.SerializeToString(), context.calibration(stage.name)[:ROWS])
        return reason and f"stage {stage.name} {reason}"

    return _onnx.edit_stages(bundle, out, ("relative_attention", VERSION), settings, edit)


def rewrite(model: Any) -> str | None:
    """Changes the ModelProto in place; returns None, or why nothing was changed."""
    writer = _Writer(Symbols(model))
    for node in writer.graph.nodes:
        if not (writer.scores(node) or writer.values(node)):
            writer.nodes.append(node)
    if not writer.found:
        return "has no attention with a window of relative positions"
    if next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0) < OPSET:
        return f"has an opset below {OPSET}: run graph_cleanup first"
    outputs = {o.name for o in model.graph.output}
    _onnx.rewrite(model, alive(writer.nodes, outputs), writer.constants)
    return None


def prove(before: bytes, after: bytes, rows: Sequence[Any]) -> None:
    """Runs both graphs on the rows. Raises ModelError if an output differs."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    sessions = [ort.InferenceSession(m, settings, providers=["CPUExecutionProvider"]) for m in (before, after)]
    wanted = [i.name for i in sessions[0].get_inputs()]
    for row in rows:
        old, new = (session.run(None, {name: row[name] for name in wanted}) for session in sessions)
        for a, b in zip(old, new, strict=True):
            if a.shape != b.shape or np.abs(a - b).max(initial=0.0) > TOLERANCE * max(np.abs(a).max(initial=0.0), 1.0):
                raise ModelError("relative_attention: the rewritten stage gives other numbers; it is left as it was")


class _Writer:
    """Collects the nodes of the new graph, in order."""

    def __init__(self, symbols: Symbols) -> None:
        self.graph = symbols.graph
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.found = 0
        self._shapes = symbols.shapes
        self._windows: dict[tuple[Any, int], tuple[str, str]] = {}

    def scores(self, node: Any) -> bool:
        """Add(query x key, sheared(query x window)): the window's products are added where they belong."""
        if node.op_type != "Add":
            return False
        for content, sheared in (tuple(node.input), tuple(node.input)[::-1]):
            product = self._back(sheared, SHEAR)
            if product is None or product.op_type != "MatMul":
                continue
            window = self._window(product.input[1], ("Transpose", "Unsqueeze", "Pad"))
            if window is None:
                continue
            name = _onnx.node_name(node)
            index, mask = self._positions(content, len(window), name)
            key = self._constant(f"{name}/window", window.T[None, None])
            near = self._node("MatMul", [product.input[0], key], f"{name}/near")
            kept = self._node("Mul", [near, mask], f"{name}/kept")
            self._node("ScatterElements", [content, index, kept], node.output[0], axis=3, reduction="add")
            self.found += 1
            return True
        return False

    def values(self, node: Any) -> bool:
        """MatMul(sheared(weights), window): only the weights inside the window are taken."""
        if node.op_type != "MatMul":
            return False
        weights = self._back(node.input[0], SHEAR)
        window = self._window(node.input[1], ("Unsqueeze", "Pad"))
        if weights is None or window is None:
            return False
        name, source = _onnx.node_name(node), weights.output[0]
        index, mask = self._positions(source, len(window), name)
        near = self._node("GatherElements", [source, index], f"{name}/near", axis=3)
        kept = self._node("Mul", [near, mask], f"{name}/kept")
        value = self._constant(f"{name}/window", window[None, None])
        self._node("MatMul", [kept, value], node.output[0])
        self.found += 1
        return True

    def _back(self, tensor: str, kinds: Sequence[str]) -> Any | None:
        """The node before a chain of these kinds that ends in `tensor` and that nothing else reads."""
        node = self.graph.producer.get(tensor)
        for kind in kinds:
            if node is None or node.op_type != kind or len(self.graph.consumers.get(node.output[0], [])) != 1:
                return None
            node = self.graph.producer.get(node.input[0])
        return node

    def _window(self, tensor: str, kinds: Sequence[str]) -> Array | None:
        """The (positions, channels) embedding from which a chain of these kinds makes `tensor`."""
        for kind in kinds:
            node = self.graph.producer.get(tensor)
            if node is None or node.op_type != kind:
                return None
            tensor = node.input[0]
        value = self.graph.constant(tensor)
        odd = value is not None and value.ndim == 3 and value.shape[0] == 1 and value.shape[1] % 2 == 1
        return value[0] if value is not None and odd else None

    def _positions(self, matrix: str, width: int, name: str) -> tuple[str, str]:
        """For a (batch, heads, T, T) matrix: the column of every place in the window of every row, as
        (batch, heads, T, width), kept inside; and 1 where it was inside, else 0, as (T, width). Matrices that are
        proven to have the same shape, those of all layers as a rule, share them."""
        same = self._shapes.get(matrix, matrix)
        if (same, width) in self._windows:
            return self._windows[same, width]
        node, constant = self._node, self._constant
        shape = node("Shape", [matrix], f"{name}/shape")
        length = node("Gather", [shape, constant(f"{name}/axis", np.int64(3))], f"{name}/length", axis=0)
        zero, one = constant(f"{name}/zero", np.int64(0)), constant(f"{name}/one", np.int64(1))
        rows = node("Range", [zero, length, one], f"{name}/rows")
        column = node("Unsqueeze", [rows, constant(f"{name}/last", np.array([1], np.int64))], f"{name}/column")
        offsets = constant(f"{name}/offsets", np.arange(width, dtype=np.int64) - width // 2)
        wanted = node("Add", [column, offsets], f"{name}/wanted")
        most = node("Sub", [length, one], f"{name}/most")
        inside = node("Min", [node("Max", [wanted, zero], f"{name}/low"), most], f"{name}/inside")
        mask = node(
            "Cast",
            [
                node("Equal", [inside, wanted], f"{name}/same"),
            ],
            f"{name}/mask",
            to=1,
        )
        leading = node(
            "Slice",
            [shape, constant(f"{name}/from", np.array([0], np.int64)), constant(f"{name}/to", np.array([3], np.int64))],
            f"{name}/leading",
        )
        whole = node(
            "Concat", [leading, constant(f"{name}/width", np.array([width], np.int64))], f"{name}/whole", axis=0
        )
        index = node("Expand", [inside, whole], f"{name}/index")
        self._windows[same, width] = index, mask
        return index, mask

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name
