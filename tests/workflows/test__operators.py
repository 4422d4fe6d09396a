from __future__ import annotations

import pytest

from vivace.workflows._macs import Work
from vivace.workflows._operators import TOP, trace, view


def run(at):
    return {"cat": "Session", "name": "model_run", "ts": at, "dur": 900}


def node(name, op, at, dur):
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": dur, "args": {"op_name": op}}


def test_time_by_type_and_by_node_without_the_warm_up():
    events = [
        node("a", "Conv", 10, 99_000),
        run(0),
        *(
            e
            for t in (1000, 2000)
            for e in (node("a_nchwc", "Conv", t + 1, 600), node("b_token_7", "Conv", t + 2, 200), run(t))
        ),
        node("c_token_1", "Add", 2003, 400),  # made by the runtime: nothing to find it under
        node("loop", "Loop", 2004, 5000),
        {"cat": "Node", "name": "a_fence_before", "ts": 2005, "dur": 7000, "args": {"op_name": "Conv"}},
    ]
    found = view(events, 2, 1, {"a": Work({"fp32": 3_000_000}), "b": Work()}, {"a_nchwc": "a"})
    assert found["ms"] == pytest.approx(1.0)
    assert [(k["op"], pytest.approx(k["ms"]), k["calls"]) for k in found["types"]] == [
        ("Conv", 0.8, 2.0),
        ("Add", 0.2, 0.5),
    ]
    assert sum(kind["share"] for kind in found["types"]) == pytest.approx(1.0)
    first, second, third = found["nodes"]
    assert (first["node"], first["macs"], first["gmacs_per_s"]) == ("a", 3_000_000, pytest.approx(5.0))
    assert (second["node"], second["macs"], second["gmacs_per_s"]) == ("b", 0, None)
    assert (third["node"], third["macs"]) == ("c_token_1", None)


def test_only_the_slowest_nodes_are_listed():
    events = [run(0), *(node(f"n{k}", "Conv", k + 1, k) for k in range(30))]
    nodes = view(events, 1, 0, {}, {})["nodes"]
    assert [n["node"] for n in nodes] == [f"n{k}" for k in range(29, 29 - TOP, -1)]


def test_a_trace_without_runs_is_empty():
    assert view([node("a", "Conv", 1, 1)], 1, 0, {}, {}) == {"ms": 0.0, "types": [], "nodes": []}


def test_a_sample_of_the_steps_stands_for_all(fast_steps):
    whole, sampled = (trace(fast_steps, 1, "some words.", {}, {}, every, runs=2) for every in ({}, {"step": 5}))
    assert list(whole) == list(sampled) == ["encoder", "step", "vocoder"]
    calls = [{kind["op"]: kind["calls"] for kind in found["step"]["types"]} for found in (whole, sampled)]
    assert calls[0] == pytest.approx(calls[1])
    assert calls[0]["MatMul"] % 48 == pytest.approx(0, abs=1e-6)  # of every step
