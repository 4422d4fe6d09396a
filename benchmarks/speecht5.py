"""SpeechT5 beside transformers' own `generate_speech`: the same weights, threads and numbers of frames.

    pip install torch transformers
    python benchmarks/speecht5.py             about 10 minutes on two cores; docs/measurements/speecht5.md and .json
    python benchmarks/speecht5.py --quick     a tiny model, one round, no page

Seeded weights of the real sizes (144 million, vocoder 13 million) that never stop by themselves. All arms are opened
and warmed up first and then take turns in every round. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions, seeded
from vivace.engine.engine import Engine, speak
from vivace.families import _speecht5_config as files
from vivace.families import _speecht5_graph as graph
from vivace.families import _speecht5_vocoder as hifigan
from vivace.families import speecht5

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "speecht5.md"
ALPHABET = "abcdefghijklmnopqrstuvwxyz,'"
WORDS = (
    "the quick brown fox jumps over the lazy dog and then sleeps under an old oak tree by the river for a long while "
)
RATIO = 4.0  # frames for a character: how fast such models speak
LENGTHS = (20, 30, 40, 50, 60, 75, 90, 110)  # characters of eight requests at once
ONE = 50
TINY = {
    "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "num_mel_bins": 8, "speech_decoder_prenet_units": 16,
    "speech_decoder_postnet_layers": 2, "speech_decoder_postnet_units": 8, "speaker_embedding_dim": 8,
}  # fmt: skip
INT8 = ("int8_dynamic", {"stages": ["encoder", "step"], "op_types": ["MatMul"]})
ARMS: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "fp32": ("Vivace, fp32", []),
    "int8": ("Vivace, INT8 dynamic", [INT8]),
    "int8-bf16": (
        "Vivace, INT8 dynamic, vocoder bf16 in OpenVINO",
        [INT8, ("place", {"stages": ["vocoder"], "precision": "bf16"})],
    ),
    "bf16": ("Vivace, bf16 in OpenVINO", [("place", {"precision": "bf16"})]),
}
UPSTREAM = "transformers"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round; print, write no page")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        found = measure(Path(folder), args, opened)
    text = page(found)
    if args.quick:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def made(folder: Path, changes: dict[str, Any]) -> Path:
    """The model and its vocoder as Hugging Face's folders, with seeded weights."""
    out = folder / "model"
    (out / "vocoder").mkdir(parents=True)
    given = {"model_type": "speecht5", "vocab_size": 81, "max_speech_positions": 1876, "max_text_positions": 600}
    (out / "config.json").write_text(json.dumps({**given, "maxlenratio": RATIO, **changes}), encoding="utf-8")
    mels = {"model_in_dim": changes["num_mel_bins"], "upsample_initial_channel": 32} if changes else {}
    (out / "vocoder" / "config.json").write_text(json.dumps({"model_type": "hifigan", **mels}), encoding="utf-8")
    save_file(weights(graph.weights_wanted(files.read_config(out).shape)), out / "model.safetensors")
    wanted = hifigan.weights_wanted(hifigan.read(out / "vocoder"))
    save_file(weights(wanted), out / "vocoder" / "model.safetensors")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *ALPHABET]
    (out / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")
    np.save(out / "somebody.npy", np.random.default_rng(1).standard_normal(files.read_config(out).shape.speaker))
    return out


def weights(wanted: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for name, size in wanted.items():
        ones = name.endswith(("running_var", "scale", "alpha")) or ("norm" in name and name.endswith("weight"))
        fan = max(1, int(np.prod(size[1:])))
        drawn = np.ones(size) if ones else np.zeros(size) if len(size) < 2 else rng.standard_normal(size) / fan**0.5
        found[name] = np.asarray(drawn, np.float32)
    if "speech_decoder_postnet.prob_out.weight" in found:
        found["speech_decoder_postnet.prob_out.weight"][:] = 0
        found["speech_decoder_postnet.prob_out.bias"][:] = -20
    return found


def measure(folder: Path, args: argparse.Namespace, opened: ExitStack) -> dict[str, Any]:
    path = made(folder, TINY if args.quick else {})
    original = speecht5.import_(path, folder / "bundle")
    hub = Upstream(path, args.threads, speecht5.files.read_voices(path, original.defaults["speaker"])["somebody"])
    engines = {}
    for name in args.arms:
        bundle = derived(original, ARMS[name][1], folder / name)
        options = RuntimeOptions(threads=args.threads)
        engines[name] = opened.enter_context(Engine(bundle, options, max_batch=len(LENGTHS)))
    worst = difference(hub, next(iter(engines.values()))) if "fp32" in engines else None
    runs: dict[str, Callable[[list[str]], int]] = {UPSTREAM: hub.frames}
    runs |= {name: lambda texts, engine=engine: frames(engine, texts) for name, engine in engines.items()}
    kinds = {"one": [text(ONE)], "alike": [text(ONE)] * len(LENGTHS), "eight": [text(n) for n in LENGTHS]}
    rows: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in runs} for kind in kinds}
    counts = {}
    for turn in range(-1, 1 if args.quick else args.rounds):  # the first is for warming up
        for kind, texts in kinds.items():
            for name, run in runs.items():
                begun = time.perf_counter()
                count = run(texts)
                spent = time.perf_counter() - begun
                if counts.setdefault(kind, count) != count:
                    raise AssertionError(f"{name} made {count} frames, others {counts[kind]}")
                rows[kind][name] += [spent] if turn >= 0 else []
        print(f"round {turn + 1}", file=sys.stderr, flush=True)
    rate = original.sample_rate / original.defaults["hop"]
    return {
        "machine": machine.describe(), "threads": args.threads, "frames": counts, "frame_rate": rate, "seconds": rows,
        "lengths": {kind: [len(t) for t in texts] for kind, texts in kinds.items()},
        "largest_difference": worst, "million_weights": hub.size / 1e6, "transformers": hub.version,
    }  # fmt: skip


