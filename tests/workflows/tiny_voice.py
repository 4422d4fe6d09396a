"""A tiny real voice of two ONNX stages whose operations are known by heart: each letter makes three frames of 16
samples. Loaded by the `tiny` fixture."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, write_bundle
from vivace.core.errors import TextError
from vivace.core.stage import Stage

WIDTH, REPEAT, HOP, RATE = 8, 3, 16, 8000


class TinyModel:
    most_rows = 100

    def __init__(self, bundle, sessions):
        self.sessions = sessions

    def encode(self, request):
        sentences = [s for s in request.text.split(".") if s.strip()]
        if not sentences:
            raise TextError("nothing to say")
        return [np.array([ord(c) % 64 for c in s], np.int64) for s in sentences]

    def advance(self, rows):
        for row in rows:
            letters = np.eye(64, dtype=np.float32)[row.tokens][None]
            frames = self.sessions["text"].run({"letters": letters})["latent"][0]
            row.frames = np.repeat(frames, REPEAT, axis=1)
            row.done = True

    def release(self, row):
        pass

    def render(self, rows):
        return [self.one(row) for row in rows]

    def one(self, row):
        samples = self.sessions["decoder"].run({"frames": row.frames[None]})["samples"].reshape(-1)
        row.rendered = row.total_frames
        return Audio(samples, RATE)


def build(nodes, inputs, outputs, weights):
    """The bytes of an ONNX model; `inputs` and `outputs` map names to shapes, `weights` to arrays."""
    from onnx import TensorProto, helper, numpy_helper

    def values(shapes):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def make(folder, monkeypatch):
    """A bundle in `folder`, of the family "tiny", which is registered while the test runs."""
    from onnx import helper

    rng = np.random.default_rng(0)

    def weight(*shape):
        return rng.normal(0, 0.1, shape).astype(np.float32)

    text = build(
        [
            helper.make_node("MatMul", ["letters", "table"], ["vectors"], name="embed"),
            helper.make_node("Transpose", ["vectors"], ["latent"], perm=[0, 2, 1]),
        ],
        {"letters": [1, "n", 64]},
        {"latent": [1, WIDTH, "n"]},
        {"table": weight(64, WIDTH)},
    )
    decoder = build(
        [
            helper.make_node("Conv", ["frames", "w"], ["hidden"], name="conv", kernel_shape=[3], pads=[1, 1]),
            helper.make_node("Tanh", ["hidden"], ["bent"], name="tanh"),
            helper.make_node("ConvTranspose", ["bent", "up"], ["samples"], name="up", strides=[HOP]),
        ],
        {"frames": [1, WIDTH, "n"]},
        {"samples": [1, 1, "s"]},
        {"w": weight(WIDTH, WIDTH, 3), "up": weight(WIDTH, 1, HOP)},
    )
    files = {"text.onnx": text, "decoder.onnx": decoder}
    family = SimpleNamespace(open=TinyModel)
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: family if name == "tiny" else real(kind, name))

    def fill(inside):
        for name, data in files.items():
            (inside / name).write_bytes(data)

    stages = (Stage("text", "text.onnx"), Stage("decoder", "decoder.onnx"))
    return write_bundle(folder / "tiny", Bundle(folder / "tiny", "tiny", "tiny", RATE, stages), fill)
