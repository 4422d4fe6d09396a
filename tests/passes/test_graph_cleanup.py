from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from passes.graph_maker import GraphMaker, copied, kinds, run
from passes.shape_maker import graphs, inputs
from passes.stage_maker import load
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError
from vivace.core.settings import parse
from vivace.core.stage import Stage
from vivace.passes import graph_cleanup
from vivace.passes.graph_cleanup import Settings, clean

X = {"x": np.random.default_rng(0).standard_normal((2, 4, 7)).astype(np.float32)}


def cleaned(model: Any, **settings: Any) -> Any:
    made = copied(model)
    clean(made, **settings)
    onnx.checker.check_model(made, full_check=True)
    return made


def maker() -> GraphMaker:
    return GraphMaker(x=["batch", 4, "frames"])


def left(g: GraphMaker, *outputs: str, given: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    """The operators that a clean-up leaves; the numbers must not have changed by a bit."""
    before = g.model(*outputs)
    after = cleaned(before, **settings)
    for a, b in zip(run(before, given or X), run(after, given or X), strict=True):
        np.testing.assert_array_equal(a, b)
    return kinds(after)


@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=graphs(), batch=st.integers(1, 3), frames=st.integers(1, 7), alone=st.booleans())
def test_not_a_bit_changes(model: Any, batch: int, frames: int, alone: bool) -> None:
    after = cleaned(model)
    assert len(after.graph.node) <= len(model.graph.node)
    x = inputs(batch, frames, 1 if alone else batch)
    for a, b in zip(run(model, x), run(after, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_time_changes_nothing() -> None:
    g = maker()
    heads = g.op("Concat", g.ints(2, 2, 2), g.op("Slice", g.op("Shape", "x"), g.ints(2), g.ints(3)), axis=0)
    once = cleaned(g.model(g.op("Neg", g.op("Reshape", "x", heads))))
    twice = copied(once)
    assert not clean(twice)
    assert twice == once


def test_reshape_to_computed_sizes_becomes_constant() -> None:
    def reshaped(*target: Any) -> Any:
        g = maker()
        shape = g.op("Shape", "x")
        part = {name: g.op("Slice", shape, g.ints(k), g.ints(k + 1)) for k, name in enumerate("bcf")}
        made = g.op("Concat", *(part[t] if isinstance(t, str) else g.ints(t) for t in target), axis=0)
        model = g.model(g.op("Neg", g.op("Reshape", "x", made)))
        after = cleaned(model)
        np.testing.assert_array_equal(run(model, X)[0], run(after, X)[0])
        (node,) = [n for n in after.graph.node if n.op_type == "Reshape"]
        constants = {i.name: numpy_helper.to_array(i).tolist() for i in after.graph.initializer}
        return constants.get(node.input[1])

    assert reshaped("b", 2, 2, "f") == [0, 2, 2, -1]
    assert reshaped("b", 2, -1, "f") == [0, 2, 2, -1]
    assert reshaped("b", -1) == [0, -1]
    assert reshaped("f", "b", 4) is None  # two sizes that nothing but the run tells


def test_what_does_nothing_goes() -> None:
    def alone(kind: str, *given: Any, **attributes: Any) -> list[str]:
        g = maker()
        return left(g, g.op("Neg", g.op(kind, "x", *given, **attributes)))

    frames = 2**62
    assert alone("Identity") == ["Neg"]
    assert alone("Concat", axis=1) == ["Neg"]
    assert alone("Cast", to=TensorProto.FLOAT) == ["Neg"]
    assert alone("Transpose", perm=[0, 1, 2]) == ["Neg"]
    assert alone("Pad", np.zeros(6, np.int64)) == ["Neg"]
    assert alone("Slice", np.array([0]), np.array([frames]), np.array([2])) == ["Neg"]
    assert alone("Slice", np.array([0]), np.array([frames]), np.array([2]), np.array([2])) == ["Slice", "Neg"]
    assert alone("Slice", np.array([0]), np.array([-1]), np.array([2])) == ["Slice", "Neg"]
    for kind, number in (("Add", 0), ("Sub", 0), ("Mul", 1), ("Div", 1), ("Pow", 1)):
        assert alone(kind, np.full(1, number, np.float32)) == ["Neg"]
        assert alone(kind, np.full((3, 1, 1, 1), number, np.float32)) == [kind, "Neg"]  # it adds a dimension
        assert alone(kind, np.full(1, 2, np.float32)) == [kind, "Neg"]


def test_zeros_made_for_the_shape_of_another_tensor() -> None:
    g = maker()
    weight = np.random.default_rng(1).standard_normal((4, 4, 3)).astype(np.float32)
    y = g.op("Conv", "x", weight, pads=[1, 1])
    zeros = g.op("ConstantOfShape", g.op("Shape", y))
    y = g.op("Mul", g.op("Add", y, zeros), g.op("Exp", g.op("Neg", zeros)))
    assert left(g, g.op("Sub", "x", y)) == ["Conv", "Sub"]


def test_equal_computations_are_done_once() -> None:
    g = maker()
    pair = [g.op("Tanh", "x") for _ in range(2)]
    shapes = [g.op("Gather", g.op("Shape", t), np.int64(2), axis=0) for t in ("x", *pair)]
    ranges = [g.op("Cast", g.op("Range", np.int64(0), s, np.int64(1)), to=TensorProto.FLOAT) for s in shapes]
    found = left(g, g.op("Add", g.op("Mul", pair[0], ranges[0]), g.op("Mul", pair[1], g.op("Neg", ranges[2]))))
    assert sorted(found) == ["Add", "Cast", "Gather", "Mul", "Mul", "Neg", "Range", "Shape", "Tanh"]


def test_random_numbers_are_drawn_as_often_as_before() -> None:
    g = maker()
    noise = [g.op("RandomNormalLike", "x") for _ in range(2)]
    assert kinds(cleaned(g.model(g.op("Sub", *noise)))) == ["RandomNormalLike", "RandomNormalLike", "Sub"]


def test_chains_of_transpositions_and_casts() -> None:
    g = maker()
    y = g.op("Transpose", g.op("Transpose", "x", perm=[0, 2, 1]), perm=[2, 1, 0])
    assert left(g, g.op("Neg", y)) == ["Transpose", "Neg"]
    g = maker()
    y = g.op("Transpose", g.op("Transpose", "x", perm=[0, 2, 1]), perm=[0, 2, 1])
    assert left(g, g.op("Neg", y)) == ["Neg"]
    g = maker()
    y = g.op("Cast", g.op("Greater", "x", np.float32(0)), to=TensorProto.INT64)
    assert left(g, g.op("Neg", g.op("Cast", y, to=TensorProto.FLOAT))) == ["Greater", "Cast", "Neg"]
    g = maker()
    y = g.op("Cast", "x", to=TensorProto.INT64)  # which cuts the fraction off
    assert left(g, g.op("Neg", g.op("Cast", y, to=TensorProto.FLOAT))) == ["Cast", "Cast", "Neg"]


def test_padding_moves_into_the_convolution() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 4, 3)).astype(np.float32)

    def padded(around: list[int], *fill: Any, mode: str = "constant", **given: Any) -> list[str]:
        g = maker()
        return left(g, g.op("Conv", g.op("Pad", "x", np.array(around), *fill, mode=mode), weight, **given))

    assert padded([0, 0, 1, 0, 0, 3]) == ["Conv"]
    assert padded([0, 0, 1, 0, 0, 3], np.float32(0), pads=[2, 1]) == ["Conv"]
    assert padded([0, 0, 1, 0, 0, 0], np.float32(1)) == ["Pad", "Conv"]
    assert padded([0, 0, 1, 0, 0, 0], mode="reflect") == ["Pad", "Conv"]
    assert padded([0, 0, -1, 0, 0, 0]) == ["Pad", "Conv"]
    assert padded([1, 0, 0, 0, 0, 1]) == ["Pad", "Conv"]
    assert padded([0, 0, 1, 0, 0, 1], auto_pad="SAME_UPPER") == ["Pad", "Conv"]


