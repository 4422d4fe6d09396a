from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from onnx import helper

from vivace.core.errors import UsageError, VivaceError
from vivace.core.report import Report
from vivace.runtimes import openvino
from vivace.workflows import profile as workflow
from vivace.workflows._ceiling import Ceiling
from vivace.workflows._macs import Work
from vivace.workflows.profile import profile

TEXTS = {"long": "a longer text of two. sentences.", "medium": "medium.", "short": "s."}
ROOF = Ceiling({"fp32": 1e6, "int8": 4e6}, 1e6, 1)


@pytest.fixture
def fast(monkeypatch):
    """Neither the machine nor a child process is measured."""
    monkeypatch.setattr(workflow, "ceiling", lambda threads, cache, **_: ROOF)
    monkeypatch.setattr(workflow, "peak_memory", lambda bundle, text, threads: (50.0, 60.0))


@pytest.fixture
def report(tiny, fast):
    return profile(tiny, texts=TEXTS, batches=(2, 1), runs=6)


def test_the_report_is_plain_json_and_comes_back_equal(report):
    again = Report.from_json(report.to_json())
    assert again.kind == "profile"
    assert again.measurements == report.measurements
    assert json.loads(json.dumps(report.details)) == again.details


def test_the_parts_add_up_to_the_whole(report):
    parts = report.details["parts"]
    assert [p["name"] for p in parts] == ["text to tokens", "text", "decoder", "engine"]
    assert sum(p["share"] for p in parts) == pytest.approx(1.0)
    assert all(p["low"] <= p["ms"] <= p["high"] for p in parts)


def test_the_operations_are_those_of_the_middle_text(report):
    letters = len("medium")
    text, decoder = report.details["parts"][1:3]
    assert text["macs"] == letters * 64 * 8
    assert decoder["macs"] == letters * 3 * (8 * 8 * 3 + 8 * 16)
    assert decoder["macs_by_precision"] == {"fp32": decoder["macs"]}
    assert decoder["weight_bytes"] == 4 * (8 * 8 * 3 + 8 * 16)
    seconds = letters * 3 * 16 / 8000
    assert decoder["macs_per_audio_second"] == pytest.approx(decoder["macs"] / seconds)
    assert report.details["text"] == {"name": "medium", "characters": 7, "audio_seconds": seconds}


def test_the_operators_of_each_stage_are_there(report):
    views = report.details["operators"]
    assert {kind["op"] for kind in views["decoder"]["types"]} == {"FusedConv", "ConvTranspose"}  # as it runs
    assert all(kind["calls"] == pytest.approx(1.0) for kind in views["decoder"]["types"])
    up = next(node for node in views["decoder"]["nodes"] if node["node"] == "up")
    assert up["macs"] == len("medium") * 3 * 8 * 16


def test_a_node_whose_channels_the_runtime_blocks_keeps_its_operations(tiny, fast):
    """A Conv over two dimensions is renamed and padded by ONNX Runtime on most processors."""
    from onnx import load, numpy_helper, save

    path = tiny.path / "decoder.onnx"
    model = load(path)
    del model.graph.node[:]
    nodes = [
        ("Unsqueeze", ["frames", "axis"], ["flat"], {}),
        ("Conv", ["flat", "w2"], ["wide"], {}),
        ("Conv", ["wide", "v2"], ["thin"], {}),
        ("Squeeze", ["thin", "axis"], ["samples"], {}),
    ]
    for op, inputs, outputs, attributes in nodes:
        model.graph.node.append(helper.make_node(op, inputs, outputs, name=f"{op} {outputs[0]}", **attributes))
    weights = {"w2": np.ones((24, 8, 1, 1), np.float32), "v2": np.ones((1, 24, 1, 1), np.float32)}
    weights["axis"] = np.array([2], np.int64)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    save(model, path)
    found = profile(tiny, texts=TEXTS, batches=(1,), runs=1).details
    assert found["parts"][2]["macs"] == len("medium") * 3 * (8 * 24 + 24)
    nodes = {node["node"]: node["macs"] for node in found["operators"]["decoder"]["nodes"]}
    assert nodes["Conv wide"] == len("medium") * 3 * 8 * 24
    assert nodes["Conv thin"] == len("medium") * 3 * 24


def test_every_text_and_batch_has_its_row(report):
    rows = report.details["lengths"]
    assert [row["text"] for row in rows] == ["short", "medium", "long"]  # by length
    assert rows[2]["rtf"] == pytest.approx(rows[2]["ms"] / 1000 / rows[2]["audio_seconds"])
    assert set(rows[0]["parts_ms"]) == {"text to tokens", "text", "decoder", "engine"}
    assert [row["batch"] for row in report.details["batches"]] == [1, 2]
    assert report.details["batching"].startswith("Batching")
    assert len(report.details["bottlenecks"]) == 3
    assert len(report.details["load_s"]) == 3
    assert report.details["memory_mb"]["characters"] == len(TEXTS["long"])


