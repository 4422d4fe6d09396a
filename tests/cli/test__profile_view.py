from __future__ import annotations

from rich.console import Console

from vivace.cli._profile_view import _limit, render_table
from vivace.core.report import Report
from vivace.workflows._ceiling import Ceiling
from vivace.workflows._macs import Work
from vivace.workflows._roofline import assess, whole


def row(name, ms, share, kind="engine", **more):
    return {"name": name, "kind": kind, "ms": ms, "low": None, "high": None, "n": 1, "share": share, **more}


def report(operators):
    work = Work({"fp32": 6_000_000_000}, 70_000_000, 80_000_000, frozenset({"Einsum"}))
    counted = assess(75.0, 100.0, work, Ceiling({"fp32": 100.0}, 20.0, 1)) | {"macs_per_audio_second": 3.0e9}
    parts = [row("text to tokens", 5.0, 0.05), row("decoder", 75.0, 0.75, kind="stage", **counted)]
    parts += [row("engine", 20.0, 0.2)]
    details = {
        "whole": whole(parts),
        "text": {"name": "medium", "characters": 50, "audio_seconds": 2.0},
        "parts": parts,
        "operators": operators,
        "lengths": [
            {"text": "short", "characters": 13, "audio_seconds": 0.7, "rtf": 0.0531, **row("", 37.2, 0)},
            {"text": "long", "characters": 250, "audio_seconds": 14.0, "rtf": 0.05}
            | {"ms": 700.0, "low": 690.0, "high": 712.0},
        ],
        "batches": [{"batch": 1, "ms": 100.0, "throughput": 20.0, "gain": {"value": 1.0}}],
        "decode": None,
        "batching": "Batching does not pay: at best ...",
        "load_s": [0.5, 0.6, 0.4],
        "memory_mb": {"loaded": 240.0, "peak": 600.0, "characters": 250},
        "ceiling": {"gmacs": {"fp32": 123.0}, "gbytes": 38.0},
        "bottlenecks": ["decoder: [75]% of the time", "flow: 20% of the time"],
        "notes": ["The machine was busy."],
    }
    machine = {"cpu": "A processor"}
    return Report("profile", (), machine=machine, settings={"threads": 2, "runs": 7}, details=details)


def printed(report, width=140):
    console = Console(width=width, record=True, file=__import__("io").StringIO())
    for part in render_table(report):
        console.print(part)
    return console.export_text()


def test_all_figures_are_on_the_screen():
    nodes = [{"node": "/dec/[0]/Conv", "op": "Conv", "ms": 7.2, "gmacs_per_s": 58.0}]
    nodes.append({"node": "", "op": "Add", "ms": 1.0, "gmacs_per_s": None})
    text = printed(report({"decoder": {"types": [{"op": "Conv", "share": 0.7}], "nodes": nodes}}))
    for words in (
        "medium text (50 characters, 2.00 s of audio)",
        "A processor, 2 threads, 7 runs",
        "75.0%",
        "3.00+",  # plus what could not be counted
        "80%",  # of the ceiling
        "The floor of this voice on this machine in these precisions: 60.0 ms, 60% of the 100.0 ms that it takes.",
        "With every stage at its roof and the rest as now it would be 1.18x as fast.",
        "1.18x",
        "690.0 to 712.0",
        "0.0531",
        "/dec/[0]/Conv",
        "Conv 70%",
        "Batching does not pay",
        "Load 0.50 s. Memory 240 MB after load, at most 600 MB",
        "fp32 123 GMAC/s, memory 38 GB/s",
        "1. decoder: [75]% of the time",
        "2. flow",
        "The machine was busy.",
    ):
        assert words in " ".join(text.split()), words


def test_on_a_narrow_screen_no_figure_breaks():
    lines = printed(report({}), width=80).splitlines()
    (decoder,) = [line for line in lines if line.strip().startswith("decoder ")]
    assert decoder.split()[1:] == ["75.0", "75.0%", "3.00+", "80", "fp32", "60.0", "80%", "1.18x"]
    (total,) = [line for line in lines if line.strip().startswith("whole ")]
    assert total.split()[1:] == ["100.0", "100.0%", "3.00", "60", "60.0", "60%", "1.18x"]


def test_the_limit_names_the_roof():
    assert _limit({"bound": "memory", "macs_by_precision": {"fp32": 1}}) == "memory"
    assert _limit({"bound": "compute", "macs_by_precision": {"fp32": 1, "int8": 3}}) == "int8+fp32"
    assert _limit({"bound": "compute", "macs_by_precision": {"bf16": 2}}) == "bf16"
    assert _limit({"bound": None, "macs_by_precision": {"fp16": 2}}) == "-"
    assert _limit({}) == "-"


def test_a_floor_that_is_not_known_is_not_told():
    told = report({})
    told.details["whole"] = {"ms": 100.0, "floor_ms": None, "ceiling_share": None, "gain_at_ceiling": None}
    assert "The floor" not in printed(told)


def test_without_a_trace_there_is_no_operator_table():
    assert "slowest nodes" not in printed(report({}))


def stepwise():
    told = report({})
    told.details["decode"] = {
        "stage": "step",
        "ms_per_100_frames": 0.9,
        "by_prefix": [
            {"frames": 15.5, "steps": 32, "ms": 2.1, "low": None, "high": None, "n": 1},
            {"frames": 47.5, "steps": 32, "ms": 2.4, "low": 2.3, "high": 2.51, "n": 6},
        ],
        "batches": [
            {"text": "medium", "characters": 50, "batch": 16, "latency_p50_ms": 1234.5, "throughput": 20.04}
            | {"steps_per_second": 120.0, "frames_per_second": 1920.0, "rtf": 0.0499, "cache_mb_per_text": 12.34}
            | {"peak_mb": 612.0},
        ],
    }
    return told


def test_a_model_that_makes_frames_step_by_step_has_its_tables():
    text = " ".join(printed(stepwise()).split())
    for words in (
        "A step of decode (step) against the frames before it: grows by 0.90 ms every 100 frames",
        "16 32 2.10 -",
        "48 32 2.40 2.30 to 2.51",
        "medium 16 1,234 20.04 120 1,920 0.050 12.3 612",
    ):
        assert words in text, words
    assert "Texts together" not in text  # the other table has it


def test_the_names_of_its_parts_do_not_break_on_a_narrow_screen():
    told = stepwise()
    told.details["parts"][1]["name"] = "encode_text"
    lines = printed(told, width=80).splitlines()
    (encode,) = [line for line in lines if line.strip().startswith("encode_text ")]
    assert encode.split()[-1] == "1.18x"
    assert any(" ".join(line.split()) == "medium 16 1,234 20.04 120 1,920 0.050 12.3 612" for line in lines)
    assert all(len(line.rstrip()) <= 80 for line in lines)
