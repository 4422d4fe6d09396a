"""Layout: 1-D convolutions become 2-D ones, upsampling becomes ordinary convolution, time is split over threads.

Exact up to float rounding, and standard ONNX. It pays in ONNX Runtime on x86, whose fast blocked kernels exist only
for two-dimensional convolutions. Works by structure: what cannot be proven safe stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import option
from vivace.core.stage import Stage
from vivace.passes import _onnx
from vivace.passes._layout import BLOCK, Plan, Writer
from vivace.passes._region import BINARY, CONVOLUTIONS, Cut, Finder, alive, consumers_until, geometry

SUMMARY = "Exact: convolutions in two-dimensional layout, polyphase upsampling, time split over threads"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"
UNIT = 4 * BLOCK  # output channels that one thread of a blocked convolution works on
MAX_ROWS = 64
WORTH = 0.95  # a split that leaves more of the work than this is not worth its copies
SHORT = 100  # frames of a short sentence, for which the place of the time split is chosen


@dataclass(frozen=True)
class Settings:
    stages: tuple[str, ...] = option((), "stages to work on; none: all")
    conv2d: bool = option(True, "write 1-D convolutions as 2-D ones of height 1")
    polyphase: bool = option(True, "write upsampling as an ordinary convolution whose phases are interleaved")
    blocked: bool = option(True, "keep activations between convolutions in the runtime's blocked layout")
    plain: tuple[str, ...] = option((), "patterns of convolutions that a later pass quantizes: not blocked around them")
    time_split: int = option(1, "pieces of time computed side by side, one for each thread; 1: none")

    def __post_init__(self) -> None:
        if not 1 <= self.time_split <= MAX_ROWS:
            raise UsageError(f"layout_conv2d: time_split is {self.time_split}; it must lie between 1 and {MAX_ROWS}")
        if not (self.conv2d or self.polyphase):
            raise UsageError("layout_conv2d: conv2d and polyphase are both off, so nothing would change; turn one on")
        if self.time_split > 1 and not self.conv2d:
            raise UsageError("layout_conv2d: time_split needs conv2d; turn conv2d on, or set time_split to 1")


def accepts(stage: Stage, settings: Settings) -> str | None:
    return _onnx.unfit(stage, settings.stages)


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError, with the reasons, if no convolution of any stage can be rewritten."""

    def edit(stage: Stage, model: Any) -> str | None:
        context.progress(f"rewriting {stage.name}", 0.0)
        reason = rewrite(model, settings)
        return None if reason is None else f"stage {stage.name} {reason}"

    return _onnx.edit_stages(bundle, out, ("layout_conv2d", VERSION), settings, edit)


def rewrite(model: Any, settings: Settings) -> str | None:
    """Changes the ModelProto in place; returns None, or why nothing was changed."""
    from onnx import TensorProto, helper

    finder = Finder(model)
    plan = make_plan(finder, settings)
    if not plan.regions:
        return _why_not(finder, settings)
    writer = Writer(finder, plan)
    writer.run()
    _onnx.rewrite(model, alive(writer.nodes, finder.outputs), writer.constants.values())
    made = {name for node in model.graph.node for name in node.output}
    shapes = [v for v in model.graph.value_info if v.name in made]
    shapes += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in writer.shapes.items()
        if name in made and name not in {v.name for v in shapes}
    ]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    return None


def make_plan(finder: Finder, settings: Settings) -> Plan:
    regions = finder.regions()
    if not settings.conv2d:
        regions = [region for region in regions if any(node.op_type == "ConvTranspose" for node in region)]
    blocked = frozenset[int]()
    if settings.conv2d and settings.blocked:
        blocked = frozenset(id(node) for region in regions for node in region if _keep_blocked(finder, node, settings))
    cuts = [_best_cut(finder, region, settings) for region in regions] if settings.time_split > 1 else []
    found = tuple(cut for cut in cuts if cut is not None)
    return Plan(regions, settings.conv2d, settings.polyphase, blocked, found, settings.time_split)


def _keep_blocked(finder: Finder, node: Any, settings: Settings) -> bool:
    """Whether the output would leave the blocked layout, though blocked convolutions go on working on it."""
    tensor = node.output[0]
    channels = finder.shapes.dim(tensor, 1)
    if channels is None or channels % BLOCK:
        return False
    if node.op_type == "LeakyRelu":
        source = finder.graph.producer.get(node.input[0])
        fused = source is not None and source.op_type == "Conv" and len(finder.readers[node.input[0]]) == 1
        if fused or source is None:
            return False
    elif node.op_type == "ConvTranspose":
        if not settings.polyphase or not any(n.op_type in BINARY for n in finder.readers.get(tensor, ())):
            return False
    else:
        return False
    users = consumers_until(finder, tensor, CONVOLUTIONS)
    later = [n for n in users if settings.plain and _onnx.selected(_onnx.node_name(n), settings.plain, ())]
    return bool(users) and not later


def _best_cut(finder: Finder, region: Sequence[Any], settings: Settings) -> Cut | None:
    """The place to split time that leaves the busiest thread the least work on a short sentence, if any helps."""
    rows = settings.time_split
    rates: dict[str, int] = {}
    work: dict[int, int] = {}  # multiplications for each sample that enters the region
    alone = 0.0  # ... of the busiest thread
    for node in region:
        rate = max(rates.get(name, 1) for name in finder.signals(node))
        weight = finder.graph.weight(node)
        if weight is not None:
            work[id(node)] = weight.size * rate
            rate *= geometry(node, weight).stride if node.op_type == "ConvTranspose" else 1
            alone += work[id(node)] / min(rows, _units(finder, node, settings))
        rates |= dict.fromkeys(node.output, rate)
    best, least = None, alone * WORTH
    for cut in finder.cuts(region):
        overlap = cut.reach * (1 if rows == 2 else 2) / rates.get(cut.tensor, 1) / SHORT
        cost = alone
        for node in cut.after:
            if id(node) in work:
                cost += work[id(node)] * (1 / rows + overlap - 1 / min(rows, _units(finder, node, settings)))
        if cost < least:
            best, least = cut, cost
    return best


def _units(finder: Finder, node: Any, settings: Settings) -> int:
    weight = finder.graph.weight(node)
    assert weight is not None
    g = geometry(node, weight)
    outputs = int(weight.shape[0])
    if node.op_type == "ConvTranspose":
        outputs = int(weight.shape[1]) * g.groups * (g.stride if settings.polyphase else 1)
    return -(-outputs // UNIT)


def _why_not(finder: Finder, settings: Settings) -> str:
    kinds = CONVOLUTIONS if settings.conv2d else ("ConvTranspose",)
    nodes = [node for node in finder.graph.nodes if node.op_type in kinds]
    if not nodes:
        return f"has no {' or '.join(kinds)}"
    return f"has no {' or '.join(kinds)} that is proven safe to rewrite ({finder.refusal(nodes[0])})"
