"""What a search may choose for a model, and how a choice is written down as passes.

A stage has a way to run (runtime, precision, layout); its weighted layers form a few parts, each of which may compute
in INT8. Stages that decide how long the speech is stay in their runtime: bf16 would move durations.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.settings import parse
from vivace.core.stage import Stage
from vivace.workflows.recipe import Entry

# Settings of layout_conv2d by name. Runtimes other than ONNX Runtime want plain 2-D convolutions only.
LAYOUTS: dict[str, dict[str, Any]] = {
    "blocked": {},
    "split": {"time_split": 2},
    "2-D": {"blocked": False, "polyphase": False},
}
METHODS: dict[str, dict[str, Any]] = {"minmax": {}, "percentile": {"method": "percentile", "percentile": 99.99}}
NATIVE = "onnxruntime"
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True, order=True)
class Way:
    """How the float layers of one stage run; `layout` is a key of LAYOUTS, or empty for the graph as it is. `there`:
    the stage runs so already."""

    runtime: str
    precision: str
    layout: str = ""
    there: bool = False

    def __str__(self) -> str:
        return " ".join(filter(None, (self.runtime, self.precision, self.layout)))


@dataclass(frozen=True)
class Part:
    """Some neighbouring weighted layers of a stage, by patterns of their names; `share` is theirs of its work."""

    stage: str
    name: str
    patterns: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Choice:
    """A way for each stage, the INT8 method of each part that is not float, and how weights are stored. `padded` names
    the stage that can take padded input: other runtimes than ONNX Runtime compile for every length. `cropped`: it can
    also leave out context, so that its windows may be small."""

    ways: Mapping[str, Way]
    int8: Mapping[Part, str] = field(default_factory=dict)
    storage: str = ""
    padded: str = ""
    cropped: bool = False

    def entries(self, objective: str, before: tuple[Entry, ...] = ()) -> tuple[Entry, ...]:
        """The passes that make it after those `before`, in order: exact rewrites, INT8, storage, padding, place."""
        steps: list[tuple[str, dict[str, Any]]] = []
        plain = tuple(p for part in self.int8 for p in part.patterns)
        for layout, settings in LAYOUTS.items():
            stages = tuple(name for name, way in self.ways.items() if way.layout == layout)
            if stages:
                steps.append(("layout_conv2d", settings | {"stages": stages, "plain": plain}))
        for method, settings in METHODS.items():
            parts = [part for part, chosen in self.int8.items() if chosen == method]
            if parts:
                stages = tuple(dict.fromkeys(part.stage for part in parts))
                include = tuple(p for part in parts for p in part.patterns)
                steps.append(("int8_static", settings | {"stages": stages, "include": include}))
        if self.storage:
            steps.append((self.storage, {}))
        if self.padded and self.ways[self.padded].runtime != NATIVE and not self.ways[self.padded].there:
            steps += [("crop_context", {})] if self.cropped else []
            steps.append(("few_shapes", {}))
        moved = {name: (way.runtime, way.precision) for name, way in self.ways.items() if not way.there}
        for place in dict.fromkeys(moved.values()):
            if place != (NATIVE, "fp32"):
                stages = tuple(name for name, where in moved.items() if where == place)
                steps.append(("place", {"runtime": place[0], "precision": place[1], "stages": stages}))
        return before + tuple(entry(name, settings, objective) for name, settings in steps)

    def words(self) -> str:
        """One line for people."""
        told = [f"{name}: {way}" for name, way in self.ways.items()]
        for method in METHODS:
            parts = [part.name for part, chosen in self.int8.items() if chosen == method]
            told += [f"INT8 ({method}) in {', '.join(parts)}"] if parts else []
        return "; ".join(told + ([self.storage] if self.storage else []))


def entry(name: str, settings: Mapping[str, Any], objective: str) -> Entry:
    module = registry.load("passes", name)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return Entry(name, objective, parse(module.Settings, plain, name))


def ways(stage: Stage, objective: str, *, fixed: bool = False) -> list[Way]:
    """All ways in which a stage can run here, its own first; a `fixed` one keeps its arithmetic.

    For size the result must load in other tools, so that no other runtime comes into question.
    """
    own = Way(stage.runtime, stage.options.get("precision", "fp32"), there=True)
    found = [own]
    if stage.runtime != NATIVE:
        return found
    found += [Way(NATIVE, "fp32", layout) for layout in LAYOUTS if layout != "split" or machine.cores() > 1]
    if objective == "size" or fixed:
        return found
    for runtime in registry.names("runtimes"):
        module = registry.load("runtimes", runtime)
        if runtime != NATIVE and stage.file.rpartition(".")[2] in module.FORMATS:
            found += [Way(runtime, precision, layout) for precision in module.precisions() for layout in ("", "2-D")]
    return found


def parts(bundle: Bundle, stage: Stage, most: int) -> list[Part]:
    """The weighted layers of a stage in at most `most` groups of neighbours, in the order of the graph."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(bundle.file(stage.file))).graph
    weights = {i.name: i for i in graph.initializer if len(i.dims) >= 2}
    rate: dict[str, int] = {}  # how many samples a tensor has for one that enters the stage
    groups: dict[str, tuple[set[str], float]] = {}
    for node in graph.node:
        times = max([rate.get(name, 1) for name in node.input] or [1])
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights:
            strides = [list(a.ints) for a in node.attribute if a.name == "strides"]
            work = times * float(numpy_helper.to_array(weights[node.input[1]]).size)
            if node.op_type == "ConvTranspose" and strides:
                times *= strides[0][-1]
            prefix, pattern = _prefix(node.name or node.output[0])
            patterns, before = groups.get(prefix, (set(), 0.0))
            groups[prefix] = (patterns | {pattern}, before + work)
        rate |= dict.fromkeys(node.output, times)
    return _merged(stage.name, groups, most)


def _prefix(name: str) -> tuple[str, str]:
    """The module that a layer belongs to, by the first two words of its path, and the pattern of all its layers."""
    words = name.strip("/").split("/")
    if len(words) < 3:
        return name, glob.escape(name)
    prefix = "/".join(words[:2])
    return prefix, f"{'/' if name.startswith('/') else ''}{glob.escape(prefix)}/*"


def _merged(stage: str, groups: Mapping[str, tuple[Iterable[str], float]], most: int) -> list[Part]:
    """Neighbours are merged, the two with the least work together first, until there are few enough."""
    total = sum(work for _, work in groups.values()) or 1.0
    found = [([name], tuple(sorted(patterns)), work / total) for name, (patterns, work) in groups.items()]
    while len(found) > max(1, most):
        k = min(range(len(found) - 1), key=lambda k: found[k][2] + found[k + 1][2])
        (a, b, c), (d, e, f) = found[k], found[k + 1]
        found[k : k + 2] = [(a + d, b + e, c + f)]
    return [
        Part(stage, names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", patterns, share)
        for names, patterns, share in found
    ]
