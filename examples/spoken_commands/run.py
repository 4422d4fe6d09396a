"""Spoken commands, from nothing to a proven INT8 model, by one command:

    python examples/spoken_commands/run.py --out build/commands

Makes the clips, trains the Keras model (with its optimizer in the file), imports it, lets the gate judge the dynamic
INT8 of most guides and a static one, evaluates all of them on held-out speakers, times them beside Keras, and writes
what was found to a page. `--clips`, `--epochs` and `--width` make it small. Every step is kept: run it again to go on.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import model as network
import speech
import timing

import keras_steps
import vivace
from page import write_page
from vivace.core import machine, registry
from vivace.core.bundle import MANIFEST, Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.workflows import _task, gate
from vivace.workflows.classify import classify
from vivace.workflows.dataset import read
from vivace.workflows.recipe import load

RECIPE = Path(__file__).parent / "recipe.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, models and the page")
    parser.add_argument("--clips", type=int, default=480, help="training clips for each word (a quarter to be judged)")
    parser.add_argument("--piper", type=int, default=40, help="of them, by the Piper voice")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0, help="scales the model's channels")
    parser.add_argument("--rounds", type=int, default=25, help="interleaved timing rounds")
    parser.add_argument("--page", type=Path, help="write the results page here (default: OUT/keras.md)")
    args = parser.parse_args()
    found = run(args.out, args.clips, args.piper, args.epochs, args.width, args.rounds)
    print(write_page(found, args.page or args.out / "keras.md"))


def run(out: Path, clips: int, piper: int, epochs: int, width: float, rounds: int) -> dict[str, Any]:
    """All steps; what the page tells, as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    data, saved = out / "data", out / "commands.keras"
    if not (data / "test" / "manifest.csv").exists():
        speech.make(data, training=clips, test=max(4, clips // 4), piper=piper)
    if not saved.exists():
        network.train(data / "training", speech.WORDS, saved, epochs=epochs, width=width)
    bundle = _imported(saved, out / "fp32")
    task = _task.of(bundle, data / "test", data / "calibration", data / "training")
    result = _optimized(bundle, out, task, rounds)
    test = read(data / "test")
    kept = "int8" in result.bundle.stages[0].precision
    int8 = result.bundle if kept else _refused(bundle, out / "refused", task)
    keras_scores = timing.keras_answers(saved, data / "test", speech.WORDS)
    accuracy = {
        "Keras, fp32": keras_scores,
        "ONNX, fp32": _accuracy(bundle, test),
        "ONNX, INT8": _accuracy(int8, test, bundle),
    }
    seconds = timing.measure(saved, bundle, int8, data / "test", rounds)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "settings": {"clips": clips, "epochs": epochs, "width": width, "rounds": rounds, "threads": 1},
        "test_clips": len(test.items),
        "accuracy": accuracy,
        "int8_kept": kept,
        "sizes": keras_steps.sizes(saved, bundle, int8),
        "seconds": seconds,
        "trials": [
            {"pass": t["label"], "kept": t["kept"], "reasons": t["reasons"]} for t in result.report.details["trials"]
        ],
    }


def _imported(saved: Path, folder: Path) -> Bundle:
    return open_bundle(folder) if (folder / MANIFEST).exists() else vivace.import_model(saved, folder)


def _refused(bundle: Bundle, out: Path, task: Any) -> Bundle:
    """The static INT8 that the gate did not keep: the page shows it all the same, and says so."""
    if (out / MANIFEST).exists():
        return open_bundle(out)
    module = registry.load("passes", "int8_static")
    rows = task.record(bundle, ())
    made: Bundle = module.apply(bundle, out, module.Settings(), Context(lambda stage: rows[stage]))
    return made


def _optimized(bundle: Bundle, out: Path, task: Any, rounds: int) -> Any:
    settings = gate.Settings(rounds=max(3, rounds))
    return vivace.optimize(bundle, out / "int8", load(str(RECIPE)), settings, task=task, overwrite=True)


def _accuracy(bundle: Bundle, test: Any, reference: Bundle | None = None) -> dict[str, Any]:
    report = classify(bundle, test, reference=reference)
    found: dict[str, Any] = {}
    for name in ("accuracy", "macro_f1", *(["accuracy_change"] if reference else [])):
        m = report.get(name)
        found[name] = {"value": m.value, "low": m.low, "high": m.high}
    return found | {key: report.details[key] for key in ("mcnemar", "labels") if key in report.details}


if __name__ == "__main__":
    main()
