"""Runs VITS graphs, whole and in stages, with noise that the test gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from vivace.families import _vits_graph as vits


def session(model: Any) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model: Any, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    loaded = session(model)
    names = [o.name for o in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, {i.name: feed[i.name] for i in loaded.get_inputs()}), strict=True))


def with_noise_inputs(model: Any) -> Any:
    """The same graph with the noise that it would draw as inputs `noise_0`, `noise_1`."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    drawn = [node for node in made.graph.node if node.op_type == "RandomNormalLike"]
    for k, node in enumerate(drawn):
        made.graph.input.append(helper.make_tensor_value_info(f"noise_{k}", TensorProto.FLOAT, [None] * 3))
        identity = helper.make_node("Identity", [f"noise_{k}"], list(node.output))
        place = list(made.graph.node).index(node)
        del made.graph.node[place]
        made.graph.node.insert(place, identity)
    return made


def in_stages(parts: dict[str, Any], feed: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feed = {**feed, vits.DURATION_NOISE: rng.standard_normal((1, 2, feed["input"].shape[1]), np.float32)}
    feed |= run(parts[vits.TEXT], feed)
    feed[vits.PRIOR_NOISE] = rng.standard_normal(feed[vits.MEAN].shape, np.float32)
    feed |= run(parts[vits.FLOW], feed)
    return feed | run(parts[vits.DECODER], feed)
