"""Cuts an exported VITS graph into its stages and joins them again. Works by structure, not by node names.

Stages (VITS, Kim et al. 2021): `text` (text encoder, durations, expansion to frames), `flow` (noise, inverse flow),
`decoder` (HiFi-GAN). The noise that the graph draws by itself becomes an input, so that the caller seeds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vivace.core.errors import ModelError

TEXT, FLOW, DECODER = "text", "flow", "decoder"
STAGES = (TEXT, FLOW, DECODER)
DURATION_NOISE = "duration_noise"  # [batch, 2, phonemes]; absent where durations are deterministic
PRIOR_NOISE = "prior_noise"  # [batch, channels, frames]
CROP = "crop"  # [2]: of the frames that a cropped decoder reads, the first that its later layers get and the end
MEAN, LOG_SCALE, MASK, SPEAKER, LATENT = "mean", "log_scale", "mask", "speaker", "latent"
DURATION_CHANNELS = 2  # of the stochastic duration predictor's noise, in every VITS


@dataclass(frozen=True)
class Cut:
    """The tensors at which a VITS graph falls apart."""

    duration_noise: str  # output of the first RandomNormalLike; empty: deterministic durations
    prior_noise: str
    mean: str
    log_scale: str
    latent: str
    output: str


class Graph:
    """An ONNX graph with producers and consumers at hand."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {i.name: i for i in model.graph.initializer}
        self.producer = {name: k for k, node in enumerate(self.nodes) for name in node.output}
        self.consumers: dict[str, list[int]] = {}
        for k, node in enumerate(self.nodes):
            for name in node.input:
                self.consumers.setdefault(name, []).append(k)

    def ancestors(self, tensors: Iterable[str], stop: Iterable[str] = ()) -> set[int]:
        """The nodes that `tensors` need, not looking behind the tensors in `stop`."""
        found: set[int] = set()
        stopped = set(stop)
        todo = [t for t in tensors if t not in stopped]
        while todo:
            k = self.producer.get(todo.pop())
            if k is None or k in found:
                continue
            found.add(k)
            todo.extend(t for t in self.nodes[k].input if t not in stopped)
        return found

    def shared(self) -> set[int]:
        """Nodes that depend on constants and scales only. Each stage has its own copy of those it needs."""
        known = {*self.constants, "scales", ""}
        found = set()
        for k, node in enumerate(self.nodes):  # in the order in which they run
            if known.issuperset(node.input) and not node.op_type.startswith("Random"):
                known.update(node.output)
                found.add(k)
        return found

    def constant(self, name: str) -> Any:
        """The TensorProto of an initializer or a Constant node; None for anything computed."""
        if name in self.constants:
            return self.constants[name]
        node = self.nodes[self.producer[name]] if name in self.producer else None
        if node is None or node.op_type != "Constant" or node.attribute[0].name != "value":
            return None
        return node.attribute[0].t


def find_cut(graph: Graph) -> Cut:
    """Raises ModelError if the graph does not have the shape of a VITS voice."""
    noises = [node for node in graph.nodes if node.op_type == "RandomNormalLike"]
    upsamplers = [node for node in graph.nodes if node.op_type == "ConvTranspose"]
    if len(noises) not in (1, 2) or not upsamplers:
        raise ModelError(
            f"not a VITS voice: {len(noises)} noise sources (1 or 2 expected) and {len(upsamplers)} upsampling layers"
        )
    node = upsamplers[0]
    while node.op_type != "Conv":  # back over activation and speaker condition to the decoder's first convolution
        source = graph.producer.get(node.input[0])
        if source is None:
            raise ModelError("not a VITS voice: no convolution before the first upsampling layer")
        node = graph.nodes[source]
    prior = noises[-1]
    scaled = [graph.nodes[k] for k in graph.consumers.get(prior.output[0], [])]
    exponents = [
        graph.nodes[graph.producer[t]]
        for n in scaled
        for t in n.input
        if t in graph.producer and graph.nodes[graph.producer[t]].op_type == "Exp"
    ]
    if len(exponents) != 1:
        raise ModelError("not a VITS voice: the prior's noise is not scaled by an exponential")
    return Cut(
        duration_noise=noises[0].output[0] if len(noises) == 2 else "",
        prior_noise=prior.output[0],
        mean=prior.input[0],
        log_scale=exponents[0].input[0],
        latent=node.input[0],
        output=graph.model.graph.output[0].name,
    )


def external(model: Any) -> bool:
    """Whether a weight lies in another file than the model's."""
    held = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    return any(tensor.data_location == tensor.EXTERNAL for tensor in (*model.graph.initializer, *held))


