"""Short names: a smaller file of the same graph. For small models, whose names outweigh what can be saved in weights.

Nodes lose their names, tensors between them get short ones, and what the format implies is left out: documentation,
shapes that follow, attributes at their defaults, unused operator sets. Comes last: patterns of names find nothing then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from string import ascii_letters
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _onnx

SUMMARY = "Exact: short names and nothing that the format implies, for small models; run it last"
NEEDS: frozenset[str] = frozenset()
OBJECTIVE = "size"
VERSION = "1"


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError if no stage becomes smaller."""

    def edit(stage: Stage, model: Any) -> str | None:
        context.progress(f"shortening names of {stage.name}", 0.0)
        before = model.ByteSize()
        shorten(model)
        return None if model.ByteSize() < before else f"stage {stage.name} has no longer names than it needs"

    return _onnx.edit_stages(bundle, out, ("short_names", VERSION), settings, edit)


def shorten(model: Any) -> None:
    """Changes the ModelProto in place. Inputs and outputs keep their names, and so does what a subgraph (of an If or a
    Loop) names."""
    graph = model.graph
    nodes = list(graph.node)
    keep = {value.name for value in (*graph.input, *graph.output)}
    for node in nodes:
        for attribute in node.attribute:
            keep |= _named(attribute.g) | {name for inner in attribute.graphs for name in _named(inner)}
    short, renamed = _short(keep), {"": ""}

    def shortened(name: str) -> str:
        if name not in renamed:
            renamed[name] = name if name in keep else next(short)
        return renamed[name]

    for node in nodes:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        if not node.name.startswith(_onnx.COPY):
            node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [shortened(name) for name in names]
        _drop_defaults(node, model)
    for tensor in graph.initializer:
        tensor.name = shortened(tensor.name)
        tensor.ClearField("doc_string")
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for part in (graph, *graph.input, *graph.output, model):
        part.ClearField("doc_string")
    used = {_domain(node.domain) for node in nodes} | {_domain(f.domain) for f in model.functions} | {""}
    if all(not attribute.HasField("g") for node in nodes for attribute in node.attribute):
        opsets = [opset for opset in model.opset_import if _domain(opset.domain) in used]
        del model.opset_import[:]
        model.opset_import.extend(opsets)


def _short(keep: set[str]) -> Iterator[str]:
    """a, b, ... Z, aa, ab, ...: none of those that are taken."""
    for length in count(1):
        for letters in product(ascii_letters, repeat=length):
            name = "".join(letters)
            if name not in keep:
                yield name


def _named(graph: Any) -> set[str]:
    """Every name in a subgraph, at any depth."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        found |= {*node.input, *node.output}
        for attribute in node.attribute:
            found |= _named(attribute.g) | {name for inner in attribute.graphs for name in _named(inner)}
    return found


def _drop_defaults(node: Any, model: Any) -> None:
    """Attributes whose value the operator has anyway."""
    import onnx

    version = next(o.version for o in model.opset_import if _domain(o.domain) == "")
    if _domain(node.domain):
        return
    known = onnx.defs.get_schema(node.op_type, version, "").attributes
    kept = []
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        default = known[attribute.name].default_value if attribute.name in known else None
        if default is None or default.name != attribute.name or default != attribute:
            kept.append(attribute)
    del node.attribute[:]
    node.attribute.extend(kept)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
