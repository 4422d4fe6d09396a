"""The autoregressive challenge on a GPU: what cache, bf16, CUDA graphs, fusing and a vocoder beside the decoder give.

    python benchmarks/gpu_ar.py                                    one GPU, below 8 minutes; docs/measurements/gpu_ar.md
    python benchmarks/gpu_ar.py --device cpu --frames 20 --quick   all that a CPU can; prints, writes no page

PyTorch alone. The challenge's sizes, seeded weights that never stop by themselves, so that every arm makes the same
number of frames; the text has 50 characters. Before anything is timed, every arm is proven to say the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _gpu_network import Network, Sizes, recomputed, seeded
from _gpu_speaker import Row, Speaker

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "gpu_ar.md"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,'"
TEXT = "the quick brown fox jumps over the lazy dog again."
CONCURRENCY = (1, 4, 16, 32, 128, 256)
TARGETS = {"latency_ms": 100, "per_s": 500, "gb": 2}
PROOF_FRAMES = 48
# Largest differences of frames, in their standard deviations, and of samples (whose range is 2).
TOLERANCES = {
    "cached to recomputed, fp32": 1e-3,
    "batched to single, fp32": 1e-3,
    "vocoder in chunks of 8 to whole, samples": 1e-4,
    "bf16 to fp32, first 16 frames": 0.15,
    "all together to fp32, first 16 frames": 0.15,
    "graphs to none, fp32": 1e-3,
    "fused to not, fp32": 1e-3,
}


@dataclass(frozen=True)
class Arm:
    words: str
    dtype: torch.dtype = torch.bfloat16
    graphs: bool = False
    fused: bool = False
    beside: bool = False


ARMS = {
    "baseline": Arm("every step computes all frames anew, one text at a time, fp32", torch.float32),
    "cache": Arm("+ KV cache, batching", torch.float32),
    "bf16": Arm("+ bf16"),
    "graphs": Arm("+ CUDA graphs", graphs=True),
    "fused": Arm("+ sum and norm in one kernel, ReLU in its product", graphs=True, fused=True),
    "beside": Arm("+ vocoder in chunks beside the decoder", graphs=True, fused=True, beside=True),
}


def main(arguments: list[str] | None = None, sizes: Sizes | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=50, help="of one request where a graph is used; else 2 or 3")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--no-fuse", dest="fuse", action="store_false", help="where torch.compile does not work")
    parser.add_argument("--quick", action="store_true", help="few rounds, 1 and 4 at once; print, write no page")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; try --device cpu --frames 20 --quick")
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    torch.backends.cuda.enable_cudnn_sdp(False)  # plans anew for each of many shapes
    begun, sizes = time.perf_counter(), sizes or Sizes(len(CHARACTERS), longest=args.frames + 256)
    weights = seeded(sizes)
    proofs = proven(sizes, weights, args.device, min(args.frames, PROOF_FRAMES), fuse=args.fuse)
    wrong = [name for name, found in proofs.items() if not found <= TOLERANCES[name]]
    for name, found in proofs.items():
        say(f"{name}: {found:.2g} (at most {TOLERANCES[name]:g}){' WRONG' if name in wrong else ''}")
    if wrong:
        return 1
    found: dict[str, Any] = {}
    for name in args.arms:
        arm = replace(ARMS[name], fused=ARMS[name].fused and args.fuse)
        if (args.device == "cpu" and arm.graphs) or (name == "fused" and not args.fuse):
            say(f"{name}: not run, needs {'CUDA' if args.fuse else 'torch.compile'}")
            continue
        rows = measured(name, arm, sizes, weights, args)
        found[name] = {"words": arm.words, "rows": rows}
    figures = {"machine": machine(args.device), "frames": args.frames, "proofs": proofs, "arms": found}
    figures |= {"targets": verdicts(found), "whole_s": round(time.perf_counter() - begun)}
    if args.device == "cuda" and not args.quick:
        PAGE.write_text(page(figures), encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    else:
        sys.stdout.write(page(figures))
    return 0


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def proven(sizes: Sizes, weights: dict[str, Any], device: str, frames: int, *, fuse: bool) -> dict[str, float]:
    """The differences that TOLERANCES bounds."""
    net = Network(sizes, weights, torch.float32, device)
    texts = [ids(TEXT[start:]) for start in (0, 20, 7, 33, 12)]

    def spoken(net: Network, *, graphs: bool = False, beside: bool = False, at_once: int = 1) -> list[Row]:
        speaker = Speaker(net, at_once, frames, len(TEXT), graphs=graphs, beside=beside, chunk=8, keep=True)
        asked = [Row(text, frames - 5 * k % frames) for k, text in enumerate(texts)]
        ended = {id(row): row for row in speaker.speak(asked, at_once)}
        return [ended[id(row)] for row in asked]

    def apart(a: list[Row], b: list[Row], first: int = frames) -> float:
        pairs = [(frames_of(x)[:first], frames_of(y)[:first]) for x, y in zip(a, b, strict=True)]
        if any(x.shape != y.shape for x, y in pairs):
            return math.inf
        return max(float((x - y).abs().max() / y.std()) for x, y in pairs)

    single = spoken(net)
    whole = recomputed(net, texts[0], frames)
    found = {"cached to recomputed, fp32": float((frames_of(single[0]) - whole).abs().max() / whole.std())}
    found["batched to single, fp32"] = apart(spoken(net, at_once=3), single)
    chunks = zip(spoken(net, beside=True), single, strict=True)
    found["vocoder in chunks of 8 to whole, samples"] = max(far(a.samples(), b.samples()) for a, b in chunks)
    narrow = Network(sizes, weights, torch.bfloat16, device)
    found["bf16 to fp32, first 16 frames"] = apart(spoken(narrow, at_once=3), single, 16)
    if device == "cuda":
        found["graphs to none, fp32"] = apart(spoken(net, graphs=True, beside=True, at_once=3), single)
        if fuse:
            fused = Network(sizes, weights, torch.float32, device, fused=True)
            found["fused to not, fp32"] = apart(spoken(fused, graphs=True, at_once=3), single)
        every = Network(sizes, weights, torch.bfloat16, device, fused=fuse)
        made = spoken(every, graphs=True, beside=True, at_once=4)
        found["all together to fp32, first 16 frames"] = apart(made, single, 16)
    return found


def ids(text: str) -> list[int]:
    return [CHARACTERS.index(letter) for letter in text]


def frames_of(row: Row) -> Tensor:
    assert row.frames is not None
    return row.frames


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else math.inf


def measured(name: str, arm: Arm, sizes: Sizes, weights: dict[str, Any], args: argparse.Namespace) -> list[Any]:
    net = Network(sizes, weights, arm.dtype, args.device, fused=arm.fused)
    rows = []
    for count in CONCURRENCY[:2] if args.quick else CONCURRENCY:
        if name == "baseline" and count > 1:
            break  # a loop over texts: as many in a second however many wait
        with watched(args.device) as peak:
            rounds = alone(net, args) if name == "baseline" else together(net, arm, count, args)
        latencies = sorted(second for _, each in rounds for second in each)
        per_s = [len(each) / seconds for seconds, each in rounds]
        seconds, audio = statistics.median(s for s, _ in rounds), args.frames * sizes.hop / sizes.sample_rate
        rows.append({
            "concurrency": count, "rounds": len(rounds), "requests_a_round": len(rounds[0][1]),
            "latency_ms": 1000 * statistics.mean(latencies),
            "p95_ms": 1000 * latencies[math.ceil(0.95 * len(latencies)) - 1],
            "per_s": statistics.median(per_s), "per_s_range": [min(per_s), max(per_s)],
            "rtf": seconds / (audio * len(rounds[0][1])), **peak,
        })  # fmt: skip
        last = rows[-1]
        say(f"{name} at {count}: {last['latency_ms']:.1f} ms, {last['per_s']:.2f} per s, {last['peak_gb']} GB")
    return rows


Rounds = list[tuple[float, list[float]]]  # seconds of a round, and the latency of each request in it


def alone(net: Network, args: argparse.Namespace) -> Rounds:
    rounds: Rounds = []
    for _ in range(2 if args.quick else 4):
        begun = time.perf_counter()
        frames = recomputed(net, ids(TEXT), args.frames)
        assert len(frames) == args.frames, "not the same number of frames"
        net.vocoder(frames.T[None]).cpu()
        seconds = time.perf_counter() - begun
        rounds.append((seconds, [seconds]))
    return rounds[1:]


def together(net: Network, arm: Arm, count: int, args: argparse.Namespace) -> Rounds:
    """As many requests as can be at once and, above one, as many again: each joins when another has left."""
    speaker = Speaker(net, count, args.frames, len(TEXT), graphs=arm.graphs, beside=arm.beside)
    rounds: Rounds = []
    several = args.rounds if arm.graphs and count == 1 else 2 + arm.graphs
    for _ in range(1 + (1 if args.quick else several)):  # the first is the warm-up
        asked = [Row(ids(TEXT), args.frames) for _ in range(count if count == 1 else 2 * count)]
        begun = time.perf_counter()
        ended = speaker.speak(asked, count)
        seconds = time.perf_counter() - begun
        wanted = args.frames * net.s.hop
        assert [len(row.samples()) for row in ended] == [wanted] * len(asked), "not the same number of frames"
        rounds.append((seconds, [row.ended - row.joined for row in ended]))
    return rounds[1:]


@contextmanager
def watched(device: str) -> Any:
    """Fills what it gives: peak GB of PyTorch's tensors and of the whole device, and how busy the GPU was."""
    found: dict[str, Any] = {"peak_gb": None, "device_gb": None, "busy_percent": None}
    if device == "cpu":
        yield found
        return
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seen: list[tuple[int, int]] = []
    over = threading.Event()
    look = counters()

    def watch() -> None:
        while look and not over.wait(0.05):
            seen.append(look())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
    found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    if seen:
        found["device_gb"] = round(max(used for _, used in seen) / 1e9, 3)
        found["busy_percent"] = round(statistics.mean(busy for busy, _ in seen))