def split(model: Any) -> dict[str, Any]:
    """The three stage models of a VITS voice, by stage name. Raises ModelError for another kind of graph."""
    graph = Graph(model)
    cut = find_cut(graph)
    noise = {cut.duration_noise, cut.prior_noise}
    shared = graph.shared()
    text = graph.ancestors([cut.mean, cut.log_scale], stop=noise)
    flow = graph.ancestors([cut.latent], stop=noise | {cut.mean, cut.log_scale}) - (text - shared)
    decoder = graph.ancestors([cut.output], stop=noise | {cut.latent}) - (text - shared) - (flow - shared)
    if not (text and flow and decoder):
        raise ModelError("not a VITS voice: a stage is empty")

    names = {cut.mean: MEAN, cut.log_scale: LOG_SCALE, cut.latent: LATENT, cut.prior_noise: PRIOR_NOISE}
    if cut.duration_noise:
        names[cut.duration_noise] = DURATION_NOISE
    for tensor in sorted(_needs(graph, decoder) & _makes(graph, text)):
        names.setdefault(tensor, SPEAKER if SPEAKER not in names.values() else f"{SPEAKER}_{len(names)}")
    for tensor in sorted(_needs(graph, flow) & _makes(graph, text)):
        names.setdefault(tensor, MASK if MASK not in names.values() else f"{MASK}_{len(names)}")
    if cut.latent in _needs(graph, flow) or MASK not in names.values():
        raise ModelError("not a VITS voice: the flow has no mask, or feeds on its own output")
    return {
        TEXT: _extract(graph, text, names, TEXT),
        FLOW: _extract(graph, flow, names, FLOW),
        DECODER: _extract(graph, decoder, names, DECODER),
    }


def in_time(flow: Any) -> list[str]:
    """The inputs of a flow stage that have a value for each frame. Raises ModelError for an input of unknown kind."""
    inputs = [i.name for i in flow.graph.input]
    named = {name: name.split("_")[0] for name in inputs}
    other = [name for name in inputs if named[name] not in (*_TIMED, SPEAKER, "scales", "sid")]
    if other:
        raise ModelError(f"the flow of this voice takes {other[0]}, and whether that runs in time is not known")
    return [name for name in inputs if named[name] in _TIMED]


def _needs(graph: Graph, nodes: set[int]) -> set[str]:
    made = _makes(graph, nodes)
    return {t for k in nodes for t in graph.nodes[k].input if t and t not in made and t not in graph.constants}


def _makes(graph: Graph, nodes: set[int]) -> set[str]:
    return {t for k in nodes for t in graph.nodes[k].output}


def _extract(graph: Graph, nodes: set[int], names: dict[str, str], stage: str) -> Any:
    import onnx
    from onnx import TensorProto, helper

    kept = [_renamed(graph.nodes[k], names) for k in sorted(nodes)]
    made = {t for node in kept for t in node.output}
    used = {t for node in kept for t in node.input if t}
    graph_inputs = {i.name: i for i in graph.model.graph.input}
    inputs = []
    for tensor in sorted(used - made - set(graph.constants)):
        if tensor in graph_inputs:
            inputs.append(graph_inputs[tensor])
        else:
            inputs.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, _SHAPES.get(tensor.split("_")[0])))
    if stage == DECODER:
        outputs = [graph.model.graph.output[0]]
    else:
        wanted = {names[t] for t in names if names[t] in made}
        outputs = [
            helper.make_tensor_value_info(t, TensorProto.FLOAT, _SHAPES.get(t.split("_")[0])) for t in sorted(wanted)
        ]
    constants = [graph.constants[t] for t in sorted(used & set(graph.constants))]
    made_graph = helper.make_graph(kept, stage, inputs, outputs, constants)
    result = helper.make_model(made_graph, opset_imports=list(graph.model.opset_import))
    result.ir_version = graph.model.ir_version
    try:
        return onnx.shape_inference.infer_shapes(result)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the {stage} stage is malformed: {error}") from error


_SHAPES: dict[str, list[str | int]] = {
    "mean": ["batch_size", "channels", "frames"],
    "log": ["batch_size", "channels", "frames"],
    "prior": ["batch_size", "channels", "frames"],
    "latent": ["batch_size", "channels", "frames"],
    "mask": ["batch_size", 1, "frames"],
    "speaker": ["batch_size", "speaker_channels", 1],
    "duration": ["batch_size", DURATION_CHANNELS, "phonemes"],
}

_TIMED = ("mean", "log", "prior", "mask")  # the first words of the names of what runs in time


def _renamed(node: Any, names: dict[str, str]) -> Any:
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for field in (copy.input, copy.output):
        for k, name in enumerate(field):
            field[k] = names.get(name, name)
    return copy


