"""Small plain ONNX models with their adapters, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from families.keras_maker import LISTENS, MELS, SPEAKS, WORDS


def _save(path: Path, nodes: list[Any], given: Any, made: Any, constants: dict[str, Any], adapter: Any) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "plain", [given], [made], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    path.with_suffix(".json").write_text(json.dumps(adapter), encoding="utf-8")
    return path


def voice(path: Path) -> Path:
    """Each character is a tone of 800 samples: [batch, time] ids -> [batch, samples]."""
    times = np.arange(800) / 8000
    tones = [0.3 * np.sin(2 * np.pi * (200 + 40 * k) * times) for k in range(len(SPEAKS["characters"]))]
    nodes = [
        helper.make_node("Gather", ["tones", "ids"], ["wave"], name="look"),
        helper.make_node("MatMul", ["wave", "mix"], ["mixed"], name="mix"),
        helper.make_node("Reshape", ["mixed", "shape"], ["samples"], name="join"),
    ]
    given = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"])
    made = helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["batch", "samples"])
    constants = {
        "tones": np.stack(tones).astype(np.float32),
        "mix": np.eye(800, dtype=np.float32),
        "shape": np.array([0, -1], np.int64),
    }
    return _save(path, nodes, given, made, constants, SPEAKS)


def mel_voice(path: Path) -> Path:
    """The mean of what stands in a table for each id of a frame: [batch, time, 7] ids -> [batch, time, 20] mels."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="look"),
        helper.make_node("ReduceMean", ["rows"], ["mels"], name="mean", axes=[2], keepdims=0),
    ]
    given = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "time", 7])
    made = helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["batch", "time", 20])
    rows = 1 + len(MELS["durations"]) + 4 * MELS["places"]
    return _save(path, nodes, given, made, {"table": rng.normal(-4, 3, (rows, 20)).astype(np.float32)}, MELS)


def classifier(path: Path, seed: int = 0) -> Path:
    """The mean over time, times a matrix: [batch, time, 20] -> [batch, 3]."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("ReduceMean", ["frames"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"], name="score"),
    ]
    given = helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["batch", "time", 20])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(WORDS)])
    return _save(path, nodes, given, made, {"weight": rng.standard_normal((20, 3)).astype(np.float32)}, LISTENS)