def text(characters: int) -> str:
    return (WORDS * 2)[:characters].strip().ljust(characters, "s")


def derived(bundle: Bundle, passes: list[tuple[str, dict[str, Any]]], out: Path) -> Bundle:
    for k, (name, given) in enumerate(passes):
        module = registry.load("passes", name)
        context = Context(lambda stage: [], threads=machine.cores())
        bundle = module.apply(bundle, out.with_name(f"{out.name}-{k}"), parse(module.Settings, given, name), context)
    return bundle


def frames(engine: Engine, texts: list[str]) -> int:
    """Speaks all at once; how many frames that were."""
    for k, each in enumerate(texts):
        engine.add(Request(str(k), each))
    samples = 0
    while not engine.idle:
        for event in engine.step():
            assert not event.error, event.error
            samples += len(event.audio.samples) if event.audio else 0
    return samples // int(engine.bundle.defaults["hop"])


class Upstream:
    """transformers' model and vocoder. Several texts go as one padded batch, which is how it takes them."""

    def __init__(self, path: Path, threads: int, voice: np.ndarray) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self.torch, self.version = torch, transformers.__version__
        self.model = transformers.SpeechT5ForTextToSpeech.from_pretrained(path).eval()
        self.vocoder = transformers.SpeechT5HifiGan.from_pretrained(path / "vocoder").eval()
        self.size = sum(p.numel() for p in self.model.parameters())
        self._voice = torch.from_numpy(voice)[None]
        self._pieces = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
        self._each = self.model.config.reduction_factor

    def ids(self, text: str) -> list[int]:
        return [self._pieces.get(c, 3) for c in "\u2581" + text.replace(" ", "\u2581")] + [2]

    def frames(self, texts: list[str]) -> int:
        """How many frames were asked for. A batch is made as long as its longest text allows, whatever its others
        need: what lies behind a row's own end is not counted, as it is not where rows stop by themselves."""
        self.samples(texts)
        return sum(int(len(self.ids(t)) * RATIO / self._each) * self._each for t in texts)

    def samples(self, texts: list[str]) -> np.ndarray:
        torch = self.torch
        ids = [torch.tensor(self.ids(t)) for t in texts]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=1)
        with torch.no_grad():
            made = self.model.generate_speech(
                padded, self._voice, maxlenratio=RATIO, vocoder=self.vocoder, return_output_lengths=len(texts) > 1
            )
        return (made[0] if len(texts) > 1 else made).numpy()