def test_columns_written_by_index_grids_are_concatenated() -> None:
    def written(column: int, *, last: bool = False) -> list[str]:
        g = GraphMaker(x=["rows", 5])
        shape = g.op("Shape", "x")
        rows = g.op("Range", np.int64(0), g.op("Gather", shape, np.int64(0), axis=0), np.int64(1))
        rows = g.op("Reshape", rows, g.ints(-1, 1))
        at: Any = np.array([column])
        if last:
            at = g.op("Unsqueeze", g.op("Sub", g.op("Gather", shape, np.int64(1), axis=0), np.int64(1)), g.ints(0))
        grid = g.op("Shape", g.op("Add", rows, at))
        parts = [g.op("Unsqueeze", g.op("Expand", p, grid), g.ints(-1)) for p in (rows, at)]
        value = g.op("Expand", np.full(1, 0.25, np.float32), grid)
        y = g.op("ScatterND", "x", g.op("Concat", *parts, axis=-1), value)
        return left(g, g.op("Neg", y), given={"x": np.arange(15, dtype=np.float32).reshape(3, 5)})

    assert "ScatterND" not in written(0)
    assert written(0).count("Slice") == 1
    assert "ScatterND" not in written(2)
    assert "ScatterND" not in written(0, last=True)


def test_a_scatter_that_is_no_column_stays() -> None:
    g = GraphMaker(x=["rows", 5])
    index = np.array([[0, 1], [1, 3]])
    given = {"x": np.zeros((2, 5), np.float32)}
    assert left(g, g.op("ScatterND", "x", index, np.ones(2, np.float32)), given=given) == ["ScatterND"]


