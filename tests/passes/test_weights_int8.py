from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from passes.stage_maker import encoder, executed, load, rows, run, snr
from vivace.core.errors import UsageError
from vivace.core.settings import parse
from vivace.passes import _onnx, _storage, int8_static, weights_int8
from vivace.passes.weights_int8 import Settings, whole


def stored(bundle, out, context, **settings: Any):
    return weights_int8.apply(bundle, out, parse(Settings, settings, "weights_int8"), context)


def test_a_quarter_of_the_bytes_and_close_numbers(small, tmp_path, context):
    child = stored(small, tmp_path / "child", context)
    floats = 32 * 16 * 3 + 32 * 32 * 5 + 32 * 24 * 4 + 48 * 64 + 40 * 64
    assert 0.85 * 3 * floats < small.size - child.size <= 3 * floats
    for name in ("text", "decoder"):
        row = rows(name)[0]
        # 8 bits for a normal weight that peaks at about 3 sigma: some 43 dB for each layer
        assert 30 < snr(run(load(small, name), row), run(load(child, name), row)) < 60
        assert child.stage(name).precision == "fp32, int8 weights"


def test_the_runtime_computes_in_float(small, tmp_path, context):
    child = stored(small, tmp_path / "child", context)
    for name in ("text", "decoder"):
        assert executed(load(child, name), tmp_path) == executed(load(small, name), tmp_path)


def test_the_rest_of_a_partly_quantized_stage(small, tmp_path, context):
    """What int8_static left in float keeps computing in float, also beside quantized neighbours."""
    settings = parse(int8_static.Settings, {"include": ["/block/*", "/project/*"]}, "int8_static")
    mixed = int8_static.apply(small, tmp_path / "mixed", settings, context)
    child = stored(mixed, tmp_path / "child", context)
    assert child.stage("decoder").precision == "mixed int8, int8 weights"
    for name in ("text", "decoder"):
        assert executed(load(child, name), tmp_path) == executed(load(mixed, name), tmp_path)
        row = rows(name)[0]
        assert snr(run(load(small, name), row), run(load(child, name), row)) > 25


def test_choice_and_second_application(small, tmp_path, context):
    child = stored(small, tmp_path / "child", context, stages="text", exclude="/out/*")
    assert [i.name for i in load(child, "text").graph.initializer if i.data_type == 3] == ["w0/int8"]
    with pytest.raises(UsageError, match="stage text has no float32 weights that match"):
        stored(child, tmp_path / "again", context, stages="text", exclude="/out/*")
    assert "not among" in weights_int8.accepts(small.stage("decoder"), Settings(stages=("text",)))
    with pytest.raises(UsageError, match="it must be int"):
        parse(Settings, {"smallest": "few"}, "weights_int8")


def test_the_scale_runs_along_the_outputs():
    scales = {}

    def note(name, weight, axis):
        scales[name] = axis % weight.ndim
        return whole(name, weight, axis)

    made = encoder()
    assert _storage.narrow(made, (), (), 1024, note) is None
    assert scales == {"w0": 1, "w1": 0}  # MatMul (inputs, outputs), Gemm with transB (outputs, inputs)
    assert _onnx.precision(made) == "fp32, int8 weights"


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-1e3, 1e3, width=32)
    ),
    st.integers(0, 1),
)
def test_each_weight_is_off_by_half_a_step_of_its_channel(weight, axis):
    _, (integers, scale) = whole("w", weight, axis)
    q, s = numpy_helper.to_array(integers), numpy_helper.to_array(scale)
    assert q.dtype == np.int8
    assert np.all(np.abs(q * s - weight) <= 0.501 * s + 1e-12)
    peak = np.abs(weight).max(axis=tuple(k for k in range(weight.ndim) if k != axis), keepdims=True)
    assert np.all(s <= peak / 127 * 1.0001 + 1.1e-12)
