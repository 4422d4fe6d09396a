"""A PyTorch module as an ONNX graph: exported with its open axes open, tidied, and proven equal."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Array
from vivace.families._onnx_fold import fold

LENGTHS = (64, 97, 160, 33, 16)  # of open axes other than the batch, for tracing and the proof
BATCHES = (2, 1, 3)
TOLERANCE = 2e-4  # of the largest magnitude of the output
AXES = ("batch", "time")
Call = Callable[[Array], Array]


@dataclass(frozen=True)
class Input:
    """The only input of a model: None in the shape is an open axis; ids lie below `limit`."""

    shape: tuple[int | None, ...]
    dtype: str
    limit: int = 2

    def example(self, batch: int, length: int) -> Array:
        """Random values, the same for the same sizes."""
        rng = np.random.default_rng(batch * 1000 + length)
        sizes = tuple(size or (length if axis else batch) for axis, size in enumerate(self.shape))
        made: Array = rng.integers(0, self.limit, sizes) if "int" in self.dtype else rng.standard_normal(sizes)
        return made.astype(self.dtype)


def convert(module: Any, call: Call, given: Input) -> Any:
    """The ModelProto of a torch.nn.Module (or an exported program) whose `call` gives its answers.

    Raises ModelError if no input fits the model or the graph differs; what the exporter raises goes through.
    """
    graph = export(module, given.example(BATCHES[0], first_length(call, given)), given.shape)
    name(graph, given.shape)
    graph = fold(_basic(graph))
    prove(call, graph, given)
    return graph


def first_length(call: Call, given: Input) -> int:
    """A length of the open axes that the model itself takes. Raises ModelError if there is none."""
    problem: Exception | None = None
    for length in LENGTHS:
        try:
            call(given.example(BATCHES[0], length))
            return length
        except Exception as error:  # noqa: BLE001 - too short or too long for this model
            problem = error
    raise ModelError(f"the model cannot be run on inputs of {', '.join(map(str, LENGTHS))} steps: {line(problem)}")


def export(module: Any, example: Array, shape: tuple[int | None, ...]) -> Any:
    """The graph as PyTorch writes it."""
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingDependency("onnxscript", "keras") from None
    open_axes = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(shape) if size is None}
    asked: dict[str, Any] = {"dynamo": True, "verbose": False}
    if isinstance(module, torch.nn.Module):
        asked["dynamic_shapes"] = (open_axes,)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(module, (torch.from_numpy(example),), **asked)
    assert program is not None
    return squeeze_as_torch(program.model_proto)


def squeeze_as_torch(graph: Any) -> Any:
    """The graph, changed in place: PyTorch leaves an axis that is not 1 where `squeeze` names it and ONNX fails there,
    but the exporter writes the node all the same. By its record of shapes such a node keeps the number of axes."""
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    for node in graph.graph.node:
        rank = ranks.get(node.output[0])
        if node.op_type == "Squeeze" and rank is not None and rank == ranks.get(node.input[0]):
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    return graph


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints and warns of its own steps: that is not our user's matter."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, before, strict=True):
            logger.setLevel(level)


def name(graph: Any, shape: tuple[int | None, ...]) -> None:
    """Gives the input, the output and the open axes names that stay the same from one export to the next."""
    (given,) = graph.graph.input
    renamed = {}
    for axis, size in enumerate(shape):
        symbol = given.type.tensor_type.shape.dim[axis].dim_param
        if size is None and symbol:
            renamed[symbol] = AXES[axis] if axis < len(AXES) else f"axis{axis}"
    for value in (given, graph.graph.output[0]):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), dim.dim_param)
    del graph.graph.value_info[:]
    _rename(graph.graph, given.name, "input")
    _rename(graph.graph, graph.graph.output[0].name, "output")


def _rename(graph: Any, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = new if name == old else name


def _basic(model: Any) -> Any:
    """The same graph after ONNX Runtime's basic rewrites, which stay within standard ONNX: transposes cancelled,
    constants folded."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(file)
        options.log_severity_level = 3
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return onnx.load(str(file))
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot load the exported graph: {line(error)}") from error


def prove(call: Call, graph: Any, given: Input) -> None:
    """Raises ModelError unless the graph equals `call` on random inputs of several lengths and batch sizes."""
    import onnxruntime as ort

    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    lengths = LENGTHS if any(size is None for size in given.shape[1:]) else LENGTHS[:1]
    refused: BaseException | None = None
    compared = 0
    for batch in BATCHES if given.shape[0] is None else BATCHES[:1]:
        for length in lengths:
            x = given.example(batch, length)
            try:
                wanted = call(x)
            except Exception as error:  # noqa: BLE001 - the model itself does not take this length
                refused = error
                continue
            try:
                found = session.run(None, {"input": x})[0]
            except Exception as error:
                raise ModelError(
                    f"the ONNX graph fails on {list(x.shape)}, which the model takes: {line(error)}"
                ) from error
            far = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
            if not far <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
                raise ModelError(
                    f"the ONNX graph differs from the model by {far:.2g} on {list(x.shape)}; it is not used"
                )
            compared += 1
    if not compared:
        raise ModelError(f"nothing could be compared, the model takes no input that was tried: {line(refused)}")


def line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
