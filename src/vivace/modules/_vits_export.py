"""A VITS module as one ONNX graph with Piper's signature, from which the module can be read back exactly.

`input` [batch, phonemes], `input_lengths` [batch], `scales` [3] (noise, length, noise of the durations) and, with
several speakers, `sid` [batch] give `output` [batch, 1, 1, samples]; the noise is drawn inside.
"""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivace.modules.vits import Vits

OPSET = 17


class _Whole(Vits):
    def forward(self, input: Tensor, input_lengths: Tensor, scales: Tensor, sid: Tensor | None = None) -> Tensor:  # type: ignore[override]
        tokens = torch.arange(input.shape[1])
        mask = (tokens < input_lengths[:, None]).float()[:, None]
        noise = torch.randn_like(torch.cat([mask, mask], 1)) * scales[2]
        speaker = self.speaker(sid)
        mean, log_scale, lasts = self.text(input, mask, noise, speaker, scales[1])
        frames = lasts.sum(1)[:, None]
        heard = (torch.arange(frames.max().clamp(min=1)) < frames).float()[:, None]
        mean = mean * heard  # changes nothing: it is how the mask, like the mean, is made by the text part
        prior = mean + torch.randn_like(mean) * torch.exp(log_scale) * scales[0]
        latent = self.flow(prior, heard, speaker)
        made: Tensor = self.dec(latent * heard, speaker)[:, None]
        return made


def to_onnx(module: Vits) -> Any:
    """The ModelProto; nodes and weights are named after the module's."""
    import onnx

    whole = copy.copy(module)  # the same parts
    whole.__class__ = _Whole
    whole.eval()
    tokens = torch.arange(8)[None].repeat(2, 1) % module.shape.tokens
    given = [tokens, torch.tensor([8, 6]), torch.tensor([0.667, 1.0, 0.8])]
    names = ["input", "input_lengths", "scales"]
    sizes: dict[str, dict[int, str]] = {
        "input": {0: "batch_size", 1: "phonemes"}, "input_lengths": {0: "batch_size"},
        "output": {0: "batch_size", 3: "time"},
    }  # fmt: skip
    if module.shape.speakers:
        given.append(torch.tensor([0, 0]))
        names.append("sid")
        sizes["sid"] = {0: "batch_size"}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of traced Python numbers, which are the module's sizes
        torch.onnx.export(
            whole, tuple(given), buffer, input_names=names, output_names=["output"], dynamic_axes=sizes,
            opset_version=OPSET, dynamo=False,
            do_constant_folding=False,  # it renames weights; runtimes fold on their own
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    _unshare(model.graph)
    _fold(model.graph)
    return model


def _unshare(graph: Any) -> None:
    """Gives each weight its own initializer again: the exporter keeps equal ones once."""
    weights = {i.name: i for i in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            own = graph.initializer.add()
            own.CopyFrom(weights[node.input[0]])
            own.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _fold(graph: Any) -> None:
    """Computes what follows from Constant nodes alone: shapes and paddings. Weights are left as they are named."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    known: dict[str, Any] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.input and all(name in known for name in node.input if name):
            inputs = {name: known[name] for name in node.input if name}
            given = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in inputs]
            made = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
            alone = helper.make_graph([node], "alone", given, made)
            model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", OPSET)])
            known.update(zip(node.output, ReferenceEvaluator(model).run(None, inputs), strict=True))
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    constants = [
        helper.make_node("Constant", [], [name], name=f"/constants/{name.strip('/')}", value=numpy_helper.from_array(v))
        for name, value in known.items()
        if name in used
        for v in [np.asarray(value)]
    ]
    del graph.node[:]
    graph.node.extend([*constants, *kept])
