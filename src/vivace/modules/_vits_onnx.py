"""The weights and sizes of a VITS voice from its exported graph, whole or cut into stages.

PyTorch's exporter names each node after the module that made it, and that is what is read here: weights whose own names
it threw away (where weight norm was folded) are still found by the node that uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.modules.hifigan import GeneratorShape
from vivace.modules.vits import Shape

PARTS = ("enc_p", "dp", "flow", "dec", "emb_g")
WEIGHTED = {"Conv", "ConvTranspose", "Gather"}


def read(models: Iterable[Any]) -> tuple[Shape, dict[str, Array]]:
    """`models`: ONNX graphs that together are the voice. Raises ModelError if they are no VITS voice as PyTorch exports
    it, or were changed since: passes rename and replace weights."""
    found, nodes = weights(models)
    try:
        return _shape(found, nodes), found
    except (KeyError, StopIteration, ValueError) as error:
        raise ModelError(
            f"this graph is no VITS voice as it was exported: {error} is not where it should be; import the original"
        ) from None


def weights(models: Iterable[Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The weights by name, and the nodes that use them by the names of their modules."""
    found: dict[str, Array] = {}
    nodes: dict[str, Any] = {}
    for model in models:
        _collect(model.graph, found, nodes)
    return found, nodes


def _collect(graph: Any, weights: dict[str, Array], nodes: dict[str, Any]) -> None:
    from onnx import numpy_helper

    kept = {i.name: i for i in graph.initializer}
    constants = {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute}
    for name, tensor in kept.items():
        if name.split(".")[0] in PARTS:
            weights[name] = numpy_helper.to_array(tensor)
    for node in graph.node:
        owner, _, _ = node.name.strip("/").rpartition("/")
        if node.op_type == "LayerNormalization":
            nodes[owner.replace("/", ".")] = node
        if node.op_type not in WEIGHTED or owner.split("/")[0] not in PARTS:
            continue
        place = 0 if node.op_type == "Gather" else 1
        for key, k in (("weight", place), ("bias", 2)):
            found = kept.get(node.input[k]) if k < len(node.input) else None
            if found is not None and (node.op_type != "Gather" or owner.endswith(("emb", "emb_g"))):
                weights[f"{owner.replace('/', '.')}.{key}"] = numpy_helper.to_array(found)
                nodes[owner.replace("/", ".")] = node
    folded = {**kept, **constants}.get("/dp/flows.0/Exp_output_0")  # the exporter computes what is constant
    if folded is not None:
        weights["dp.flows.0.logs"] = -np.log(numpy_helper.to_array(folded))


def _shape(w: dict[str, Array], nodes: dict[str, Any]) -> Shape:
    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for name in w if (m := re.fullmatch(pattern, name))), default=-1)

    tokens, hidden = w["enc_p.emb.weight"].shape
    relative = w["enc_p.encoder.attn_layers.0.emb_rel_k"]
    stochastic = "dp.flows.3.pre.weight" in w
    first = w["flow.flows.0.enc.in_layers.0.weight"]
    speakers = w["emb_g.weight"].shape if "emb_g.weight" in w else (0, 0)
    return Shape(
        tokens=int(tokens),
        decoder=generator(w, nodes),
        channels=w["enc_p.proj.weight"].shape[0] // 2,
        hidden=int(hidden),
        filter=w["enc_p.encoder.ffn_layers.0.conv_1.weight"].shape[0],
        heads=int(hidden) // relative.shape[2],
        layers=count(r"enc_p\.encoder\.attn_layers\.(\d+)\.conv_q\.weight"),
        kernel=w["enc_p.encoder.ffn_layers.0.conv_1.weight"].shape[2],
        window=relative.shape[1] // 2,
        flows=(1 + count(r"flow\.flows\.(\d+)\.pre\.weight")) // 2,
        flow_layers=count(r"flow\.flows\.0\.enc\.in_layers\.(\d+)\.weight"),
        flow_kernel=first.shape[2],
        flow_dilation=max(_ints(nodes["flow.flows.0.enc.in_layers.1"], "dilations")),
        stochastic=stochastic,
        duration_filter=w["dp.pre.weight" if stochastic else "dp.conv_1.weight"].shape[0],
        duration_kernel=w["dp.convs.convs_sep.0.weight" if stochastic else "dp.conv_1.weight"].shape[2],
        duration_flows=count(r"dp\.flows\.(\d+)\.pre\.weight") // 2 if stochastic else Shape.duration_flows,
        duration_least=Shape.duration_least if stochastic else _least(nodes.get("dp.norm_1")),
        speakers=int(speakers[0]),
        speaker_channels=int(speakers[1]),
    )


def generator(w: dict[str, Array], nodes: dict[str, Any]) -> GeneratorShape:
    """The sizes of the decoder. Raises KeyError or ValueError if there is none."""
    ups = [nodes[f"dec.ups.{k}"] for k in range(sum(name.startswith("dec.ups.") for name in nodes))]
    kinds = "convs1" if "dec.resblocks.0.convs1.0.weight" in w else "convs"
    total = 1 + max(int(name.split(".")[2]) for name in nodes if name.startswith("dec.resblocks."))
    blocks = range(total // len(ups))
    per_block = [sum(name.startswith(f"dec.resblocks.{b}.{kinds}.") for name in nodes) for b in blocks]
    return GeneratorShape(
        channels=w["dec.conv_pre.weight"].shape[1],
        widths=(w["dec.conv_pre.weight"].shape[0], *(w[f"dec.ups.{k}.weight"].shape[1] for k in range(len(ups)))),
        rates=tuple(_ints(node, "strides")[0] for node in ups),
        kernels=tuple(w[f"dec.ups.{k}.weight"].shape[2] for k in range(len(ups))),
        block_kernels=tuple(w[f"dec.resblocks.{b}.{kinds}.0.weight"].shape[2] for b in blocks),
        block_dilations=tuple(
            tuple(_ints(nodes[f"dec.resblocks.{b}.{kinds}.{k}"], "dilations")[0] for k in range(per_block[b]))
            for b in blocks
        ),
        resblock="1" if kinds == "convs1" else "2",
        speaker_channels=w["dec.cond.weight"].shape[1] if "dec.cond.weight" in w else 0,
        last_bias="dec.conv_post.bias" in w,
    )


def _least(norm: Any) -> float:
    """What a norm adds to the variance, to seven digits: the graph holds it as float32."""
    given = [a.f for a in norm.attribute if a.name == "epsilon"] if norm is not None else []
    return float(f"{given[0]:.7g}") if given else Shape.duration_least


def _ints(node: Any, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [1])