def test_the_measurements_say_what_they_were_taken_on(report):
    assert report.get("latency_p50", "long text (32 characters), 1 thread").n == 6
    assert report.get("share/decoder").unit == "%"
    assert report.get("throughput", "batch 2, 1 thread").better == "up"
    assert report.get("memory_peak").value == 60.0
    assert report.get("peak/int8").value == 4e6
    assert report.get("floor").value == report.details["whole"]["floor_ms"]
    assert report.get("ceiling_share/whole").value == 100 * report.details["whole"]["ceiling_share"]
    assert report.bundles["bundle"]
    assert report.settings["batches"] == [1, 2]


def test_progress_moves_forward_to_the_end(tiny, fast):
    told = []
    profile(tiny, texts=TEXTS, batches=(1,), runs=1, progress=lambda message, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_without_a_medium_text_the_middle_one_is_taken(tiny, fast):
    found = profile(tiny, texts={"a": "a.", "b": "bb.", "c": "ccc."}, batches=(1,), runs=1)
    assert found.details["text"]["name"] == "b"


def test_a_ceiling_that_is_beaten_is_measured_anew(tiny, monkeypatch, fast):
    asked = []

    def low(threads, cache, *, fresh=False, progress=None):
        asked.append(fresh)
        return ROOF if fresh else Ceiling({"fp32": 1e-9}, 1e6, threads)

    monkeypatch.setattr(workflow, "ceiling", low)
    found = profile(tiny, texts=TEXTS, batches=(1,), runs=1)
    assert asked == [False, True]
    assert found.details["ceiling"]["gmacs"] == ROOF.gmacs
    assert all(part.get("compute_share", 0) < 1 for part in found.details["parts"])


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"threads": -1}, {"batches": ()}, {"batches": (0, 1)}, {"texts": {}}])
def test_impossible_arguments_are_refused(tiny, fast, wrong):
    with pytest.raises(UsageError):
        profile(tiny, **({"texts": TEXTS} | wrong))


def test_a_text_that_cannot_be_spoken_is_an_error(tiny, fast):
    with pytest.raises(VivaceError, match="nothing to say"):
        profile(tiny, texts={"empty": "."}, runs=1)


def test_the_built_in_texts_get_lengths_in_between(monkeypatch):
    words = "word, " * 60
    built_in = {"short": words[:18], "medium": words[:60], "long": words[:300]}
    monkeypatch.setattr(workflow.sentences, "latency", lambda: built_in)
    said = workflow._texts(between=True)
    assert len(said) == 6
    for name, text in said.items():
        if name not in built_in:
            assert name == f"{len(text)} characters"
            assert text.endswith("word.")
            assert built_in["long"].startswith(text[:-1])
    lengths = sorted(map(len, said.values()))
    assert all(b / a < 2.5 for a, b in pairwise(lengths))


BF16 = {"runtime": "openvino", "precision": "mixed int8, bf16", "options": {"precision": "bf16"}}


def test_a_stage_that_runs_in_bf16_is_counted_in_bf16(tiny, monkeypatch):
    monkeypatch.setattr(openvino, "precisions", lambda: ("fp32", "bf16"))
    nodes = {"a": Work({"fp32": 3}, 40, 60), "b": Work({"int8": 2}, 10, 20), "c": Work({}, 0, 8)}
    stage = replace(tiny.stages[0], **BF16)
    assert workflow._as_run(nodes, stage) == Work({"bf16": 3, "int8": 2}, 20 + 10, 30 + 20 + 4)
    assert workflow._as_run(nodes, tiny.stages[0]) == Work({"fp32": 3, "int8": 2}, 50, 88)


def test_without_bf16_in_the_processor_it_is_counted_in_fp32_and_told(tiny, fast, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino, "precisions", lambda: ("fp32",))
    placed = replace(tiny, stages=(tiny.stages[0], replace(tiny.stages[1], **BF16)))
    found = profile(placed, texts=TEXTS, batches=(1,), runs=1).details
    assert set(found["parts"][2]["macs_by_precision"]) == {"fp32"}
    assert any("decoder: this machine has no bf16" in note for note in found["notes"])


