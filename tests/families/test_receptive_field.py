"""The receptive field from the layers is the one that an experiment finds, or the stage is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from families import piper_maker
from families.piper_maker import Shape
from families.vits_runner import run
from vivace.core.errors import ModelError
from vivace.families import _vits_graph as vits
from vivace.families._receptive_field import receptive_field

SHAPES = [Shape(speakers=1, seed=7), Shape(speakers=3, seed=7, nodes=True), Shape(stochastic=False, seed=7)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(scope="module")
def parts(shape: Shape) -> dict[str, Any]:
    return vits.split(piper_maker.model(shape))


def reach(decoder: Any, speakers: int, channels: int, frames: int = 60) -> int:
    """By experiment: how many frames away a frame changes samples."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((1, channels, frames)).astype(np.float32)
    changed = latent.copy()
    middle = frames // 2
    changed[:, :, middle] += rng.standard_normal(channels).astype(np.float32)
    speaker = {"speaker": rng.standard_normal((1, piper_maker.SPEAKER_CHANNELS, 1)).astype(np.float32)}
    one, other = (
        run(decoder, {"latent": x, **speaker})["output"].reshape(frames, -1).astype(np.float64)
        for x in (latent, changed)
    )
    touched = np.flatnonzero((one != other).any(axis=1))
    return int(max(middle - touched.min(), touched.max() - middle))


def test_the_receptive_field_is_the_measured_one(shape: Shape, parts: dict[str, Any]) -> None:
    overlap, hop = receptive_field(parts[vits.DECODER])
    assert hop == piper_maker.HOP
    measured = reach(parts[vits.DECODER], shape.speakers, piper_maker.CHANNELS)
    assert measured <= overlap <= measured + 1


def random_decoder(layers: list[tuple[str, int, int]]) -> Any:
    """Convolutions ("conv", kernel, dilation) and upsamplers ("up", kernel over stride, stride), positive weights."""
    nodes, weights, x = [], [], "latent"
    for k, (kind, size, step) in enumerate(layers):
        kernel = size if kind == "conv" else size * step
        weights.append(numpy_helper.from_array(np.full((1, 1, kernel), 1 / kernel, np.float32), f"w{k}"))
        if kind == "conv":
            pad = (kernel - 1) * step // 2
            more: dict[str, Any] = {"pads": [pad, (kernel - 1) * step - pad], "dilations": [step]}
            nodes.append(helper.make_node("Conv", [x, f"w{k}"], [f"x{k}"], **more))
        else:
            pad = kernel - step
            more = {"pads": [pad // 2, pad - pad // 2], "strides": [step]}
            nodes.append(helper.make_node("ConvTranspose", [x, f"w{k}"], [f"x{k}"], **more))
        x = f"x{k}"
    nodes.append(helper.make_node("Identity", [x], ["output"]))
    latent = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", 1, "frames"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1, "samples"])
    graph = helper.make_graph(nodes, "decoder", [latent], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    return model


convs = st.tuples(st.just("conv"), st.integers(1, 7), st.integers(1, 3))
ups = st.tuples(st.just("up"), st.integers(1, 3), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(st.lists(convs | ups, min_size=1, max_size=5).filter(lambda made: np.prod([s for k, _, s in made]) <= 64))
def test_the_receptive_field_covers_any_stack_of_layers(layers: list[tuple[str, int, int]]) -> None:
    decoder = random_decoder(layers)
    overlap, hop = receptive_field(decoder)
    assert hop == np.prod([step for kind, _, step in layers if kind == "up"], dtype=int)
    frames = 2 * overlap + 4
    middle = overlap + 2
    latent = np.zeros((1, 1, frames), np.float32)
    latent[0, 0, middle] = 1
    heard = run(decoder, {"latent": latent})["output"].reshape(frames, hop).any(axis=1)
    touched = np.flatnonzero(heard)
    assert max(middle - touched.min(), touched.max() - middle) <= overlap


def reshape_layer(graph: Any) -> None:
    graph.node[0].op_type = "GlobalAveragePool"
    del graph.node[0].attribute[:]


def strided(graph: Any) -> None:
    graph.node[0].attribute.append(helper.make_attribute("strides", [2]))


def computed_weight(graph: Any) -> None:
    graph.node[0].input[1] = "latent"


def two_rates(graph: Any) -> None:
    graph.node[-1].op_type = "Add"
    graph.node[-1].input.append("latent")


def auto_padded(graph: Any) -> None:
    graph.node[0].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (reshape_layer, "GlobalAveragePool"),
        (strided, "stride"),
        (computed_weight, "weight"),
        (two_rates, "different rates"),
        (auto_padded, "auto_pad"),
    ],
)
def test_a_decoder_whose_reach_is_unknown_is_refused(edit: Any, words: str) -> None:
    decoder = random_decoder([("conv", 3, 1), ("up", 2, 4)])
    edit(decoder.graph)
    with pytest.raises(ModelError, match=words):
        receptive_field(decoder)


def test_weights_in_constant_nodes_are_measured_too() -> None:
    decoder = random_decoder([("conv", 5, 1), ("up", 2, 4)])
    expected = receptive_field(decoder)
    nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in decoder.graph.initializer]
    nodes += decoder.graph.node
    del decoder.graph.initializer[:], decoder.graph.node[:]
    decoder.graph.node.extend(nodes)
    assert receptive_field(decoder) == expected


# --- flow ---


def flow_reach(flow: Any, channels: int, frames: int = 40) -> int:
    """By experiment: how many frames away a frame of the prior changes the latent."""
    rng = np.random.default_rng(0)
    feed = {
        name: rng.standard_normal((1, channels, frames)).astype(np.float32)
        for name in (vits.MEAN, vits.LOG_SCALE, vits.PRIOR_NOISE)
    }
    feed |= {
        vits.MASK: np.ones((1, 1, frames), np.float32),
        vits.SPEAKER: rng.standard_normal((1, piper_maker.SPEAKER_CHANNELS, 1)).astype(np.float32),
        "scales": np.array([0.7, 1, 0.8], np.float32),
    }
    middle = frames // 2
    changed = {**feed, vits.MEAN: feed[vits.MEAN].copy()}
    changed[vits.MEAN][:, :, middle] += 1
    one, other = (run(flow, x)[vits.LATENT][0] for x in (feed, changed))
    touched = np.flatnonzero((one != other).any(axis=0))
    return int(max(middle - touched.min(), touched.max() - middle))


def test_the_flows_receptive_field_is_the_measured_one(parts: dict[str, Any]) -> None:
    flow = parts[vits.FLOW]
    assert receptive_field(flow, vits.in_time(flow)) == (flow_reach(flow, piper_maker.CHANNELS), 1)


def test_what_runs_in_time_is_known(shape: Shape, parts: dict[str, Any]) -> None:
    assert sorted(vits.in_time(parts[vits.FLOW])) == ["log_scale", "mask", "mean", "prior_noise"]
    flow = onnx.ModelProto()
    flow.CopyFrom(parts[vits.FLOW])
    flow.graph.input.append(helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]))
    with pytest.raises(ModelError, match="takes input_lengths"):
        vits.in_time(flow)