def join(stages: dict[str, Any], metadata: dict[str, str]) -> Any:
    """One model with the standard Piper signature (`input`, `input_lengths`, `scales`, `sid` if multi-speaker ->
    `output`) from the three stages, with the noise drawn inside again."""
    import onnx
    from onnx import TensorProto, helper, version_converter

    opset = max(o.version for m in stages.values() for o in m.opset_import if o.domain in ("", "ai.onnx"))
    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    taken = {"input", "input_lengths", "scales", "sid", "output"}
    inputs: dict[str, Any] = {}
    node_names: set[str] = set()
    shapes: list[Any] = []
    domains = {o.domain: o.version for m in stages.values() for o in m.opset_import if o.domain not in ("", "ai.onnx")}
    boundary = {o.name for name in (TEXT, FLOW) for o in stages[name].graph.output}
    for name in STAGES:
        model = stages[name]
        if any(o.version != opset for o in model.opset_import if o.domain in ("", "ai.onnx")):
            model = version_converter.convert_version(model, opset)
        for i in model.graph.input:
            if i.name not in boundary | {DURATION_NOISE, PRIOR_NOISE}:
                inputs.setdefault(i.name, i)
        nodes.extend(_noise_nodes(model, helper))
        if any(i.name == CROP for i in model.graph.input):  # the whole is one window without context
            constants[CROP] = helper.make_tensor(CROP, TensorProto.INT64, [2], [0, 2**31 - 1])
        renames: dict[str, str] = {}
        own = {i.name for i in model.graph.initializer}
        for constant in model.graph.initializer:
            if constant.name in constants and constants[constant.name] == constant:
                continue
            if constant.name in taken:
                renames[constant.name] = f"{name}/{constant.name}"
            fresh = onnx.TensorProto()
            fresh.CopyFrom(constant)
            fresh.name = renames.get(constant.name, constant.name)
            constants[fresh.name] = fresh
        made = {t for node in model.graph.node for t in node.output if t}
        renames.update({t: f"{name}/{t}" for t in made & taken if t not in boundary and t != "output"})
        for node in model.graph.node:
            node = _renamed(node, renames)
            if node.name and node.name in node_names:
                node.name = f"{name}/{node.name}"
            node_names.add(node.name)
            nodes.append(node)
        shapes.extend(_shape_of(v, name, renames) for v in model.graph.value_info if v.name in made)
        taken |= own | made | set(renames.values())
    order = [n for n in ("input", "input_lengths", "scales", "sid") if n in inputs]
    graph = helper.make_graph(
        nodes,
        "vits",
        [inputs[n] for n in order],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch_size", 1, 1, "time"])],
        list(constants.values()),
        value_info=shapes,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains.items())]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="vivace")
    model.ir_version = max(m.ir_version for m in stages.values())
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def _shape_of(value: Any, stage: str, renames: dict[str, str]) -> Any:
    """What is known of a tensor's shape, which lets runtimes fuse more; a size's name means something in one stage."""
    import onnx

    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = renames.get(value.name, value.name)
    for dim in copy.type.tensor_type.shape.dim:
        if dim.dim_param:
            dim.dim_param = f"{stage}/{dim.dim_param}"
    return copy


def _noise_nodes(model: Any, helper: Any) -> list[Any]:
    names = {i.name for i in model.graph.input}
    made = []
    if DURATION_NOISE in names:
        made += [
            helper.make_node("Shape", ["input"], ["noise/shape"], name="/noise/Shape"),
            helper.make_node("Constant", [], ["noise/first"], name="/noise/First", value_ints=[0]),
            helper.make_node("Constant", [], ["noise/last"], name="/noise/Last", value_ints=[1]),
            helper.make_node("Constant", [], ["noise/two"], name="/noise/Two", value_ints=[DURATION_CHANNELS]),
            helper.make_node("Gather", ["noise/shape", "noise/first"], ["noise/batch"], name="/noise/Batch"),
            helper.make_node("Gather", ["noise/shape", "noise/last"], ["noise/phonemes"], name="/noise/Phonemes"),
            helper.make_node(
                "Concat", ["noise/batch", "noise/two", "noise/phonemes"], ["noise/dims"], name="/noise/Dims", axis=0
            ),
            helper.make_node("ConstantOfShape", ["noise/dims"], ["noise/zeros"], name="/noise/Zeros"),
            helper.make_node("RandomNormalLike", ["noise/zeros"], [DURATION_NOISE], name="/noise/Duration"),
        ]
    if PRIOR_NOISE in names:
        made.append(helper.make_node("RandomNormalLike", [MEAN], [PRIOR_NOISE], name="/noise/Prior"))
    return made