def normalized(g: GraphMaker, power: float = 2, axis: int = -1, size: int = 7) -> str:
    centred = g.op("Sub", "x", g.op("ReduceMean", "x", axes=[axis]))
    variance = g.op("ReduceMean", g.op("Pow", centred, np.float32(power)), axes=[axis])
    y = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, np.float32(1e-5))))
    rng = np.random.default_rng(1)
    scale, shift = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    return str(g.op("Add", shift, g.op("Mul", y, scale)))


def test_layer_normalization_becomes_one_operator() -> None:
    g = GraphMaker(x=["batch", 4, 7])
    before = g.model(normalized(g))
    after = cleaned(before)
    assert kinds(after) == ["LayerNormalization"]
    assert after.opset_import[0].version == 17
    np.testing.assert_allclose(run(before, X)[0], run(after, X)[0], atol=1e-6)
    untouched = cleaned(before, norms=False)
    assert "LayerNormalization" not in kinds(untouched)
    assert untouched.opset_import[0].version == 15


@pytest.mark.parametrize("other", [{"power": 4}, {"axis": 1}, {"size": 1}], ids=str)
def test_what_only_looks_like_layer_normalization_stays(other: dict[str, Any]) -> None:
    g = GraphMaker(x=["batch", 4, 7])
    before = g.model(normalized(g, **other))
    after = cleaned(before)
    assert "LayerNormalization" not in kinds(after)
    np.testing.assert_array_equal(run(before, X)[0], run(after, X)[0])


def test_constants_are_folded_shared_and_dropped() -> None:
    g = maker()
    scale = g.op("Exp", np.linspace(0, 1, 4).reshape(4, 1).astype(np.float32))
    g.constant(np.zeros(1000, np.float32))  # nobody reads it
    y = g.op("Mul", g.op("Mul", "x", scale), np.full(3, 0.5, np.float32)[:1])
    y = g.op("Mul", y, np.full(1, 0.5, np.float32))
    y = g.op("Add", y, g.op("Constant", value=numpy_helper.from_array(np.full(1, 0.5, np.float32))))
    before = g.model(y)
    after = cleaned(before)
    assert kinds(after) == ["Mul", "Mul", "Mul", "Add"]
    assert len(after.graph.initializer) == 2
    np.testing.assert_array_equal(run(before, X)[0], run(after, X)[0])


def test_narrow_weights_and_what_would_grow_stay() -> None:
    g = maker()
    half = g.op("Cast", np.ones((4, 1), np.float16), to=TensorProto.FLOAT)
    tiled = g.op("Tile", np.ones((1, 1), np.float32), g.ints(4, 5000))
    y = g.op("Add", g.op("Mul", "x", half), g.op("ReduceSum", tiled, g.ints(0, 1)))
    after = cleaned(g.model(y, tiled))
    assert "Cast" in kinds(after)
    assert "Tile" in kinds(after)  # its result is an output too