def counters() -> Callable[[], tuple[int, int]] | None:
    """What reads how busy the GPU is, in percent, and the bytes in use on it; None without NVML."""
    try:
        import pynvml
    except ImportError:
        say("no pynvml here: the device's own counters are left out")
        return None

    def look() -> tuple[int, int]:
        return pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, pynvml.nvmlDeviceGetMemoryInfo(handle).used

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        look()
    except pynvml.NVMLError as error:
        say(f"NVML does not answer ({error}): the device's own counters are left out")
        return None
    return look


def machine(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda), "date": time.strftime("%F")}


def verdicts(found: dict[str, Any]) -> dict[str, Any]:
    """The best of each target. Memory is the least that makes speeches as fast as wanted, or where they are fastest."""
    rows = [{"arm": name, **row} for name, arm in found.items() for row in arm["rows"]]
    quick = min((r for r in rows if r["concurrency"] == 1), key=lambda r: r["latency_ms"], default=None)
    most = max(rows, key=lambda r: r["per_s"], default=None)
    if quick is None or most is None:
        return {}
    enough = [r for r in rows if r["per_s"] > TARGETS["per_s"] and memory(r) is not None]
    small = min(enough, key=memory, default=most)
    best = {"latency_ms": (quick, quick["latency_ms"]), "per_s": (most, most["per_s"]), "gb": (small, memory(small))}
    made = {}
    for key, (row, value) in best.items():
        met = value is not None and (value > TARGETS[key] if key == "per_s" else value < TARGETS[key])
        made[key] = {"target": TARGETS[key], "found": value, "met": met}
        made[key] |= {"arm": row["arm"], "concurrency": row["concurrency"]}
    return made


