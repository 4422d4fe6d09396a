"""Clean-up: a smaller graph that computes the same numbers and loads faster.

Folds what is constant, also sizes that follow from other sizes, and drops what does nothing. The result is standard
ONNX. Only LayerNormalization (`norms`) rounds differently; everything else gives the same bits.
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
from vivace.passes import _cleanup, _onnx
from vivace.passes._region import alive, reads
from vivace.passes._symbolic import Symbols

SUMMARY = "Exact: folds constants and sizes, drops what does nothing; faster to load and on short text"
NEEDS: frozenset[str] = frozenset()
OBJECTIVE = "size"
VERSION = "1"
MAX_ROUNDS = 20
SMALL = 4096  # bytes of a constant that a clean-up may have made
MAX_GROWTH = 4096  # bytes by which a folded constant may exceed what it is folded from
NORM_OPSET = 17
_ELEMENTS = {7: np.int64, 6: np.int32, 9: np.bool_}


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    norms: bool = option(True, "write layer normalization as one operator (ONNX opset 17), equal up to float rounding")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no stage has anything to clean up, ModelError for a malformed stage."""

    def edit(stage: Stage, model: Any) -> str | None:
        context.progress(f"cleaning up {stage.name}", 0.0)
        return None if clean(model, settings.norms) else f"stage {stage.name} has nothing to clean up"

    return _onnx.edit_stages(bundle, out, ("graph_cleanup", VERSION), settings, edit)


def clean(model: Any, norms: bool = True) -> bool:
    """Changes the ModelProto in place; returns whether it became smaller. Raises ModelError for a malformed graph."""
    before = _weight(model)
    rules = [
        _cleanup.constant_target,
        _cleanup.constant_bounds,
        _cleanup.merged_transpose,
        _cleanup.merged_cast,
        _cleanup.padded_convolution,
        _cleanup.scattered_column,
        *([_cleanup.normalization] if norms else []),
    ]
    fold_constants(model)
    merge_constants(model)
    for _ in range(MAX_ROUNDS):
        if not _round(model, rules):
            break
        merge_constants(model, SMALL)
    if any(node.op_type == "LayerNormalization" for node in model.graph.node):
        for opset in model.opset_import:
            if opset.domain in ("", "ai.onnx"):  # opsets 14 to 17 changed no operator's meaning at inference
                opset.version = max(opset.version, NORM_OPSET)
    made = {name for node in model.graph.node for name in node.output}
    shapes = [value for value in model.graph.value_info if value.name in made]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    return _weight(model) < before


def _weight(model: Any) -> tuple[int, int]:
    return len(model.graph.node), len(model.graph.initializer)


def _protected(model: Any) -> set[str]:
    """Names that must stay: outputs, and what subgraphs read."""
    inner = {name for node in model.graph.node for name in reads(node) - set(node.input)}
    return inner | {output.name for output in model.graph.output}


def _round(model: Any, rules: Sequence[Any]) -> bool:
    """Goes through the graph once; returns whether anything changed."""
    symbols = Symbols(model)
    make = _cleanup.Maker(symbols)
    protected = _protected(model)
    renamed: dict[str, str] = {}
    values: dict[Any, str] = {}
    seen: dict[Any, Any] = {}
    nodes: list[Any] = []
    before = [node.SerializeToString() for node in model.graph.node]
    for node in symbols.graph.nodes:
        for k, name in enumerate(node.input):
            node.input[k] = renamed.get(name, name)
        if not any(name in protected for name in node.output):
            same = _cleanup.same_as(node, symbols) or _known(node, symbols, values, make)
            if same:
                renamed[node.output[0]] = renamed.get(same, same)
                continue
            twin = seen.setdefault(_identity(node), node)
            if twin is not node:
                renamed |= dict(zip(node.output, twin.output, strict=True))
                continue
        made = next((found for rule in rules if (found := rule(node, symbols, make)) is not None), [node])
        nodes.extend(made)
    outputs = {output.name for output in model.graph.output}
    _onnx.rewrite(model, alive(nodes, outputs), make.constants.values())
    return [node.SerializeToString() for node in model.graph.node] != before


