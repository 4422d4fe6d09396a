from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from passes.stage_maker import bundle_of, executed, load, model, rows, run, weights
from vivace.core.errors import UsageError
from vivace.core.settings import parse
from vivace.passes import weights_fp16
from vivace.passes.weights_fp16 import Settings, half


def stored(bundle, out, context, **settings: Any):
    return weights_fp16.apply(bundle, out, parse(Settings, settings, "weights_fp16"), context)


def test_half_the_bytes_and_almost_the_same_numbers(small, tmp_path, context):
    child = stored(small, tmp_path / "child", context)
    floats = 32 * 16 * 3 + 32 * 32 * 5 + 32 * 24 * 4 + 48 * 64 + 40 * 64
    assert 0.9 * 2 * floats < small.size - child.size <= 2 * floats
    for name in ("text", "decoder"):
        row = rows(name)[0]
        before, after = run(load(small, name), row), run(load(child, name), row)
        # fp16 has 11 bits: each weight is off by at most 2**-11 of itself, sums by less
        assert 0 < np.abs(before - after).max() < 2**-8 * np.abs(before).max()
        assert child.stage(name).precision == "fp32, fp16 weights"


def test_the_runtime_sees_constant_float_weights(small, tmp_path, context):
    child = stored(small, tmp_path / "child", context)
    for name in ("text", "decoder"):
        kinds = executed(load(child, name), tmp_path)
        assert "Cast" not in kinds
        assert kinds == executed(load(small, name), tmp_path)


def test_what_is_chosen(small, tmp_path, context):
    def halves(number: int, **settings: Any) -> list[str]:
        child = stored(small, tmp_path / str(number), context, **settings)
        return sorted(
            i.name
            for name in ("text", "decoder")
            for i in load(child, name).graph.initializer
            if i.name.endswith("/fp16")
        )

    assert halves(1) == ["w0/fp16", "w0/fp16", "w1/fp16", "w1/fp16", "w2/fp16"]
    assert halves(2, stages="decoder", include="/up/*") == ["w2/fp16"]
    assert halves(3, stages="decoder", exclude=["/up/*", "/pre/*"]) == ["w1/fp16"]
    assert halves(4, smallest=5000) == ["w1/fp16"]


def test_a_shared_weight_is_stored_only_if_all_its_readers_are_chosen(tmp_path, context):
    made = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="/one/MatMul"),
            helper.make_node("MatMul", ["a", "w"], ["y"], name="/two/MatMul"),
        ],
        {"w": weights(np.random.default_rng(0), 48, 48)},
        {"x": ["n", 48]},
        {"y": ["n", 48]},
    )
    parent = bundle_of({"text": made}, tmp_path / "parent")
    with pytest.raises(UsageError, match="stage text has no float32 weights that match"):
        stored(parent, tmp_path / "c", context, exclude="/two/*")
    child = load(stored(parent, tmp_path / "c", context), "text")
    assert [n.op_type for n in child.graph.node] == ["Cast", "MatMul", "MatMul"]


def test_constant_nodes_and_embedding_tables(tmp_path, context):
    rng = np.random.default_rng(1)
    table, weight = weights(rng, 40, 64), weights(rng, 64, 64)
    from onnx import TensorProto, numpy_helper

    made = model(
        [
            helper.make_node("Constant", [], ["w"], name="/Constant", value=numpy_helper.from_array(weight)),
            helper.make_node("Cast", ["x"], ["ids"], name="/Cast", to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "ids"], ["e"], name="/Gather"),
            helper.make_node("MatMul", ["e", "w"], ["y"], name="/MatMul"),
        ],
        {"table": table},
        {"x": ["n"]},
        {"y": ["n", 64]},
    )
    child = load(stored(bundle_of({"text": made}, tmp_path / "p"), tmp_path / "c", context), "text")
    assert sorted(i.name for i in child.graph.initializer) == ["table/fp16", "w/fp16"]
    ids = {"x": np.arange(40, dtype=np.float32)}
    assert np.abs(run(made, ids) - run(child, ids)).max() < 2**-8


def test_a_second_application_finds_nothing(small, tmp_path, context):
    child = stored(small, tmp_path / "child", context)
    with pytest.raises(UsageError, match="weights_fp16 would change nothing"):
        stored(child, tmp_path / "again", context)
    assert weights_fp16.accepts(child.stage("text"), Settings()) is None
    assert "no ONNX file" in weights_fp16.accepts(child.stage("postnet"), Settings())


def test_values_outside_the_range_saturate():
    from onnx import numpy_helper

    _, constants = half("w", np.array([[1e6, -1e6, 1.0]], np.float32), 0)
    assert numpy_helper.to_array(constants[0]).tolist() == [[65504.0, -65504.0, 1.0]]


def test_unknown_setting():
    with pytest.raises(UsageError, match="unknown setting 'smalest'; did you mean 'smallest'"):
        parse(Settings, {"smalest": 1}, "weights_fp16")
