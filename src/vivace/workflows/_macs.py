"""What a graph computes and moves at its real input sizes: multiply-accumulates (MACs) and bytes, node by node.

Counted on ONNX Runtime's own trace, after its fusions: what is counted is what runs (a QDQ-wrapped convolution that
was not fused is a float one), with the sizes that the data really had, in branches and loops too.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelError
from vivace.core.stage import Array, Session, Tensors

Event = Mapping[str, Any]
Shape = list[int]

KERNEL = "_kernel_time"
CONV = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}  # operator -> index of its weights
MATMUL = (
    "DynamicQuantizeMatMul",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearMatMul",
)
RECURRENT = ("LSTM", "GRU", "RNN")
# What OpenVINO calls them in its trace.
OPENVINO = (
    "Convolution",
    "ConvolutionBackpropData",
    "FullyConnected",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
    *(f"{op}{kind}" for op in RECURRENT for kind in ("Cell", "Seq", "Sequence")),
)
# Multiply too, but the trace alone does not tell how much: named in the report instead of counted as nothing.
UNCOUNTED = ("Attention", "DynamicQuantizeLSTM", "Einsum", "GroupQueryAttention", "MultiHeadAttention", "QAttention")
MULTIPLYING = frozenset((*CONV, "ConvTranspose", *MATMUL, *RECURRENT, *OPENVINO, *UNCOUNTED))
VIEWS = ("Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze")  # no byte of their data is moved
PRECISIONS = {"float": "fp32", "double": "fp64", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}


@dataclass(frozen=True)
class Work:
    """What was done. `macs` by the precision they were done in; bytes read and written, weights apart.

    Bytes are an upper bound for the memory: every operand counts as if no cache held it.
    `uncounted` are operators that multiply in a way that the trace does not tell.
    """

    macs: Mapping[str, int] = field(default_factory=dict)
    weight_bytes: int = 0
    activation_bytes: int = 0
    uncounted: frozenset[str] = frozenset()

    @property
    def total_macs(self) -> int:
        return sum(self.macs.values())

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes

    def times(self, factor: float) -> Work:
        macs = {precision: round(n * factor) for precision, n in self.macs.items()}
        weights, activations = round(self.weight_bytes * factor), round(self.activation_bytes * factor)
        return Work(macs, weights, activations, self.uncounted)


class CountingSession:
    """Stands before a stage's session and runs every input through a traced twin of the stage as well, or the middle
    one of each `every` inputs: a trace of hundreds of steps is too large to be read."""

    def __init__(self, session: Session, path: Path, every: int = 1) -> None:
        """`path` is the stage's ONNX file. Raises ModelError if ONNX Runtime cannot load it."""
        import onnxruntime as ort

        self._session = session
        self._every, self._runs, self._counted = every, 0, 0
        self._folder = tempfile.TemporaryDirectory(prefix="vivace-macs-")
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        # Layout changes pad channels, and packed weights vanish from the trace: both would falsify the counts.
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(self._folder.name) / "trace")
        self._fused = Path(self._folder.name) / "fused.onnx"
        settings.optimized_model_filepath = str(self._fused)
        try:
            self._twin = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            self._folder.cleanup()
            raise ModelError(f"ONNX Runtime cannot count the operations of {path.name}: {error}") from error
        self._inputs = [i.name for i in self._twin.get_inputs()]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        if self._runs % self._every == self._every // 2:
            self._twin.run(None, {name: inputs[name] for name in self._inputs})
            self._counted += 1
        self._runs += 1
        return self._session.run(inputs)

    def work(self) -> dict[str, Work]:
        """The work of all runs so far by node name, reckoned from those that were counted; ends the counting."""
        found = by_node(json.loads(Path(self._twin.end_profiling()).read_text(encoding="utf-8")))
        if self._counted in (0, self._runs):
            return found
        return {name: work.times(self._runs / self._counted) for name, work in found.items()}

    def renamed(self) -> dict[str, str]:
        """Node names by those that ONNX Runtime gives when it blocks channels: the node's output and a suffix."""
        import onnx

        nodes = onnx.load(str(self._fused), load_external_data=False).graph.node
        return {f"{node.output[0]}_nchwc": node.name for node in nodes if node.output}

    def close(self) -> None:
        self._folder.cleanup()
        self._session.close()


def by_node(events: Iterable[Event]) -> dict[str, Work]:
    """The work in an ONNX Runtime trace, summed over runs, by node name."""
    nodes: dict[str, list[Work]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            nodes.setdefault(event["name"].removesuffix(KERNEL), []).append(of_event(event["args"]))
    return {name: total(works) for name, works in nodes.items()}


def total(works: Iterable[Work]) -> Work:
    works = list(works)
    macs: Counter[str] = Counter()
    for work in works:
        macs.update(work.macs)
    return Work(
        dict(macs),
        sum(work.weight_bytes for work in works),
        sum(work.activation_bytes for work in works),
        frozenset().union(*(work.uncounted for work in works)),
    )


def of_event(args: Event) -> Work:
    """The work of one executed node, from the arguments of its trace event."""
    op = args["op_name"]
    if op in VIEWS:
        return Work()
    macs = _macs(op, _shapes(args["input_type_shape"]), _shapes(args["output_type_shape"]))
    return Work(
        {_precision(op, args): macs} if macs else {},
        int(args["parameter_size"]),
        int(args["activation_size"]) + int(args["output_size"]),
        frozenset({op} if op in UNCOUNTED else ()),
    )


def _precision(op: str, args: Event) -> str:
    if op == "DynamicQuantizeMatMul":  # takes floats, multiplies integers
        return "int8"
    kind: str = next(iter(args["input_type_shape"][0]))
    return PRECISIONS.get(kind, kind)


def _macs(op: str, inputs: list[Shape], outputs: list[Shape]) -> int:
    """A transposed convolution multiplies each input element with its kernels (what padding later cuts off
    included); every other one makes each output element from its receptive field (padding included)."""
    if op in CONV:
        return math.prod(outputs[0]) * math.prod(inputs[CONV[op]][1:])
    if op == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if op in MATMUL:
        return math.prod(outputs[0]) * _inner(inputs[0], outputs[0])
    if op in RECURRENT:
        steps, rows = inputs[0][:2]
        return steps * rows * (math.prod(inputs[1]) + math.prod(inputs[2]))
    return 0


def _inner(left: Shape, out: Shape) -> int:
    """The length of a matrix product's sums, also where the left side is stored transposed; either may be a vector."""
    if len(left) < 2 or len(out) < len(left) or out[-2] == 0:
        return left[-1]
    return left[-1] * left[-2] // out[-2]


def _shapes(typed: Iterable[Mapping[str, Shape]]) -> list[Shape]:
    return [next(iter(entry.values())) for entry in typed]
