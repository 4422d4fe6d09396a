"""The autoregressive challenge: how much faster than full recomputation, one text at a time, in fp32.

    python benchmarks/ar_challenge.py                  about 15 minutes on two cores; docs/measurements/ar_challenge.md
    python benchmarks/ar_challenge.py --frames 60 --quick

Its sizes (6 + 6 layers, width 512, 8 heads, 2048 hidden, 80 mels, 500 steps), with a causal mask and seeded weights
that never stop by themselves, so that every arm makes the same number of frames. The text has 50 characters. The AR
stage (encoder and decoder) and the whole pipeline are timed apart. The arms take turns, each in a process of its own.
Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vivace.core import machine, registry
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions, Session, Stage
from vivace.engine.engine import Engine
from vivace.families import _transformer_graph as graph
from vivace.families import _transformer_vocoder as vocoder
from vivace.families import transformer_mel
from vivace.workflows.calibration import record

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "ar_challenge.md"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,'"
TEXT = "the quick brown fox jumps over the lazy dog again."
CHANNELS, STRIDES = (256, 128, 64, 1), (8, 8, 4, 1)
CONCURRENCY = (1, 4, 16, 32)
AR = (graph.ENCODER, graph.PREFIX, graph.STEP)


@dataclass(frozen=True)
class Arm:
    """Passes in order, and how many rows move together."""

    words: str
    passes: tuple[tuple[str, dict[str, Any]], ...] = ()
    batch: int = 1


CACHE = ("kv_cache", {})
CACHE8 = ("kv_cache", {"precision": "int8"})
INT8 = ("int8_dynamic", {"stages": ["step"], "op_types": ["MatMul"]})
BF16 = ("place", {"stages": ["step"], "precision": "bf16"})
ARMS = {
    "pytorch": Arm("the challenge as it is: PyTorch, every step computes all frames anew, one text at a time, fp32"),
    "baseline": Arm("every step computes all frames anew, one text at a time, fp32"),
    "cache": Arm("+ KV cache", (CACHE,)),
    "int8": Arm("+ KV cache, INT8 dynamic", (CACHE, INT8)),
    "bf16": Arm("+ KV cache, bf16 in OpenVINO", (CACHE, BF16)),
    "batched": Arm("+ KV cache, batching", (CACHE,), 32),
    "all": Arm("+ KV cache, INT8 dynamic, batching", (CACHE, INT8), 32),
    "all-int8": Arm("+ KV cache in INT8, INT8 dynamic, batching", (CACHE8, INT8), 32),
    "all-bf16": Arm("+ KV cache, bf16, batching", (CACHE, BF16), 32),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="in which each arm has its turn")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--quick", action="store_true", help="print the figures, write no page")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the folder of a run: this is one arm of it
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(measure(open_bundle(args.inside / "original"), args.arms[0], args.inside, args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        transformer_mel.import_(challenge(Path(folder), args.frames), Path(folder) / "original")
        found: dict[str, Any] = {}
        for k in range(args.rounds):
            for name in args.arms:
                now = in_a_process(name, folder, args)
                found[name] = {**now, "rows": [*found.get(name, {"rows": []})["rows"], *now["rows"]]}
                print(f"round {k + 1} of {args.rounds}: {name}", file=sys.stderr, flush=True)
    if not args.quick:
        PAGE.write_text(page(found, args), encoding="utf-8")
        figures = json.dumps({"machine": machine.describe(), "arms": found}, indent=1)
        PAGE.with_suffix(".json").write_text(figures + "\n", encoding="utf-8")
    return 0


def challenge(folder: Path, frames: int) -> Path:
    shape = graph.Shape(tokens=len(CHARACTERS))
    rng = np.random.default_rng(0)
    weights = {}
    for name, size in {**graph.weights_wanted(shape), **vocoder.weights_wanted(shape.mels, CHANNELS, STRIDES)}.items():
        fan = size[-1] if len(size) == 2 else size[1] if len(size) == 3 else 8
        drawn = np.ones(size) if "norm" in name and name.endswith("weight") else rng.standard_normal(size) / fan**0.5
        weights[name] = drawn.astype(np.float32)
    weights["stop.weight"][:], weights["stop.bias"][:] = 0, -20
    made = folder / "challenge"
    made.mkdir()
    save_file(weights, made / "model.safetensors")
    config = {
        "model_type": "transformer_mel", "sample_rate": 22050,
        "text": {"characters": CHARACTERS, "lowercase": True, "language": "en"},
        "repeat_seconds": 0, "still_seconds": 0,  # what drawn weights say may be a loop
        "max_steps": frames, "vocoder": {"channels": CHANNELS, "strides": STRIDES},
    }  # fmt: skip
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def derived(bundle: Bundle, arm: Arm, folder: Path) -> Bundle:
    for name, given in arm.passes:
        module = registry.load("passes", name)
        out = folder / f"{bundle.path.name}-{name}-{abs(hash(str(given)))}"
        parent = bundle
        context = Context(lambda stage, parent=parent: record(parent, [TEXT])[stage], threads=machine.cores())
        made = out.exists()  # in an earlier round
        bundle = open_bundle(out) if made else module.apply(bundle, out, parse(module.Settings, given, name), context)
    return bundle


def in_a_process(name: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """An arm in a process of its own."""
    given = ["--frames", args.frames, "--threads", args.threads]
    command = [sys.executable, __file__, "--inside", folder, "--arms", name, *map(str, given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Stopwatch:
    """Adds up the seconds of one stage."""

    def __init__(self, session: Session, spent: dict[str, float], name: str) -> None:
        self._session, self._spent, self._name = session, spent, name

    def run(self, inputs: Any) -> Any:
        begun = time.perf_counter()
        made = self._session.run(inputs)
        self._spent[self._name] = self._spent.get(self._name, 0.0) + time.perf_counter() - begun
        return made

    def close(self) -> None:
        self._session.close()


def measure(original: Bundle, name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    arm = ARMS[name]
    if name == "pytorch":
        return in_pytorch(original, folder, args)
    work = folder / name
    work.mkdir(exist_ok=True)
    bundle = derived(original, arm, work)
    spent: dict[str, float] = {}

    def wrap(stage: Stage, session: Session) -> Session:
        return Stopwatch(session, spent, stage.name)

    rows = []
    with Engine(bundle, RuntimeOptions(threads=args.threads), max_batch=arm.batch, wrap=wrap) as engine:
        for count in CONCURRENCY if arm.batch > 1 else (1,):
            if name != "baseline":
                speak(engine, count, args.frames, spent)
            times = 2 if count == 1 and name != "baseline" else 1
            rows += [{"concurrency": count, **speak(engine, count, args.frames, spent)} for _ in range(times)]
            last = rows[-1]
            print(f"{name} at {count}: {last['seconds']:.2f} s, {last['ar']:.2f} s AR", file=sys.stderr, flush=True)
    cache = cache_of(bundle) * args.frames / 1e6
    return {"words": arm.words, "mb": bundle.size / 1e6, "cache_mb_a_request": cache, "rows": rows}


def cache_of(bundle: Bundle) -> float:
    """Bytes that a step keeps."""
    steps = [stage for stage in bundle.stages if stage.name == graph.STEP]
    kept = [spec for stage in steps for name, spec in stage.inputs.items() if f"new.{name}" in stage.outputs]
    return sum(np.dtype(spec.dtype).itemsize * math.prod(n for n in spec.shape if isinstance(n, int)) for spec in kept)


def in_pytorch(original: Bundle, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same model in plain PyTorch. Its vocoder is left out of the time."""
    import torch
    from safetensors.torch import load_file

    from vivace.workflows._causal_module import Transformer

    torch.set_num_threads(args.threads)
    module = Transformer(original.defaults, load_file(folder / "challenge" / "model.safetensors"))
    tokens = torch.tensor([[CHARACTERS.index(c) for c in TEXT]])
    begun = time.perf_counter()
    frames = module.generate(tokens, causal=True)
    took = time.perf_counter() - begun
    assert len(frames) == args.frames
    rows = [{"concurrency": 1, "seconds": took, "ar": took, "latencies": [took], "audio": args.frames * 256 / 22050}]
    print(f"pytorch at 1: {took:.2f} s AR", file=sys.stderr, flush=True)
    return {
        "words": ARMS["pytorch"].words,
        "mb": original.size / 1e6,
        "cache_mb_a_request": 0.0,
        "rows": rows,
    }