@pytest.mark.skipif("bf16" not in openvino.precisions(), reason="this processor has no bf16, or OpenVINO is missing")
def test_a_stage_in_openvino_is_held_against_the_bf16_roof_and_shows_its_own_operators(tiny, fast, monkeypatch):
    placed = replace(tiny, stages=(tiny.stages[0], replace(tiny.stages[1], **BF16)))
    without = profile(placed, texts=TEXTS, batches=(1,), runs=1).details
    assert without["parts"][2]["ceiling_share"] is without["whole"]["floor_ms"] is None  # ROOF knows no bf16

    roof = Ceiling(ROOF.gmacs | {"bf16": 2e6}, ROOF.gbytes, 1)
    monkeypatch.setattr(workflow, "ceiling", lambda threads, cache, **_: roof)
    found = profile(placed, texts=TEXTS, batches=(1,), runs=1).details
    text, decoder = found["parts"][1:3]
    assert decoder["macs_by_precision"] == {"bf16": decoder["macs"]}
    assert decoder["compute_share"] * decoder["ms"] == pytest.approx(decoder["macs"] / 2e6 / 1e6)
    assert found["whole"]["floor_ms"] == pytest.approx(text["floor_ms"] + decoder["floor_ms"])
    kinds = {kind["op"]: kind["calls"] for kind in found["operators"]["decoder"]["types"]}
    assert kinds["Convolution"] == 1.0
    assert "FusedConv" not in kinds


def test_a_ceiling_that_is_beaten_twice_is_told(tiny, monkeypatch, fast):
    asked = []

    def low(threads, cache, *, fresh=False, progress=None):
        asked.append(fresh)
        return Ceiling({"fp32": 1e-9}, 1e6, threads)

    monkeypatch.setattr(workflow, "ceiling", low)
    found = profile(tiny, texts=TEXTS, batches=(1,), runs=1).details
    assert asked == [False, True]
    assert any("text, decoder: faster than this machine's measured peak" in note for note in found["notes"])
    assert found["whole"]["ceiling_share"] <= 1.0


def test_a_stage_that_is_no_onnx_file_is_timed_but_not_counted(tiny, fast, monkeypatch):
    """A file of another format, run by a runtime that writes no trace."""
    from vivace.core import registry

    known = registry.load

    class Untraced:
        def __init__(self, session):
            self.run, self.close = session.run, session.close

    class Runtime:
        @staticmethod
        def open(stage, path, options):
            real = known("runtimes", "onnxruntime").open(stage, path, replace(options, trace=""))
            return Untraced(real)

    monkeypatch.setattr(registry, "load", lambda kind, name: Runtime if name == "other" else known(kind, name))
    (tiny.path / "decoder.onnx").rename(tiny.path / "decoder.xyz")
    stages = (tiny.stages[0], replace(tiny.stages[1], file="decoder.xyz", runtime="other"))
    found = profile(replace(tiny, stages=stages), texts=TEXTS, batches=(1,), runs=1).details
    assert "macs" not in found["parts"][2]
    assert list(found["operators"]) == ["text"]
    assert any("decoder: its runtime (other) writes no trace" in note for note in found["notes"])


def test_a_voice_of_another_family_is_profiled_as_a_whole(toy, tmp_path, monkeypatch):
    """Nothing replaced but the measuring of the machine: child process, cache and all."""
    monkeypatch.setattr(workflow, "ceiling", lambda threads, cache, **_: ROOF)
    found = profile(toy, texts={"medium": "A text."}, batches=(1, 2), runs=1).details
    assert {p["name"] for p in found["parts"]} == {"text to tokens", *(s.name for s in toy.stages), "engine"}
    assert 5 < found["memory_mb"]["loaded"] <= found["memory_mb"]["peak"]


@pytest.mark.voice
def test_a_real_voice_has_the_operations_of_its_architecture(real_voice, tmp_path):
    text = "The committee will publish its findings on the first of March, after which members of the public have six "
    text += "weeks to respond to every one of the proposals that were made, and to make some of their own instead."
    whole_sentence = replace(real_voice, defaults={**real_voice.defaults, "window": 10_000})  # windows add context
    found = profile(whole_sentence, texts={"long": text}, batches=(1,), runs=1, cache=tmp_path).details
    rates = {p["name"]: p["macs_per_audio_second"] for p in found["parts"] if p["kind"] == "stage"}
    whole = sum(rates.values())
    assert whole == pytest.approx(3.02e9, rel=0.03)
    assert rates["decoder"] / whole == pytest.approx(0.65, abs=0.02)
    assert rates["flow"] / whole == pytest.approx(0.20, abs=0.01)
    assert rates["text"] / whole == pytest.approx(0.14, abs=0.02)
    assert found["memory_mb"]["peak"] > found["memory_mb"]["loaded"] > 60
    assert list(tmp_path.glob("ceiling-*.json"))
