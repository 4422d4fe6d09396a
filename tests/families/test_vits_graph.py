from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from families import piper_maker
from families.piper_maker import Shape
from families.vits_runner import in_stages, run, session, with_noise_inputs
from vivace.core.errors import ModelError
from vivace.families import _vits_graph as vits

SHAPES = [
    Shape(speakers, stochastic, seed=7, nodes=nodes)
    for speakers, stochastic, nodes in itertools.product((1, 3), (True, False), (False, True))
]
TEXTS = [[1, 0, 9, 0, 12, 0, 2], [1, *range(4, 34), 2], [1, 8, 2]]


def request(ids: list[int], speakers: int, scales: tuple[float, float, float]) -> dict[str, np.ndarray]:
    feed = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array(scales, np.float32),
    }
    return feed | ({"sid": np.array([speakers - 1], np.int64)} if speakers > 1 else {})


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(scope="module")
def model(shape: Shape) -> Any:
    return piper_maker.model(shape)


@pytest.fixture(scope="module")
def parts(model: Any) -> dict[str, Any]:
    return vits.split(model)


# --- split ---


def test_the_stages_have_the_tensors_they_should(shape: Shape, parts: dict[str, Any]) -> None:
    signature = {
        name: ({i.name for i in part.graph.input}, {o.name for o in part.graph.output}) for name, part in parts.items()
    }
    sid, speaker = ({"sid"}, {"speaker"}) if shape.speakers > 1 else (set(), set())
    drawn = {"duration_noise"} if shape.stochastic else set()
    text = {"input", "input_lengths", "scales"} | sid | drawn
    assert signature == {
        "text": (text, {"mean", "log_scale", "mask"} | speaker),
        "flow": ({"mean", "log_scale", "mask", "prior_noise", "scales"} | speaker, {"latent"}),
        "decoder": ({"latent"} | speaker, {"output"}),
    }


def test_every_part_is_a_valid_model_that_draws_nothing(parts: dict[str, Any]) -> None:
    for part in parts.values():
        onnx.checker.check_model(part, full_check=True)
        assert not [node for node in part.graph.node if node.op_type.startswith("Random")]


@pytest.mark.parametrize("ids", TEXTS, ids=len)
@pytest.mark.parametrize("scales", [(0.0, 1.0, 0.0), (0.667, 1.0, 0.8), (1.0, 0.5, 0.3), (0.2, 2.5, 1.0)], ids=str)
def test_the_stages_in_a_row_are_the_whole(
    shape: Shape, model: Any, parts: dict[str, Any], ids: list[int], scales: tuple[float, float, float]
) -> None:
    feed = request(ids, shape.speakers, scales)
    cut = in_stages(parts, feed, seed=1)
    noises = [cut[vits.DURATION_NOISE], cut[vits.PRIOR_NOISE]][0 if shape.stochastic else 1 :]
    whole = run(with_noise_inputs(model), feed | {f"noise_{k}": noise for k, noise in enumerate(noises)})
    assert cut["output"].shape == whole["output"].shape
    assert np.abs(cut["output"] - whole["output"]).max() < 1e-6
    assert np.abs(whole["output"]).max() > 0.01


def test_splitting_leaves_the_model_alone(model: Any) -> None:
    before = model.SerializeToString()
    vits.split(model)
    assert model.SerializeToString() == before


def edited(edit: Any, shape: Shape = Shape()) -> Any:  # noqa: B008
    model = piper_maker.model(shape)
    edit(model.graph)
    return model


def retype(kind: str, to: str, which: slice = slice(None)) -> Any:
    """An edit that turns nodes of one kind into another."""

    def edit(graph: Any) -> None:
        for node in [n for n in graph.node if n.op_type == kind][which]:
            node.op_type = to
            del node.attribute[:]

    return edit


def more_noise(graph: Any) -> None:
    graph.node.append(helper.make_node("RandomNormalLike", ["output"], ["more"]))


def upsample_the_input(graph: Any) -> None:
    node = next(n for n in graph.node if n.op_type == "ConvTranspose")
    node.input[0] = "scales"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (retype("RandomNormalLike", "Identity"), "0 noise sources"),
        (more_noise, "3 noise sources"),
        (retype("ConvTranspose", "Conv"), "0 upsampling layers"),
        (retype("Exp", "Abs"), "not scaled by an exponential"),
        (upsample_the_input, "no convolution before"),
    ],
)
def test_another_kind_of_graph_is_told_why(edit: Any, words: str) -> None:
    with pytest.raises(ModelError, match="not a VITS voice") as caught:
        vits.split(edited(edit))
    assert words in str(caught.value)


