"""Small stages as ONNX models, bundles of them, and what can be asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from vivace.core.bundle import Bundle, write_bundle
from vivace.core.stage import Array, Stage, TensorSpec


def model(nodes: list[Any], constants: dict[str, Array], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]):
    """A float32 graph of opset 15."""
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph(
        nodes,
        "small",
        [value(*item) for item in inputs.items()],
        [value(*item) for item in outputs.items()],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made


def weights(rng: np.random.Generator, *shape: int) -> Array:
    """Of unit gain, so that signals neither vanish nor grow from layer to layer."""
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def vocoder() -> Any:
    """Two convolutions with an activation between, a residual sum, then a transposed convolution."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], name="/pre/Conv", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("LeakyRelu", ["c0"], ["l0"], name="/LeakyRelu", alpha=0.1),
        helper.make_node(
            "Conv", ["l0", "w1", "b1"], ["c1"], name="/block/Conv", kernel_shape=[5], pads=[4, 4], dilations=[2]
        ),
        helper.make_node("Add", ["c1", "c0"], ["sum"], name="/Add"),
        helper.make_node(
            "ConvTranspose", ["sum", "w2"], ["y"], name="/up/ConvTranspose", kernel_shape=[4], strides=[2]
        ),
    ]
    constants = {
        "w0": weights(rng, 32, 16, 3),
        "b0": 0.1 * weights(rng, 32),
        "w1": weights(rng, 32, 32, 5),
        "b1": 0.1 * weights(rng, 32),
        "w2": weights(rng, 32, 24, 4),
    }
    return model(nodes, constants, {"x": [1, 16, "frames"]}, {"y": [1, 24, "samples"]})


def encoder() -> Any:
    """An embedding table, matrix products with a constant and without one, and a Gemm."""
    rng = np.random.default_rng(8)
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m"], name="/project/MatMul"),
        helper.make_node("Relu", ["m"], ["r"], name="/Relu"),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["g"], name="/out/Gemm", transB=1),
        helper.make_node("Transpose", ["g"], ["t"], name="/Transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["g", "t"], ["y"], name="/scores/MatMul"),
    ]
    constants = {"w0": weights(rng, 48, 64), "w1": weights(rng, 40, 64), "b1": weights(rng, 40)}
    return model(nodes, constants, {"x": ["tokens", 48]}, {"y": ["tokens", "tokens"], "g": ["tokens", 40]})


def rows(kind: str, count: int = 6) -> list[dict[str, Array]]:
    """Inputs of different lengths."""
    rng = np.random.default_rng(9)
    shape = {"decoder": lambda n: (1, 16, n), "text": lambda n: (n, 48)}[kind]
    return [{"x": rng.standard_normal(shape(20 + 7 * k)).astype(np.float32)} for k in range(count)]


def bundle_of(models: dict[str, Any], out: Path) -> Bundle:
    stages = tuple(
        Stage(
            name,
            f"stages/{name}.onnx",
            inputs={"x": TensorSpec("float32", ("n",))},
            outputs={o.name: TensorSpec("float32", ("n",)) for o in made.graph.output},
        )
        for name, made in models.items()
    )
    other = Stage("postnet", "stages/postnet.bin", runtime="elsewhere")

    def fill(folder: Path) -> None:
        (folder / "stages").mkdir()
        for name, made in models.items():
            onnx.save(made, str(folder / "stages" / f"{name}.onnx"))
        (folder / other.file).write_bytes(b"weights")

    return write_bundle(out, Bundle(out, "small", "toy", 16000, (*stages, other)), fill)


def load(bundle: Bundle, stage: str) -> Any:
    return onnx.load(str(bundle.file(bundle.stage(stage).file)))


def run(made: Any, row: dict[str, Array], output: str = "y") -> Array:
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([output], row)[0]


def executed(made: Any, tmp_path: Path) -> list[str]:
    """The operators that are left once the runtime has optimized the graph for this machine."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def snr(reference: Array, other: Array) -> float:
    """dB."""
    assert reference.shape == other.shape
    noise = float(((reference - other) ** 2).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float((reference**2).sum()) / noise)


def op_types(made: Any) -> list[str]:
    return [node.op_type for node in made.graph.node]
