from __future__ import annotations

import pytest

from vivace.workflows._bottlenecks import sentences
from vivace.workflows._ceiling import Ceiling
from vivace.workflows._macs import Work
from vivace.workflows._roofline import assess

ROOF = Ceiling({"fp32": 100.0, "int8": 400.0}, 20.0, 1)
MS = 1_000_000


def part(name, ms, work=None, whole=100.0):
    return {"name": name, "ms": ms, "share": ms / whole} | (assess(ms, whole, work, ROOF) if work else {})


def said(work, view=None):
    (sentence,) = sentences([part("decoder", 10.0, work)], {"decoder": view} if view else {}, ROOF)
    return sentence


def test_the_three_slowest_come_first_and_no_more():
    parts = [part("text to tokens", 30.0), part("text", 5.0), part("decoder", 60.0), part("engine", 10.0)]
    found = sentences(parts, {}, ROOF)
    assert [s.partition(":")[0] for s in found] == ["decoder", "text to tokens", "engine"]
    assert "60% of the time (60.0 ms)" in found[0]
    assert "text front end" in found[1]
    assert "between the stages" in found[2]


def test_near_the_peak_only_cheaper_arithmetic_helps():
    words = said(Work({"fp32": 800 * MS}, 1))
    assert "80% of this machine's fp32 peak" in words
    assert "only cheaper arithmetic (INT8, bf16) or fewer operations help" in words
    assert "its arithmetic in INT8 would make the whole 1.06x as fast" in words


def test_int8_near_its_peak_wants_fewer_operations():
    words = said(Work({"int8": 3200 * MS, "fp32": 100 * MS}, 1))
    assert "90% of this machine's int8 and fp32 peak, so only fewer operations help" in words


@pytest.mark.parametrize(("macs", "small"), [(400, False), (100, True)])
def test_below_the_peak_the_rest_is_named(macs, small):
    types = [
        {"op": "Conv", "share": 0.5, "calls": 3.0},
        {"op": "Add", "share": 0.3, "calls": 20.0},
        {"op": "LeakyRelu", "share": 0.2, "calls": 10.0},
    ]
    words = said(Work({"fp32": macs * MS}, 1), {"types": types})
    assert f"{macs / 10:.0f}% of this machine's fp32 peak" in words
    assert "50% of its time goes to operators that do not multiply (30 runs, most in Add and LeakyRelu)" in words
    assert ("fusing or dropping operators" in words) is small
    assert f"at that peak the whole would be {100 / (90 + macs / 100):.2f}x as fast" in words


def test_slow_products_are_not_blamed_on_small_operators():
    words = said(Work({"fp32": 100 * MS}, 1), {"types": [{"op": "Conv", "share": 1.0, "calls": 3.0}]})
    assert "only 10% of this machine's fp32 peak, so its operators run badly on this machine" in words


def test_operators_that_all_multiply_are_not_blamed():
    words = said(Work({"fp32": 400 * MS}, 1), {"types": [{"op": "Conv", "share": 1.0, "calls": 3.0}]})
    assert "do not multiply" not in words


def test_a_memory_bound_part_wants_less_data():
    words = said(Work({"fp32": 100 * MS}, 160 * MS))
    assert "80% of this machine's memory bandwidth at 0.6 MACs per byte" in words
    assert "faster arithmetic does not" in words


def decode(part_ms, growth, *, rises, takes):
    row = part("decode", part_ms, Work({"fp32": 100 * MS}, 160 * MS)) | {"calls": 5, "stage": "step"}
    known = {"ms_per_100_frames": growth, "rises": rises, "pass": takes}
    view = {"types": [{"op": "MatMul", "share": 0.9, "calls": 3.0}, {"op": "Add", "share": 0.1, "calls": 7.0}]}
    return sentences([row], {"step": view}, ROOF, known)[0]


def test_a_step_that_grows_wants_a_cache():
    words = decode(10.5, 0.9, rises=True, takes="kv_cache")
    assert words == "decode: 10% of the time (10.5 ms), 2.10 ms a step, grows by 0.90 ms every 100 frames: use kv_cache"


def test_a_step_that_grows_although_nothing_can_be_kept():
    words = decode(10.0, 12.34, rises=True, takes=None)
    assert "grows by 12.3 ms every 100 frames (each step attends to all before it); 80% of this machine's mem" in words


def test_a_step_that_does_not_grow_is_held_against_the_roof():
    words = decode(10.0, -0.001, rises=False, takes=None)
    assert "2.00 ms a step, grows by no more than 0.00 ms every 100 frames; 80% of this machine's memory" in words


def test_what_is_not_known_is_said():
    assert "no ONNX file" in sentences([part("decoder", 10.0)], {}, ROOF)[0]
    assert "80 GMAC/s in bf16, for which this machine's peak could not be measured" in said(Work({"bf16": 800 * MS}, 1))
