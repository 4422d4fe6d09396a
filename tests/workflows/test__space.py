"""What a search may choose from, and the passes that a choice is written down as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from vivace.core import machine
from vivace.core.bundle import Bundle, write_bundle
from vivace.core.stage import Stage
from vivace.runtimes import openvino
from vivace.workflows import _space
from vivace.workflows._probe import Prober
from vivace.workflows._space import LAYOUTS, NATIVE, WEIGHTED, Choice, Part, Way, entry, parts, ways
from vivace.workflows.clips import Store

FAST = Way("openvino", "bf16", "2-D")
EXACT = Way(NATIVE, "fp32")
ONE, TWO = Part("flow", "one", ("/flow/1/*",), 0.5), Part("decoder", "two", ("/dec/2/*", "/dec/3"), 0.5)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, OpenVINO and bf16."""
    monkeypatch.setattr(openvino, "precisions", lambda: ("fp32", "bf16"))
    monkeypatch.setattr(machine, "cores", lambda: 2)


def layered(tmp_path: Path, *names: str, width: int = 4) -> Bundle:
    """A stage of convolutions with these names, each twice as wide as a MatMul would be."""
    nodes, constants, last = [], [], "x"
    for k, name in enumerate(names):
        constants.append(numpy_helper.from_array(np.ones((width, width, 1), np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"], name=name))
        last = f"c{k}"
    values = [helper.make_tensor_value_info(name, 1, [1, width, "n"]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "layered", values[:1], values[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    stage = Stage("decoder", "decoder.onnx")
    bundle = Bundle(tmp_path / "b", "b", "toy", 8000, (stage,))
    return write_bundle(bundle.path, bundle, lambda folder: onnx.save(made, str(folder / stage.file)))


def weighted(bundle: Bundle, stage: str) -> list[Any]:
    graph = onnx.load(str(bundle.file(bundle.stage(stage).file))).graph
    constant = {i.name for i in graph.initializer}
    return [n for n in graph.node if n.op_type in WEIGHTED and n.input[1] in constant]


def matching(part: Part, names: list[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in part.patterns)]


# --- parts ---


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_parts_share_the_weighted_layers_among_them(toy: Bundle, most: int) -> None:
    names = [n.name for n in weighted(toy, "decoder")]
    found = parts(toy, toy.stage("decoder"), most)
    assert len(found) == min(most, len(names))
    assert [name for part in found for name in matching(part, names)] == names  # each once, in the graph's order
    assert sum(part.share for part in found) == pytest.approx(1.0)


def test_the_smallest_neighbours_are_merged_first() -> None:
    groups = {"a": ({"a"}, 50.0), "b": ({"b"}, 1.0), "c": ({"c"}, 2.0), "d": ({"d"}, 47.0)}
    found = _space._merged("decoder", groups, 3)
    assert [p.name for p in found] == ["a", "b to c", "d"]
    assert [p.patterns for p in found] == [("a",), ("b", "c"), ("d",)]
    assert [p.share for p in found] == pytest.approx([0.5, 0.03, 0.47])
    assert [p.name for p in _space._merged("decoder", groups, 2)] == ["a", "b to d"]
    assert [p.name for p in _space._merged("decoder", groups, 1)] == ["a to d"]


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12), st.integers(-1, 12))
def test_merging_keeps_order_and_loses_nothing(works: list[float], most: int) -> None:
    groups = {str(k): ({str(k)}, work) for k, work in enumerate(works)}
    found = _space._merged("s", groups, most)
    assert len(found) == min(len(works), max(1, most))
    assert [p for part in found for p in part.patterns] == [str(k) for k in range(len(works))]


def test_layers_of_one_module_are_one_part(tmp_path: Path) -> None:
    bundle = layered(tmp_path, "/dec/ups.1/Conv", "/dec/ups.1/Conv_1", "/dec/ups.10/Conv", "/dec/post")
    found = parts(bundle, bundle.stage("decoder"), 8)
    assert [p.name for p in found] == ["dec/ups.1", "dec/ups.10", "/dec/post"]
    assert [p.patterns for p in found] == [("/dec/ups.1/*",), ("/dec/ups.10/*",), ("/dec/post",)]


@pytest.mark.parametrize(
    "names",
    [
        ("/dec/[0]/Conv", "/dec/0/Conv"),
        ("/dec/a*/Conv", "/dec/ab/Conv"),
        ("/d?c/a/Conv", "/dec/a/Conv"),
        ("[a]", "a"),
        ("*", "b"),
    ],
)
def test_patterns_match_the_layers_they_name_and_no_others(tmp_path: Path, names: tuple[str, str]) -> None:
    bundle = layered(tmp_path, *names)
    assert [matching(p, list(names)) for p in parts(bundle, bundle.stage("decoder"), 8)] == [[n] for n in names]


def test_a_path_with_and_without_its_first_slash_is_one_module(tmp_path: Path) -> None:
    bundle = layered(tmp_path, "a/b/c", "/a/b/c")
    assert [p.patterns for p in parts(bundle, bundle.stage("decoder"), 8)] == [("/a/b/*", "a/b/*")]


def test_a_layer_without_a_name_goes_by_its_output(tmp_path: Path) -> None:
    bundle = layered(tmp_path, "", "")
    assert [p.patterns for p in parts(bundle, bundle.stage("decoder"), 8)] == [("c0",), ("c1",)]


def test_upsampled_layers_weigh_more(toy: Bundle) -> None:
    """Two layers of about the same size: the one behind both upsamplings runs over ten times as many samples."""
    shares = {p.name: p.share for p in parts(toy, toy.stage("decoder"), 100)}
    assert shares["/resblocks.1/Conv"] > shares["/conv_pre/Conv"]


@pytest.mark.parametrize("layout", ["", "blocked", "split", "2-D"])
def test_every_part_is_quantized_in_every_layout(toy: Bundle, layout: str) -> None:
    """What a part names is what becomes INT8, also after the rewrite of its layers."""
    prober = Prober(toy, Store(None), ["one."], {"short": "one."}, ["one two three.", "four."], (1,))
    for part in parts(toy, toy.stage("decoder"), 3):
        choice = Choice({"decoder": Way(NATIVE, "fp32", layout)}, {part: "minmax"})
        if part.name.startswith("/ups") and layout in ("", "2-D"):
            continue  # upsampling layers have integer kernels only once they are rewritten
        with prober.built(choice.entries("speed")) as child:
            graph = onnx.load(str(child.file("stages/decoder.onnx"))).graph
        integer = {out for n in graph.node if n.op_type == "DequantizeLinear" for out in n.output}
        names = [n.name for n in graph.node if n.op_type in WEIGHTED and n.input[1] in integer]
        assert names
        assert matching(part, names) == names


# --- ways ---


def words(stage: Stage, objective: str = "latency", **more: Any) -> list[str]:
    return [str(way) for way in ways(stage, objective, **more)]


def test_a_stage_has_its_own_way_first_then_all_others(able: None) -> None:
    assert words(Stage("decoder", "a.onnx")) == [
        "onnxruntime fp32",
        "onnxruntime fp32 blocked",
        "onnxruntime fp32 split",
        "onnxruntime fp32 2-D",
        "openvino fp32",
        "openvino fp32 2-D",
        "openvino bf16",
        "openvino bf16 2-D",
    ]


def test_one_core_has_nothing_to_split_for(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert "onnxruntime fp32 split" not in words(Stage("decoder", "a.onnx"))


def test_what_must_load_elsewhere_or_keep_its_numbers_stays_in_the_native_runtime(able: None) -> None:
    stage = Stage("decoder", "a.onnx")
    native = ["onnxruntime fp32", *(f"onnxruntime fp32 {layout}" for layout in LAYOUTS)]
    assert words(stage, "size") == words(stage, fixed=True) == native


def test_a_file_that_another_runtime_does_not_read(able: None) -> None:
    assert not any("openvino" in way for way in words(Stage("decoder", "a.bin")))


def test_a_stage_that_is_elsewhere_already_stays_there(able: None) -> None:
    stage = Stage("decoder", "a.onnx", runtime="openvino", options={"precision": "bf16"})
    assert words(stage) == ["openvino bf16"]
    assert Choice({"decoder": ways(stage, "latency")[0]}).entries("speed") == ()


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(machine.HIDE, "avx512_bf16,amx_bf16")
    machine.describe.cache_clear()
    yield
    monkeypatch.undo()
    machine.describe.cache_clear()


def test_without_bf16_there_is_no_way_in_bf16(without_bf16: None) -> None:
    assert not any("bf16" in way for way in words(Stage("decoder", "a.onnx")))


# --- choices ---


def test_the_passes_come_in_order() -> None:
    before = (entry("graph_cleanup", {}, "speed"),)
    way = {"text": EXACT, "flow": Way(NATIVE, "fp32", "blocked"), "decoder": FAST, "post": replace(FAST, layout="")}
    choice = Choice(way, {ONE: "percentile", TWO: "minmax"}, "weights_int8")
    made = choice.entries("speed", before)
    assert [e.name for e in made] == [
        "graph_cleanup",
        "layout_conv2d",
        "layout_conv2d",
        "int8_static",
        "int8_static",
        "weights_int8",
        "place",
    ]
    blocked, plain, minmax, percentile, _, place = (e.settings for e in made[1:])
    assert (blocked.stages, blocked.blocked) == (("flow",), True)
    assert (plain.stages, plain.blocked, plain.polyphase) == (("decoder",), False, False)
    assert blocked.plain == plain.plain == ("/flow/1/*", "/dec/2/*", "/dec/3")
    assert (minmax.stages, minmax.include, minmax.method) == (("decoder",), ("/dec/2/*", "/dec/3"), "minmax")
    assert (percentile.stages, percentile.include) == (("flow",), ("/flow/1/*",))
    assert (percentile.method, percentile.percentile) == ("percentile", 99.99)
    assert (place.runtime, place.precision, place.stages) == ("openvino", "bf16", ("decoder", "post"))
    assert {e.objective for e in made} == {"speed"}


def test_stages_that_stay_where_they_are_need_no_pass() -> None:
    assert Choice({"text": EXACT, "flow": EXACT}).entries("speed") == ()


def test_each_place_is_a_pass_of_its_own() -> None:
    made = Choice({"text": Way("openvino", "fp32"), "flow": FAST, "decoder": FAST}).entries("speed")
    places = [(e.settings.precision, e.settings.stages) for e in made if e.name == "place"]
    assert places == [("fp32", ("text",)), ("bf16", ("flow", "decoder"))]


def test_words_say_everything_in_one_line() -> None:
    choice = Choice({"text": EXACT, "decoder": FAST}, {ONE: "minmax", TWO: "minmax"}, "weights_fp16")
    told = "text: onnxruntime fp32; decoder: openvino bf16 2-D; INT8 (minmax) in one, two; weights_fp16"
    assert choice.words() == told
    assert Choice({"text": EXACT}).words() == "text: onnxruntime fp32"