def test_a_graph_without_frame_mask_is_refused() -> None:
    model = piper_maker.model()
    masked = next(n for n in model.graph.node if n.name == "/dec/conv_pre/Conv").input[0]
    mask = next(n for n in model.graph.node if n.output[0] == masked).input[1]
    ones = numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "ones")
    model.graph.initializer.append(ones)
    for node in model.graph.node:
        if node.op_type == "Mul" and not node.name.startswith("/enc_p"):
            for k, name in enumerate(node.input):
                if name == mask:
                    node.input[k] = "ones"
    with pytest.raises(ModelError, match="no mask"):
        vits.split(model)


# --- join ---


def test_joined_stages_are_the_model_again(shape: Shape, model: Any, parts: dict[str, Any]) -> None:
    joined = vits.join(parts, {"model_type": "vits"})
    onnx.checker.check_model(joined, full_check=True)
    assert [i.name for i in joined.graph.input] == [i.name for i in model.graph.input]
    assert [o.name for o in joined.graph.output] == ["output"]
    assert {p.key: p.value for p in joined.metadata_props} == {"model_type": "vits"}
    for ids in TEXTS:
        feed = request(ids, shape.speakers, (0.0, 1.0, 0.0))
        assert np.array_equal(run(joined, feed)["output"], run(model, feed)["output"])


def test_a_joined_model_draws_its_own_noise(shape: Shape, parts: dict[str, Any]) -> None:
    joined = vits.join(parts, {})
    drawn = [node for node in joined.graph.node if node.op_type == "RandomNormalLike"]
    assert len(drawn) == 1 + shape.stochastic
    feed = request(TEXTS[1], shape.speakers, (0.667, 1.0, 0.0))
    loaded = session(joined)
    one, other = (loaded.run(None, {i.name: feed[i.name] for i in loaded.get_inputs()})[0] for _ in range(2))
    assert one.shape == other.shape
    assert not np.array_equal(one, other)


def test_a_joined_model_splits_again(parts: dict[str, Any]) -> None:
    again = vits.split(vits.join(parts, {}))
    for name, part in parts.items():
        assert {i.name for i in again[name].graph.input} == {i.name for i in part.graph.input}
        assert len(again[name].graph.initializer) == len(part.graph.initializer)


def test_nodes_without_names_are_joined() -> None:
    model = piper_maker.model(Shape(seed=3, nodes=True))
    for node in model.graph.node:
        node.name = ""
    feed = request(TEXTS[0], 1, (0.0, 1.0, 0.0))
    assert np.array_equal(run(vits.join(vits.split(model), {}), feed)["output"], run(model, feed)["output"])


def test_stages_with_equal_names_for_different_things_are_kept_apart() -> None:
    """A pass names its new constants without looking at the other stages."""
    model = piper_maker.model(Shape(seed=3))
    parts = vits.split(model)
    for factor, name in ((0.5, vits.TEXT), (2.0, vits.DECODER)):
        graph = parts[name].graph
        scale = numpy_helper.from_array(np.array(factor, np.float32), "scale")
        graph.initializer.append(scale)
        last = next(node for node in graph.node if node.op_type in ("Tanh", "Relu"))
        inner = last.output[0]
        for node in graph.node:
            for k, used in enumerate(node.input):
                if used == inner:
                    node.input[k] = "scaled"
        place = list(graph.node).index(last) + 1
        graph.node.insert(place, helper.make_node("Mul", [inner, "scale"], ["scaled"]))
    feed = request(TEXTS[0], 1, (0.0, 1.0, 0.0))
    staged = in_stages(parts, feed, seed=0)
    assert np.array_equal(run(vits.join(parts, {}), feed)["output"], staged["output"])
    assert not np.array_equal(staged["output"], run(model, feed)["output"])


def test_stages_of_different_opsets_are_joined() -> None:
    model = piper_maker.model(Shape(seed=3))
    parts = vits.split(model)
    parts[vits.DECODER] = onnx.version_converter.convert_version(parts[vits.DECODER], 17)
    joined = vits.join(parts, {})
    assert [o.version for o in joined.opset_import] == [17]
    feed = request(TEXTS[0], 1, (0.0, 1.0, 0.0))
    assert np.array_equal(run(joined, feed)["output"], run(model, feed)["output"])
