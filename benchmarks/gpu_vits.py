"""VITS on a GPU: fp32, bf16, torch.compile and CUDA graphs, batch size against latency.

    python benchmarks/gpu_vits.py                          one GPU, some minutes; docs/measurements/gpu_vits.md
    python benchmarks/gpu_vits.py --device cpu --quick     all that a CPU can; prints, writes no page

PyTorch and NumPy alone. The sizes of Piper's medium voices, seeded weights (speed does not depend on them); durations
are computed and then set to two frames for each token, so that every arm makes as much audio. The text part stays in
fp32, as bf16 moves durations. Before an arm is timed, it is proven to make the samples of fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # it need not be installed where the GPU is

from vivace.modules.hifigan import GeneratorShape  # noqa: E402
from vivace.modules.vits import Shape, Vits  # noqa: E402

PAGE = ROOT / "docs" / "measurements" / "gpu_vits.md"
MEDIUM = Shape(
    256, GeneratorShape(192, (256, 128, 64, 32), (8, 8, 4), (16, 16, 8), (3, 5, 7), ((1, 2), (2, 6), (3, 12)))
)
RATE, HOP, EACH = 22050, 256, 2  # frames for each token
TOKENS = {"short": 40, "medium": 125, "long": 600}
BATCHES = (1, 4, 16, 64)
SAME = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # largest root mean square of what differs, in that of the samples


@dataclass(frozen=True)
class Arm:
    words: str
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    graph: bool = False


ARMS = {
    "fp32": Arm("fp32"),
    "bf16": Arm("flow and decoder in bf16", torch.bfloat16),
    "compile": Arm("bf16, torch.compile", torch.bfloat16, compiled=True),
    "graph": Arm("bf16, CUDA graph", torch.bfloat16, graph=True),
    "both": Arm("bf16, torch.compile in a CUDA graph", torch.bfloat16, compiled=True, graph=True),
    "fp32 graph": Arm("fp32, CUDA graph", graph=True),
}


class Network(nn.Module):
    """Tokens and noises to samples; the text part in float32, flow and decoder in `dtype`."""

    def __init__(self, voice: Vits, dtype: torch.dtype) -> None:
        super().__init__()
        self.voice, self.dtype = voice, dtype
        voice.flow.to(dtype)
        voice.dec.to(dtype)

    def forward(self, tokens: Tensor, duration_noise: Tensor, prior_noise: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.ones_like(tokens, dtype=torch.float32)[:, None]
        read, mean, log_scale = self.voice.enc_p(tokens, mask)
        durations = self.voice.dp(read, mask, duration_noise, None)
        mean, log_scale = (x.repeat_interleave(EACH, 2) for x in (mean, log_scale))
        prior = (mean + 0.667 * prior_noise * torch.exp(log_scale)).to(self.dtype)
        samples = self.voice.dec(self.voice.flow(prior, torch.ones_like(prior[:, :1])))
        return samples.float(), durations


def main(arguments: Sequence[str] | None = None, shape: Shape = MEDIUM) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--quick", action="store_true", help="few rounds, the smallest sizes; print, write no page")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; try --device cpu --quick")
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    begun = time.perf_counter()
    rows: list[dict[str, Any]] = []
    proofs: dict[str, float] = {}
    for name in args.arms:
        arm = ARMS[name]
        if args.device == "cpu" and arm.graph:
            say(f"{name}: not run, needs CUDA")
            continue
        network = made(shape, arm.dtype, args.device)
        texts = ["short"] if args.quick else list(TOKENS)
        for text in texts:
            for batch in (1, 2) if args.quick else BATCHES:
                given = inputs(shape, batch, TOKENS[text], args.device)
                run = prepared(network, arm, given)
                if text == "short" and batch <= 4:
                    away = apart(made(shape, torch.float32, args.device)(*given)[0], run()[0])
                    proofs[name] = max(proofs.get(name, 0.0), away)
                    if not away <= SAME[arm.dtype]:
                        say(f"{name}: its samples are {away:.2g} away from those of fp32: WRONG")
                        return 1
                rows.append({"arm": name, "text": text, "batch": batch, **timed(run, args, batch, TOKENS[text])})
                say(f"{name}, {text}, {batch} at once: {rows[-1]['ms']:.2f} ms")
                del run
        torch.compiler.reset()
    figures = {"machine": machine(args.device), "rounds": args.rounds, "proofs": proofs, "rows": rows}
    figures |= {"whole_s": round(time.perf_counter() - begun)}
    if args.device == "cuda" and not args.quick:
        PAGE.write_text(page(figures), encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    else:
        sys.stdout.write(page(figures))
    return 0


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def made(shape: Shape, dtype: torch.dtype, device: str) -> Network:
    """The same weights for the same shape, scaled so that samples are neither silence nor clipped."""
    torch.manual_seed(0)
    voice = Vits(shape).eval()
    for name, value in voice.named_parameters():
        if value.ndim == 3 and name.startswith("dec."):
            value.normal_(std=(2.0 / (value.shape[1] * value.shape[2])) ** 0.5)
        elif name.endswith("post.weight"):
            value.normal_(std=0.01)  # zeros, as they begin, would hide the flow
    return Network(voice, dtype).to(device)


def inputs(shape: Shape, batch: int, tokens: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    dice = torch.Generator().manual_seed(batch)
    ids = torch.randint(0, shape.tokens, (batch, tokens), generator=dice)
    noises = (torch.randn(batch, n, t, generator=dice) for n, t in ((2, tokens), (shape.channels, tokens * EACH)))
    return tuple(x.to(device) for x in (ids, *noises))  # type: ignore[return-value]


def prepared(network: Network, arm: Arm, given: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, Tensor]]:
    """The arm, warm, for inputs of these shapes."""
    forward = torch.compile(network, dynamic=False) if arm.compiled else network
    for _ in range(3):
        forward(*given)
    if not arm.graph:
        return lambda: forward(*given)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            forward(*given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = forward(*given)

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return kept

    return replay


def timed(run: Callable[[], Any], args: argparse.Namespace, batch: int, tokens: int) -> dict[str, Any]:
    """From the call to the samples on the host."""
    on_gpu = args.device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(2 if args.quick else args.rounds):
        begun = time.perf_counter()
        run()[0].cpu()
        seconds.append(time.perf_counter() - begun)
    seconds.sort()
    audio = batch * tokens * EACH * HOP / RATE
    middle = statistics.median(seconds)
    found = {"ms": 1000 * middle, "p95_ms": 1000 * seconds[int(0.95 * (len(seconds) - 1))], "audio_s": audio}
    gb = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    return found | {"times_real": audio / middle, "per_s": batch / middle, "peak_gb": gb}


def apart(true: Tensor, found: Tensor) -> float:
    return float((true - found).square().mean().sqrt() / true.square().mean().sqrt())


def machine(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda), "date": time.strftime("%F")}


def page(figures: dict[str, Any]) -> str:
    m = figures["machine"]
    lines = [
        "# VITS on a GPU",
        "",
        f"{m['device']}, PyTorch {m['torch']}, CUDA {m['cuda']}, {m['date']}. Sizes of Piper's medium voices, seeded "
        f"weights, {figures['rounds']} rounds: median and 95th percentile from the call to the samples on the host. "
        "TF32 is off, the text part is fp32 in every arm, tokens last two frames each. Made by `python "
        f"benchmarks/gpu_vits.py` in {figures['whole_s']} s.",
        "",
        "| arm | text, s of audio | at once | latency, ms | p95, ms | texts per s | times real time | memory, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in figures["rows"]:
        gb = "-" if r["peak_gb"] is None else f"{r['peak_gb']:.2f}"
        lines.append(
            f"| {ARMS[r['arm']].words} | {r['text']}, {r['audio_s'] / r['batch']:.1f} | {r['batch']} | {r['ms']:.2f} "
            f"| {r['p95_ms']:.2f} | {r['per_s']:.1f} | {r['times_real']:.0f} | {gb} |"
        )
    lines += ["", "Proven before timing: root mean square of the difference to fp32, in that of the samples:", ""]
    lines += [f"- {ARMS[name].words}: {away:.2g}" for name, away in figures["proofs"].items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