def difference(hub: Upstream, engine: Engine) -> float:
    """The largest difference between the samples of both, with the same dropout, before anything is timed."""
    with masks(hub.torch, 5, engine.bundle.defaults):
        theirs = hub.samples([text(ONE)])
    ours = speak(engine, Request("same", text(ONE), seed=5)).samples
    worst = float(np.abs(ours - theirs).max())
    assert worst < 1e-3, f"the arms do not speak alike: {worst}"
    return worst


@contextmanager
def masks(torch: Any, seed: int, defaults: Any) -> Iterator[None]:
    """Vivace's dropout in place of torch's own: only the last position of each step is looked at."""
    rng, real, waiting = seeded(seed, 0), torch.bernoulli, []

    def drawn(like: Any, p: float) -> Any:
        if not waiting:
            waiting.extend(rng.random((defaults["prenet_layers"], 1, defaults["prenet_units"])) < p)
        kept = torch.zeros_like(like)
        kept[-1] = torch.from_numpy(waiting.pop(0)[0])
        return kept

    torch.bernoulli = drawn
    try:
        yield
    finally:
        torch.bernoulli = real


def page(found: dict[str, Any]) -> str:
    m, words = found["machine"], {UPSTREAM: f"transformers {found['transformers']}, fp32"}
    words |= {name: said for name, (said, _) in ARMS.items()}
    titles = {
        "one": f"One request of {ONE} characters",
        "alike": f"{len(LENGTHS)} requests at once, {ONE} characters each",
        "eight": f"{len(LENGTHS)} requests at once, of {LENGTHS[0]} to {LENGTHS[-1]} characters",
    }
    lines = [
        "# SpeechT5 beside transformers",
        "",
        f"{m['cpu']}, {found['threads']} threads, Python {m['python']}, ONNX Runtime {m['packages']['onnxruntime']}. "
        f"Seeded weights ({found['million_weights']:.0f} million and the vocoder's), {RATIO:g} frames for a character, "
        "text to samples. Medians of seconds, with lowest and highest; all arms take turns in every round. "
        "Made by `python benchmarks/speecht5.py`.",
        "",
    ]
    if found["largest_difference"] is not None:
        lines += [
            f"With the same dropout, the samples of both differ by {found['largest_difference']:.1g} at most (fp32).",
            "",
        ]
    for kind, title in titles.items():
        rows = found["seconds"][kind]
        audio = found["frames"][kind] / found["frame_rate"]
        base = statistics.median(rows[UPSTREAM])
        lines += [f"## {title}", "", f"{found['frames'][kind]:,} frames, {audio:.1f} s of speech.", ""]
        lines += ["| arm | n | s | times as fast | RTF |", "|---|---|---|---|---|"]
        for name, spent in rows.items():
            mid = statistics.median(spent)
            lines.append(
                f"| {words[name]} | {len(spent)} | {mid:.2f} ({min(spent):.2f} to {max(spent):.2f}) "
                f"| {base / mid:.2f} | {mid / audio:.3f} |"
            )
        lines.append("")
    lines += [
        "`generate_speech` goes on with every row of a batch until its last one ends, and gives the vocoder rows that "
        "are padded to the longest. Frames behind a row's own end are not counted for any arm.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
