from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from vivace.core.errors import ModelError
from vivace.core.machine import cache_folder
from vivace.runtimes import openvino
from vivace.workflows import _ceiling
from vivace.workflows._ceiling import Ceiling, ceiling, measure, product

MADE = Ceiling({"fp32": 50.0, "int8": 200.0}, 20.0, 1)


@pytest.fixture
def offered(monkeypatch):
    """`offered(("fp32", "bf16"))`: from here on OpenVINO seems to compute in these; () means it is not installed."""
    return lambda precisions: monkeypatch.setattr(openvino, "precisions", lambda: precisions)


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measuring; holds the thread counts that were asked for."""
    asked = []

    def fake(threads):
        asked.append(threads)
        return Ceiling(MADE.gmacs, MADE.gbytes, threads)

    monkeypatch.setattr(_ceiling, "measure", fake)
    return asked


def test_it_is_measured_once_and_then_kept(tmp_path, measured):
    assert ceiling(1, tmp_path) == MADE
    assert ceiling(1, tmp_path) == MADE
    assert measured == [1]
    assert ceiling(1, tmp_path, fresh=True) == MADE
    assert measured == [1, 1]


def test_a_fresh_one_never_falls_below_the_kept_one(tmp_path, monkeypatch):
    rounds = iter([Ceiling({"fp32": 50.0, "int8": 90.0}, 20.0, 1), Ceiling({"fp32": 40.0, "bf16": 70.0}, 30.0, 1)])
    monkeypatch.setattr(_ceiling, "measure", lambda threads: next(rounds))
    ceiling(1, tmp_path)
    highest = Ceiling({"fp32": 50.0, "bf16": 70.0, "int8": 90.0}, 30.0, 1)
    assert ceiling(1, tmp_path, fresh=True) == highest
    assert ceiling(1, tmp_path) == highest


def test_the_best_round_counts(monkeypatch):
    rounds = iter([Ceiling({"fp32": rate}, 10.0 - rate, 1) for rate in (1.0, 3.0, 2.0)])
    monkeypatch.setattr(_ceiling, "_round", lambda threads: next(rounds))
    assert measure(1) == Ceiling({"fp32": 3.0}, 9.0, 1)


def test_each_thread_count_has_its_own(tmp_path, measured):
    assert ceiling(1, tmp_path).threads == 1
    assert ceiling(2, tmp_path).threads == 2
    assert ceiling(1, tmp_path).threads == 1
    assert measured == [1, 2]


def test_another_machine_or_runtime_has_its_own(tmp_path, measured, offered, monkeypatch):
    offered(("fp32",))
    facts = {"cpu": "a", "flags": ["avx2"], "cores": 1, "packages": {"onnxruntime": "1"}}
    for changed in (
        {},
        {"cpu": "another"},
        {"flags": ["avx2", "avx512_bf16"]},
        {"cores": 2},
        {"packages": {"onnxruntime": "2"}},
        {"packages": {"onnxruntime": "1", "openvino": "1"}},
    ):
        monkeypatch.setattr(_ceiling.machine, "describe", lambda found=facts | changed: found)
        ceiling(1, tmp_path)
        ceiling(1, tmp_path)
    assert len(measured) == 6


def test_what_a_runtime_computes_in_is_part_of_the_key(tmp_path, measured, offered):
    for precisions in ((), ("fp32",), ("fp32", "bf16")):
        offered(precisions)
        ceiling(1, tmp_path)
    assert len(measured) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: "not json",
        lambda data: "[]",
        lambda data: "{}",
        lambda data: json.dumps(data | {"gbytes": float("nan")}),
        lambda data: json.dumps(data | {"gbytes": -1.0}),
        lambda data: json.dumps(data | {"gmacs": {"int8": 5.0}}),
        lambda data: json.dumps(data | {"gmacs": {"fp32": 0.0}}),
        lambda data: json.dumps(data | {"gmacs": [1.0]}),
        lambda data: json.dumps(data | {"key": {"cpu": "another"}}),
    ],
)
def test_a_damaged_file_is_measured_anew_and_replaced(tmp_path, measured, damage):
    ceiling(1, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage(json.loads(file.read_text(encoding="utf-8"))), encoding="utf-8")
    assert ceiling(1, tmp_path) == MADE
    assert ceiling(1, tmp_path) == MADE
    assert measured == [1, 1]


def test_a_folder_that_cannot_be_written_is_told_and_does_not_stop(tmp_path, measured):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    told = []
    assert ceiling(1, tmp_path / "file", progress=lambda message, share: told.append(message)) == MADE
    assert "cannot write" in told[-1]


def test_the_cache_is_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vivace"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/do/not/count")
    assert cache_folder() == Path.home() / ".cache" / "vivace"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vivace"


def test_measuring_gives_all_roofs(monkeypatch):
    monkeypatch.setattr(_ceiling, "SECONDS", 0.0)
    monkeypatch.setattr(_ceiling, "SIZES", (32, 64))
    monkeypatch.setattr(_ceiling, "ARRAY_BYTES", (1 << 16, 1 << 20))
    found = measure(2)
    assert {"fp32", "int8"} <= set(found.gmacs) <= {"fp32", "bf16", "int8"}
    assert min(found.gmacs.values()) > 0
    assert found.gbytes > 0
    assert found.ridge() == found.gmacs["fp32"] / found.gbytes


def test_the_faster_runtime_sets_each_roof_and_who_lacks_a_precision_sets_none(monkeypatch, offered):
    rates = {
        ("onnxruntime", "fp32"): 50.0,
        ("onnxruntime", "int8"): 200.0,
        ("openvino", "fp32"): 60.0,
        ("openvino", "bf16"): 100.0,
    }

    def rate(runtime, precision, size, threads):
        if (runtime, precision) not in rates:
            raise ModelError("not implemented")
        return rates[runtime, precision]

    monkeypatch.setattr(_ceiling, "_product_rate", rate)
    monkeypatch.setattr(_ceiling, "_bandwidth", lambda threads: 1.0)
    offered(("fp32", "bf16"))
    assert measure(1).gmacs == {"fp32": 60.0, "bf16": 100.0, "int8": 200.0}
    offered(("fp32",))
    assert measure(1).gmacs == {"fp32": 60.0, "int8": 200.0}
    offered(())
    assert measure(1).gmacs == {"fp32": 50.0, "int8": 200.0}
    del rates["onnxruntime", "int8"]
    assert measure(1).gmacs == {"fp32": 50.0}
    del rates["onnxruntime", "fp32"]
    with pytest.raises(ModelError):
        measure(1)


@pytest.mark.skipif("bf16" not in openvino.precisions(), reason="this processor has no bf16, or OpenVINO is missing")
def test_the_bf16_roof_is_that_of_products_in_bf16(monkeypatch):
    opened = []
    monkeypatch.setattr(_ceiling, "SECONDS", 0.0)
    real = openvino.open
    monkeypatch.setattr(openvino, "open", lambda *given: opened.append(given[0].options) or real(*given))
    assert _ceiling._product_rate("openvino", "bf16", 64, 1) > 0
    assert opened == [{"precision": "bf16"}]


@pytest.mark.parametrize("precision", _ceiling.PRECISIONS)
def test_the_products_are_valid_models(precision):
    onnx.checker.check_model(onnx.load_from_string(product(precision, 16)), full_check=True)


def test_the_fastest_run_counts(monkeypatch):
    ticks = iter([0.0, 0.0, 5.0, 5.0, 6.0, 6.0, 9.0, 9.5, 11.0])
    monkeypatch.setattr(_ceiling.time, "perf_counter", lambda: next(ticks))
    assert _ceiling._fastest(lambda: None) == 1.0
