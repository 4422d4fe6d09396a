"""What the passes over ONNX files share: reading and writing, choosing nodes, constants, and the precision label."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle, Step
from vivace.core.errors import ModelError, UsageError
from vivace.core.stage import Array, Stage

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
INTEGER_OPS = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLSTM"})
COPY = "layout_keep_blocked"  # how the names of convolutions begin that only copy: nothing to quantize in them
MIN_OPSET = 13  # the first with one quantization scale for each channel


def read(path: Path) -> Any:
    """The ModelProto of a stage file. Raises ModelError if it is no readable ONNX file of a known opset."""
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf, I/O and onnx each raise their own
        raise ModelError(f"{path.name} is no readable ONNX file ({error}); import the model again") from error
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise ModelError(f"{path.name} has ONNX opset {opset}; export the model with opset {MIN_OPSET} or later")
    return model


def write(model: Any, path: Path) -> None:
    """Raises ModelError if the model cannot be written, for instance because it exceeds 2 GB."""
    import onnx

    try:
        onnx.save(model, str(path))
    except Exception as error:
        raise ModelError(f"{path.name} cannot be written: {error}") from error


def node_name(node: Any) -> str:
    """The name that patterns are matched with: the node's own, or its first output's where it has none."""
    return str(node.name or node.output[0])


def selected(name: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Shell-style patterns (`*` crosses slashes), case-sensitive; no `include` means everything."""
    include = tuple(include)
    taken = not include or any(fnmatchcase(name, pattern) for pattern in include)
    return taken and not any(fnmatchcase(name, pattern) for pattern in exclude)


class Graph:
    """An ONNX graph with its constants, producers and consumers at hand. A snapshot: rebuild it after a change."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.initializers = {i.name: i for i in model.graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def constant(self, name: str) -> Array | None:
        """The value of an initializer or of a Constant node; None for anything computed."""
        from onnx import numpy_helper

        if name in self.initializers:
            value: Array = numpy_helper.to_array(self.initializers[name])
            return value
        node = self.producer.get(name)
        if node is None or node.op_type != "Constant":
            return None
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def weight(self, node: Any) -> Array | None:
        """The constant float32 weight (two or more dimensions) of a convolution or matrix product, else None."""
        import numpy as np

        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.name.startswith(COPY):
            return None
        value = self.constant(node.input[1])
        return value if value is not None and value.dtype == np.float32 and value.ndim >= 2 else None


def float_tensors(model: Any) -> frozenset[str]:
    """The names of all tensors that shape inference knows to be float32."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        raise ModelError(f"the stage's graph is malformed: {error}") from error
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return frozenset(v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def rewrite(model: Any, nodes: Iterable[Any], constants: Iterable[Any]) -> None:
    """Replaces the nodes, adds `constants`, and drops every initializer that nothing uses any more."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    used = _used(model.graph)
    initializers = {i.name: i for i in (*model.graph.initializer, *constants) if i.name in used}
    ordered = list(initializers.values())
    del model.graph.initializer[:]
    model.graph.initializer.extend(ordered)


def _used(graph: Any) -> set[str]:
    names = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):  # the body of an If or Loop sees the tensors around it
                names |= _used(attribute.g)
    return names


def precision(model: Any) -> str:
    """A label of how the model computes and, where that differs, how it stores its weights: "fp32", "mixed int8",
    "int8", "fp32, fp16 weights", "fp32, int8 cache", ..."""
    graph = Graph(model)
    integer = floating = 0
    stored = set()
    for node in graph.nodes:
        if node.op_type in INTEGER_OPS:
            integer += 1
        elif node.op_type in WEIGHTED:
            source = graph.producer.get(node.input[1]) if len(node.input) > 1 else None
            activation = graph.producer.get(node.input[0])
            if source is not None and source.op_type == "DequantizeLinear" and activation is not None:
                integer += 1
            elif source is not None and (kind := _storage(graph, source)):
                stored.add(kind)
                floating += 1
            elif graph.constant(node.input[1]) is not None:
                floating += 1
    compute = "fp32" if not integer else "mixed int8" if floating else "int8"
    words = [compute, *([f"{'/'.join(sorted(stored))} weights"] if stored else []), *_kept(model.graph)]
    return ", ".join(words)


def _kept(graph: Any) -> list[str]:
    """Of a step whose cache is narrower than its sums: what it takes as X and gives as "new." + X."""
    from onnx import TensorProto

    words = {TensorProto.FLOAT16: "fp16 cache", TensorProto.INT8: "int8 cache"}
    given = {output.name for output in graph.output}
    kinds = {i.type.tensor_type.elem_type for i in graph.input if f"new.{i.name}" in given}
    return sorted(words[kind] for kind in kinds & set(words))


def _storage(graph: Graph, node: Any) -> str:
    """How a weight that `node` computes is stored: a Cast of fp16, or a Cast of int8 times a scale."""
    from onnx import TensorProto

    if node.op_type == "Mul":
        node = graph.producer.get(node.input[0])
    if node is None or node.op_type != "Cast" or node.input[0] not in graph.initializers:
        return ""
    return {TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8"}.get(graph.initializers[node.input[0]].data_type, "")


def unfit(stage: Stage, stages: tuple[str, ...]) -> str | None:
    """Why a pass over ONNX files that was asked to work on `stages` (none: all) leaves this stage alone, or None."""
    if stages and stage.name not in stages:
        return f"stage {stage.name} is not among those asked for ({', '.join(stages)})"
    if Path(stage.file).suffix != ".onnx":
        return f"stage {stage.name} is no ONNX file ({stage.file})"
    return None


Edit = Callable[[Stage, Any], str | None]


def edit_stages(bundle: Bundle, out: Path, owner: tuple[str, str], settings: Any, edit: Edit) -> Bundle:
    """Writes the child in which `edit(stage, model)` has changed the ModelProto of each asked-for stage in place.

    `edit` returns None, or the reason why it changed nothing. `owner` is the pass's name and version; `settings`
    has a field `stages`. Raises UsageError if a stage is unknown or nothing at all was changed.
    """
    start = time.perf_counter()
    known = [stage.name for stage in bundle.stages]
    unknown = [name for name in settings.stages if name not in known]
    if unknown:
        raise UsageError(f"{owner[0]}: the model has no stage {unknown[0]!r}; it has {', '.join(known)}")
    models: dict[str, Any] = {}
    stages = list(bundle.stages)
    reasons = []
    for index, stage in enumerate(bundle.stages):
        reason = unfit(stage, settings.stages)
        if reason is None:
            model = read(bundle.file(stage.file))
            reason = edit(stage, model)
            if reason is None:
                models[stage.file] = model
                stages[index] = replace(stage, precision=precision(model))
        if reason is not None and (not settings.stages or stage.name in settings.stages):
            reasons.append(reason)
    if not models:
        raise UsageError(f"{owner[0]} would change nothing: {'; '.join(dict.fromkeys(reasons))}")

    def change(folder: Path) -> None:
        for file, model in models.items():
            write(model, folder / file)

    step = Step(owner[0], owner[1], asdict(settings), seconds=round(time.perf_counter() - start, 3))
    return bundle.derive(out, step, change, stages=tuple(stages))
