from __future__ import annotations

import logging
from typing import Any

import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

from passes.stage_maker import load, op_types, rows, run, snr
from vivace.core.errors import ModelError, UsageError
from vivace.core.settings import parse
from vivace.passes import int8_dynamic
from vivace.passes.int8_dynamic import Settings


def quantized(bundle, out, context, **settings: Any):
    return int8_dynamic.apply(bundle, out, parse(Settings, settings, "int8_dynamic"), context)


def test_the_default_is_the_usual_recipe(small, tmp_path, context):
    child = quantized(small, tmp_path / "child", context)
    for name in ("text", "decoder"):
        quantize_dynamic(small.file(f"stages/{name}.onnx"), tmp_path / "usual.onnx")
        usual = onnx.load(str(tmp_path / "usual.onnx"))
        mine = load(child, name)
        assert list(mine.graph.node) == list(usual.graph.node)
        assert {i.name: i.raw_data for i in mine.graph.initializer} == {
            i.name: i.raw_data for i in usual.graph.initializer
        }
    assert child.stage("text").precision == "int8"
    assert child.stage("decoder").precision == "mixed int8"  # the library leaves transposed convolutions alone


@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_stays_close_to_float_and_shrinks(small, tmp_path, context, weight_type, per_channel):
    child = quantized(small, tmp_path / "child", context, weight_type=weight_type, per_channel=per_channel)
    assert small.size - child.size > 2.5 * 6656
    for name in ("text", "decoder"):
        row = rows(name)[0]
        assert snr(run(load(small, name), row), run(load(child, name), row)) > 20


def test_patterns_operators_and_stages_choose(small, tmp_path, context):
    def kinds(number: int, stage: str, **settings: Any) -> list[str]:
        return op_types(load(quantized(small, tmp_path / str(number), context, **settings), stage))

    assert kinds(1, "decoder", stages="decoder", include="/block/*").count("ConvInteger") == 1
    assert kinds(2, "decoder", stages="decoder", exclude="/block/*").count("ConvInteger") == 1
    assert "ConvInteger" not in kinds(3, "decoder", op_types="MatMul")
    assert "MatMulInteger" in kinds(4, "text", op_types="MatMul")
    assert "MatMulInteger" not in kinds(5, "text", stages="decoder")


def test_a_second_application_changes_nothing(small, tmp_path, context):
    child = quantized(small, tmp_path / "child", context, stages="decoder")
    with pytest.raises(UsageError, match="no operator with constant weights that the library quantizes"):
        quantized(child, tmp_path / "again", context, stages="decoder")


def test_refusals(small, tmp_path, context):
    with pytest.raises(UsageError, match="stage text has no node that matches; stage decoder has no node"):
        quantized(small, tmp_path / "c", context, include="/nowhere/*")
    with pytest.raises(UsageError, match="unknown setting 'per_chanel'"):
        parse(Settings, {"per_chanel": True}, "int8_dynamic")
    with pytest.raises(UsageError, match="choose from int8, uint8"):
        parse(Settings, {"weight_type": "int4"}, "int8_dynamic")
    assert not (tmp_path / "c").exists()


def test_what_the_library_raises_is_told(small, tmp_path, context, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", fail)
    with pytest.raises(ModelError, match="quantize_dynamic fails on this stage: list index out of range"):
        quantized(small, tmp_path / "c", context)
    assert not (tmp_path / "c").exists()


def test_accepts(small):
    assert int8_dynamic.accepts(small.stage("text"), Settings()) is None
    assert "not among" in int8_dynamic.accepts(small.stage("text"), Settings(stages=("decoder",)))


def test_the_librarys_advice_is_not_repeated(small, tmp_path, context, caplog):
    with caplog.at_level(logging.WARNING):
        quantized(small, tmp_path / "child", context)
        assert caplog.records == []
        # The same call without us warns, also afterwards: the filter is gone.
        quantize_dynamic(small.file("stages/text.onnx"), tmp_path / "usual.onnx")
        assert caplog.records


def test_the_library_sets_no_logging_up(small, tmp_path, context, monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    quantized(small, tmp_path / "child", context)
    assert logging.root.handlers == []
    assert capsys.readouterr().err == ""