def test_outputs_and_subgraphs_keep_their_tensors() -> None:
    g = GraphMaker(x=["batch", 4, "frames"], which=("bool", []))
    same = g.op("Identity", "x")
    inner = g.op("Identity", "x")
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = [helper.make_graph([helper.make_node(k, [inner], ["inner"])], k, [], [out]) for k in ("Abs", "Neg")]
    y = g.op("If", "which", then_branch=branches[0], else_branch=branches[1])
    given = X | {"which": np.array(True)}
    assert left(g, same, y, given=given) == ["Identity", "Identity", "If"]


def test_a_constant_part_that_fails_is_told() -> None:
    g = maker()
    bad = g.op("Reshape", np.zeros(4, np.float32), g.ints(3))
    model = g._model([helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], 15)
    model.graph.node.append(helper.make_node("Add", ["x", bad], ["y"]))
    with pytest.raises(ModelError, match="cannot be computed"):
        clean(model)


def test_the_pass_writes_a_child(small: Bundle, tmp_path: Path, context: Context) -> None:
    model = load(small, "decoder")
    model.graph.node.insert(0, helper.make_node("Identity", ["x"], ["same"], name="/Identity"))
    model.graph.node[1].input[0] = "same"
    parent = small.derive(tmp_path / "p", None, lambda f: onnx.save(model, str(f / small.stage("decoder").file)))
    child = graph_cleanup.apply(parent, tmp_path / "child", parse(Settings, {}, "graph_cleanup"), context)
    assert open_bundle(tmp_path / "child").digest == child.digest
    assert kinds(load(child, "decoder")) == kinds(load(small, "decoder"))
    assert child.history[-1].name == "graph_cleanup"
    with pytest.raises(UsageError, match="stage decoder has nothing to clean up"):
        graph_cleanup.apply(child, tmp_path / "again", Settings(), context)


def test_accepts() -> None:
    assert graph_cleanup.accepts(Stage("decoder", "d.onnx"), Settings()) is None
    assert "no ONNX file" in str(graph_cleanup.accepts(Stage("vocoder", "v.xml"), Settings()))


@pytest.mark.voice
@pytest.mark.parametrize("phonemes", [1, 3, 5, 40])
def test_the_real_text_stage_gives_the_same_bits(real_voice: Bundle, phonemes: int) -> None:
    before = load(real_voice, "text")
    after = cleaned(before, norms=False)
    assert len(after.graph.node) < 0.6 * len(before.graph.node)
    rng = np.random.default_rng(phonemes)
    given = {
        "input": rng.integers(3, 100, (2, phonemes)),
        "input_lengths": np.array([phonemes, max(1, phonemes - 2)]),
        "scales": np.array([0.667, 1, 0.8], np.float32),
        "duration_noise": 3 * rng.standard_normal((2, 2, phonemes)).astype(np.float32),
    }
    for a, b in zip(run(before, given), run(after, given), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.voice
def test_the_real_flow_gives_the_same_bits(real_voice: Bundle) -> None:
    before = load(real_voice, "flow")
    after = cleaned(before)
    assert len(after.graph.node) < 0.8 * len(before.graph.node)
    rng = np.random.default_rng(0)
    given = {
        name: rng.standard_normal((1, 192, 30)).astype(np.float32) for name in ("mean", "log_scale", "prior_noise")
    }
    given |= {"mask": np.ones((1, 1, 30), np.float32), "scales": np.array([0.667, 1, 0.8], np.float32)}
    np.testing.assert_array_equal(run(before, given)[0], run(after, given)[0])


@pytest.mark.voice
def test_the_real_voice_with_norms(real_voice: Bundle) -> None:
    before = load(real_voice, "text")
    after = cleaned(before)
    assert len(after.graph.node) < 0.5 * len(before.graph.node)
    rng = np.random.default_rng(0)
    given = {
        "input": rng.integers(3, 100, (1, 40)),
        "input_lengths": np.array([40]),
        "scales": np.array([0.667, 1, 0.8], np.float32),
        "duration_noise": rng.standard_normal((1, 2, 40)).astype(np.float32),
    }
    for a, b in zip(run(before, given), run(after, given), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
