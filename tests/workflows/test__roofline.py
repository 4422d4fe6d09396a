from __future__ import annotations

import pytest

from vivace.workflows._ceiling import Ceiling
from vivace.workflows._macs import Work
from vivace.workflows._roofline import assess, whole

ROOF = Ceiling({"fp32": 100.0, "int8": 400.0}, 20.0, 1)  # GMAC/s, GB/s: the ridge lies at 5 MACs per byte
MS = 1_000_000


def test_a_part_bound_by_arithmetic():
    found = assess(10.0, 20.0, Work({"fp32": 500 * MS}, 10 * MS, 30 * MS), ROOF)
    assert found["gmacs_per_s"] == pytest.approx(50)
    assert found["bound"] == "compute"
    assert found["compute_share"] == found["ceiling_share"] == pytest.approx(0.5)
    assert found["memory_share"] == pytest.approx(0.2)
    assert found["intensity"] == pytest.approx(12.5)
    assert found["gain_at_ceiling"] == pytest.approx(20 / 15)
    assert found["floor_ms"] == pytest.approx(5.0)
    assert found["gain_if_free"] == pytest.approx(2.0)
    assert found["gain_in_int8"] == pytest.approx(20 / (20 - 5 + 1.25))


def test_a_part_bound_by_memory():
    found = assess(10.0, 10.0, Work({"fp32": 100 * MS}, 160 * MS, 0), ROOF)
    assert found["bound"] == "memory"
    assert found["ceiling_share"] == pytest.approx(0.8)
    assert found["gain_at_ceiling"] == pytest.approx(1.25)
    assert found["gain_if_free"] is None  # nothing would be left


def test_bytes_that_cannot_all_have_come_from_memory_do_not_limit():
    found = assess(10.0, 10.0, Work({"fp32": 100 * MS}, 400 * MS, 0), ROOF)
    assert found["cached"]
    assert found["bound"] == "compute"
    assert found["ceiling_share"] == pytest.approx(0.1)


def test_mixed_precision_has_a_roof_in_between():
    found = assess(10.0, 10.0, Work({"fp32": 200 * MS, "int8": 800 * MS}, 1 * MS, 0), ROOF)
    assert found["ceiling_share"] == pytest.approx(0.4)
    assert found["roof_gmacs_per_s"] == pytest.approx(250)


def test_all_int8_has_nothing_to_gain_in_int8():
    assert "gain_in_int8" not in assess(10.0, 10.0, Work({"int8": 800 * MS}, 1, 0), ROOF)


def test_a_precision_without_a_roof_has_no_share():
    found = assess(10.0, 10.0, Work({"bf16": 800 * MS}, 1, 0), ROOF)
    assert found["bound"] is found["floor_ms"] is found["ceiling_share"] is found["gain_at_ceiling"] is None


def test_a_part_without_arithmetic():
    found = assess(10.0, 20.0, Work({}, 0, 100 * MS), ROOF)
    assert found["bound"] == "memory"
    assert found["roof_gmacs_per_s"] is None
    assert found["intensity"] == 0
    assert assess(10.0, 20.0, Work(), ROOF)["intensity"] is None


def stage(ms, macs, whole_ms=20.0):
    return {"kind": "stage", "ms": ms} | assess(ms, whole_ms, Work(macs, 1), ROOF)


GLUE = {"kind": "engine", "ms": 5.0}


def test_the_whole_has_the_floors_of_its_stages_each_in_its_precision():
    parts = [stage(10.0, {"fp32": 500 * MS}), stage(5.0, {"int8": 400 * MS}), GLUE]
    found = whole(parts)
    assert found == {
        "ms": 20.0,
        "floor_ms": pytest.approx(5.0 + 1.0),
        "ceiling_share": pytest.approx(0.3),
        "gain_at_ceiling": pytest.approx(20 / (5 + 1 + 5)),  # what is no stage takes as long as now
    }


def test_a_stage_above_its_roof_leaves_nothing_to_gain_and_lends_nothing_to_others():
    found = whole([stage(10.0, {"fp32": 1500 * MS}), {"kind": "engine", "ms": 10.0}])
    assert (found["floor_ms"], found["ceiling_share"], found["gain_at_ceiling"]) == (10.0, 0.5, 1.0)


@pytest.mark.parametrize("unknown", [stage(10.0, {"bf16": 1 * MS}), {"kind": "stage", "ms": 10.0}])
def test_a_whole_with_a_stage_of_unknown_floor_has_none(unknown):
    found = whole([stage(10.0, {"fp32": 500 * MS}), unknown])
    assert found == {"ms": 20.0, "floor_ms": None, "ceiling_share": None, "gain_at_ceiling": None}


def test_a_stage_that_never_ran_takes_nothing():
    assert whole([stage(10.0, {"fp32": 500 * MS}), {"kind": "stage", "ms": 0.0}])["floor_ms"] == pytest.approx(5.0)