def speak(engine: Engine, count: int, frames: int, spent: dict[str, float]) -> dict[str, float]:
    spent.clear()
    begun = time.perf_counter()
    for k in range(count):
        engine.add(Request(str(k), TEXT, max_seconds=600))
    ended, audio = [], 0.0
    while not engine.idle:
        for event in engine.step():
            assert not event.error, event.error
            audio += event.audio.seconds if event.audio else 0.0
            ended += [time.perf_counter() - begun] if event.done else []
    assert round(audio * 22050 / 256) == count * frames, "not the same number of frames"
    whole = time.perf_counter() - begun
    ar = whole - spent["vocoder"]  # the engine's own work counts as the AR stage's
    return {"seconds": whole, "ar": ar, "latencies": ended, "audio": audio}


def page(found: dict[str, Any], args: argparse.Namespace) -> str:
    m = machine.describe()
    lines = [
        "# The autoregressive challenge",
        "",
        f"{m['cpu']}, {args.threads} threads, Python {m['python']}, ONNX Runtime {m['packages']['onnxruntime']}. 50 "
        f"characters, {args.frames} frames in every arm, seeded weights of the challenge's sizes. Medians, "
        "with lowest and highest. AR is encoder, decoder and the engine's own work; the whole has the vocoder too "
        "(PyTorch's is not timed). The arms took turns. Made by `python benchmarks/ar_challenge.py`.",
        "",
        "| arm | requests at once | n | AR, s | whole, s | AR: times PyTorch, times the baseline "
        "| whole, times the baseline | per s | latency: mean, p95, s | RTF | cache of a request, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = {key: statistics.median(r[key] for r in found["baseline"]["rows"]) for key in ("ar", "seconds")}
    slow = statistics.median(r["ar"] for r in found["pytorch"]["rows"])
    for arm in found.values():
        for count in sorted({row["concurrency"] for row in arm["rows"]}):
            rows = [row for row in arm["rows"] if row["concurrency"] == count]
            ar, whole = (sorted(row[key] for row in rows) for key in ("ar", "seconds"))
            mid_ar, mid = statistics.median(ar), statistics.median(whole)
            waits = [seconds for row in rows for seconds in row["latencies"]]
            lines.append(
                f"| {arm['words']} | {count} | {len(rows)} | {mid_ar:.2f} ({ar[0]:.2f} to {ar[-1]:.2f}) | {mid:.2f} "
                f"({whole[0]:.2f} to {whole[-1]:.2f}) | {slow * count / mid_ar:.0f}, "
                f"{base['ar'] * count / mid_ar:.0f} "
                f"| {base['seconds'] * count / mid:.0f} | {count / mid:.2f} | {np.mean(waits):.2f}, "
                f"{np.quantile(waits, 0.95):.2f} | {mid / rows[0]['audio']:.3f} | {arm['cache_mb_a_request']:.1f} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