def flow_with(*nodes: Any, constants: dict[str, Any] | None = None) -> Any:
    """`mean` -> convolution of kernel 5 -> the nodes, which end in `latent`."""
    weights = [numpy_helper.from_array(np.ones((2, 2, 5), np.float32), "w")]
    weights += [numpy_helper.from_array(np.array(v), k) for k, v in (constants or {}).items()]
    conv = helper.make_node("Conv", ["mean", "w"], ["x"], pads=[2, 2])
    made = helper.make_tensor_value_info("latent", TensorProto.FLOAT, None)
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 2, "frames"])
    return helper.make_model(helper.make_graph([conv, *nodes], "flow", [mean], [made], weights))


ENDS = {"from": [0], "to": [1], "channels": [1], "time": [2], "both": [1, 2], "last": [-1]}


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Slice", ["x", "from", "to", "channels"], ["latent"])],
        [helper.make_node("Split", ["x"], ["latent", "rest"], axis=-2)],
        [
            helper.make_node("Split", ["x"], ["a", "b"], axis=1),
            helper.make_node("Concat", ["b", "a"], ["latent"], axis=1),
        ],
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("Exp", ["zeros"], ["ones"]),
            helper.make_node("Mul", ["x", "ones"], ["latent"]),
        ],
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "to"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("Add", ["x", "zeros"], ["latent"]),
        ],
    ],
    ids=["slice", "split", "flip", "zeros", "zeros of one size"],
)
def test_channels_may_be_parted_and_lengths_make_constants(nodes: list[Any]) -> None:
    assert receptive_field(flow_with(*nodes, constants=ENDS), ["mean"]) == (2, 1)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Slice", ["x", "from", "to", "time"], ["latent"])], "works along time"),
        ([helper.make_node("Slice", ["x", "from", "to", "last"], ["latent"])], "works along time"),
        ([helper.make_node("Slice", ["x", "from", "to", "both"], ["latent"])], "works along time"),
        ([helper.make_node("Slice", ["x", "from", "to"], ["latent"])], "works along time"),
        ([helper.make_node("Concat", ["x", "x"], ["latent"], axis=2)], "works along time"),
        ([helper.make_node("Split", ["x"], ["latent", "y"])], "works along time"),
        ([helper.make_node("MatMul", ["x", "x"], ["latent"])], "it has a MatMul layer"),
        (
            [
                helper.make_node("Shape", ["x"], ["shape"]),
                helper.make_node("Range", ["shape", "shape", "shape"], ["places"]),
                helper.make_node("Add", ["x", "places"], ["latent"]),
            ],
            "computes with lengths",
        ),
        ([helper.make_node("Identity", ["from"], ["latent"])], "does not depend on mean"),
    ],
)
def test_a_flow_whose_reach_is_unknown_is_refused(nodes: list[Any], words: str) -> None:
    with pytest.raises(ModelError, match="receptive field of the flow is unknown") as caught:
        receptive_field(flow_with(*nodes, constants=ENDS), ["mean"])
    assert words in str(caught.value)
