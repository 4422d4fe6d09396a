"""A small vocoder of transposed convolutions, as its weights and a configuration describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array

KERNEL = 7  # of a layer without upsampling; one that upsamples has twice its stride
OPSET, IR = 17, 9


def weights_wanted(mels: int, channels: Sequence[int], strides: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """As torch's Conv1d and ConvTranspose1d hold them."""
    wanted: dict[str, tuple[int, ...]] = {}
    for k, (into, out, stride) in enumerate(zip((mels, *channels), channels, strides, strict=False)):
        wanted[f"vocoder.{k}.weight"] = (into, out, 2 * stride) if stride > 1 else (out, into, KERNEL)
        wanted[f"vocoder.{k}.bias"] = (out,)
    return wanted


def build(mels: int, channels: Sequence[int], strides: Sequence[int], weights: Mapping[str, Array]) -> Any:
    """The ModelProto: `latent` [batch, mels, frames] to `output` [batch, 1, samples]. Raises ModelError for a weight
    that is missing or does not fit."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, kept = [], []
    for name, shape in weights_wanted(mels, channels, strides).items():
        if name not in weights or weights[name].shape != shape:
            found = weights[name].shape if name in weights else "missing"
            raise ModelError(f"the weight {name} is {found}, the configuration says {shape}")
        kept.append(numpy_helper.from_array(np.ascontiguousarray(weights[name]), name))
    x = "latent"
    for k, stride in enumerate(strides):
        inputs = [x, f"vocoder.{k}.weight", f"vocoder.{k}.bias"]
        kernel = 2 * stride if stride > 1 else KERNEL
        pads = [(stride + 1) // 2, stride // 2] if stride > 1 else [KERNEL // 2] * 2
        own: dict[str, Any] = {"kernel_shape": [kernel], "pads": pads} | ({"strides": [stride]} if stride > 1 else {})
        kind = "ConvTranspose" if stride > 1 else "Conv"
        nodes.append(helper.make_node(kind, inputs, [f"made.{k}"], name=f"/vocoder.{k}/{kind}", **own))
        last = k == len(strides) - 1
        x = "output" if last else f"bent.{k}"
        bend: dict[str, Any] = {} if last else {"alpha": 0.1}
        kind = "Tanh" if last else "LeakyRelu"
        nodes.append(helper.make_node(kind, [f"made.{k}"], [x], name=f"/vocoder.{k}/{kind}", **bend))
    given = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", mels, "frames"])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1, "samples"])
    graph = helper.make_graph(nodes, "vocoder", [given], [made], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="vivace")
    model.ir_version = IR
    checker.check_model(model, full_check=True)
    return model