def _known(node: Any, symbols: Symbols, values: dict[Any, str], make: _cleanup.Maker) -> str | None:
    """A constant, or an earlier tensor, that holds the same integers as the node's output."""
    name = node.output[0]
    value, kind = symbols.values.get(name), symbols.types.get(name)
    if value is None or kind not in _ELEMENTS or node.op_type == "Constant":
        return None
    key = (kind, value.shape, tuple(value.ravel()))
    if key not in values:
        numbers = [v if isinstance(v, bool) else v.constant for v in value.ravel()]
        if None in numbers:
            values[key] = name
            return None
        values[key] = make.constant(np.array(numbers, _ELEMENTS[kind]).reshape(value.shape))
    return None if values[key] == name else values[key]


def _identity(node: Any) -> Any:
    """Equal for two nodes that give the same outputs."""
    if node.op_type in _cleanup.RANDOM or any(a.HasField("g") for a in node.attribute):
        return id(node)
    given = sorted((a.name, a.SerializeToString()) for a in node.attribute)
    return (node.domain, node.op_type, tuple(node.input), len(node.output), tuple(given))


def fold_constants(model: Any) -> None:
    """Computes, with ONNX Runtime itself, whatever depends on constants alone and does not grow."""
    import onnx
    from onnx import helper, numpy_helper

    known = {v.name: v.type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    graph = _onnx.Graph(model)
    constant = {name: i.ByteSize() for name, i in graph.initializers.items()}
    inputs = {value.name for value in model.graph.input}
    folded, protected = [], _protected(model)
    for node in graph.nodes:
        plain = node.op_type not in _cleanup.RANDOM and not any(a.HasField("g") for a in node.attribute)
        ready = all(name in constant and name not in inputs for name in node.input if name)
        typed = all(name in known for name in node.output)
        if plain and ready and typed and node.op_type not in ("DequantizeLinear", "ConstantOfShape", "Expand", "Cast"):
            folded.append(node)
            constant |= dict.fromkeys(node.output, 0)
    inner = {id(node) for node in folded}
    wanted = [
        name
        for node in folded
        for name in node.output
        if any(id(reader) not in inner for reader in graph.consumers.get(name, ()))
    ]
    if not wanted:
        return
    needed = alive(folded, set(wanted))
    used = {name for node in needed for name in node.input}
    given = [graph.initializers[name] for name in sorted(used & set(graph.initializers))]
    outputs = [helper.make_value_info(name, known[name]) for name in wanted]
    part = helper.make_model(
        helper.make_graph(needed, "constants", [], outputs, given), opset_imports=list(model.opset_import)
    )
    part.ir_version = model.ir_version
    made: dict[str, Array] = dict(zip(wanted, _evaluate(part), strict=True))
    kept = {
        name: value
        for name, value in made.items()
        if name not in protected and value.nbytes <= MAX_GROWTH + sum(i.ByteSize() for i in given)
    }
    nodes = [node for node in graph.nodes if not all(name in kept for name in node.output)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in kept.items()]
    _onnx.rewrite(model, alive(nodes, {output.name for output in model.graph.output}), tensors)


def _evaluate(model: Any) -> list[Array]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    try:
        found: list[Array] = ort.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        ).run(None, {})
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise ModelError(f"a constant part of the graph cannot be computed: {error}") from error
    return found


def merge_constants(model: Any, largest: int | None = None) -> None:
    """Keeps one of each set of equal initializers (of at most `largest` bytes)."""
    from onnx import numpy_helper

    first: dict[Any, str] = {}
    renamed: dict[str, str] = {}
    protected = _protected(model) | {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in protected or (largest is not None and tensor.ByteSize() > largest):
            continue
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        renamed[tensor.name] = first.setdefault(key, tensor.name)
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = renamed.get(name, name)
    _onnx.rewrite(model, list(model.graph.node), [])