def memory(row: dict[str, Any]) -> Any:
    return row["device_gb"] or row["peak_gb"]


def page(figures: dict[str, Any]) -> str:
    m = figures["machine"]
    lines = [
        "# The autoregressive challenge on a GPU",
        "",
        f"{m['device']}, PyTorch {m['torch']}, CUDA {m['cuda']}, {m['date']}. 50 characters, {figures['frames']} "
        "frames in every arm, seeded weights of the challenge's sizes, from text to samples on the host; TF32 is off. "
        "Above one, a round has twice as many requests as are in the making at once. Latency is a request's own, from "
        "joining to its last sample, mean and 95th percentile of all requests; the "
        "rest medians of rounds (per s with lowest and highest). Memory: PyTorch's tensors at their peak / the whole "
        f"device. Made by `python benchmarks/gpu_ar.py` in {figures['whole_s']} s.",
        "",
        "| arm | at once | rounds | latency, ms | p95, ms | per s | RTF | memory, GB | GPU busy, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in figures["arms"].values():
        for r in arm["rows"]:
            memory = " / ".join("-" if r[key] is None else f"{r[key]:.2f}" for key in ("peak_gb", "device_gb"))
            low, high = r["per_s_range"]
            lines.append(
                f"| {arm['words']} | {r['concurrency']} | {r['rounds']} | {r['latency_ms']:.1f} | {r['p95_ms']:.1f} "
                f"| {r['per_s']:.2f} ({low:.2f} to {high:.2f}) | {r['rtf']:.5f} | {memory} "
                f"| {'-' if r['busy_percent'] is None else r['busy_percent']} |"
            )
    words = {"latency_ms": "latency of one request, ms, below", "per_s": "utterances a second, above"}
    words["gb"] = "memory there, GB, below"
    lines += ["", "| target | wanted | found | met | where |", "|---|---|---|---|---|"]
    for key, v in figures["targets"].items():
        value, met = "-" if v["found"] is None else f"{v['found']:.2f}", "yes" if v["met"] else "no"
        lines.append(f"| {words[key]} | {v['target']} | {value} | {met} | {v['arm']}, {v['concurrency']} at once |")
    lines += ["", "Proven before timing, largest differences in standard deviations of the frames:", ""]
    lines += [f"- {name}: {far:.2g} (at most {TOLERANCES[name]:g})" for name, far in figures["proofs"].items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
