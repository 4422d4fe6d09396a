"""A tiny voice, from nothing to a proven INT8 model, by one command:

    python examples/tiny_voice/run.py --out build/tiny

The Piper voice speaks sentences, a Keras network of 69,072 parameters learns its log-mels, the family imports it and
makes sound of them by Griffin-Lim; the gate judges INT8, all are scored on sentences that nobody trained on and timed
beside Keras, and what was found goes to a page. `--sentences`, `--minutes`, `--texts` and `--scale` make it small.
Every step is kept, training too: run it again to go on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # Griffin-Lim, too, is timed on one
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import lessons
import model as network
import numpy as np
import sentences

import keras_steps
import vivace
from page import write_page
from vivace.core import machine, registry
from vivace.core.bundle import MANIFEST, Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.families._griffin_lim import GriffinLim
from vivace.workflows import _task, evaluate, gate, texts
from vivace.workflows.clips import Store
from vivace.workflows.recipe import load

RECIPE = Path(__file__).parent / "recipe.toml"
METRICS = ("predicted_mos", "wer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for lessons, models and the page")
    parser.add_argument("--sentences", type=int, default=700, help="that the teacher speaks for the network")
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, on one core")
    parser.add_argument("--scale", type=float, default=1.0, help="scales the network's channels")
    parser.add_argument("--texts", type=int, default=60, help="evaluation sentences")
    parser.add_argument("--rounds", type=int, default=25, help="interleaved timing rounds")
    parser.add_argument("--metrics", default="", help="of the gate, separated by commas; none: all")
    parser.add_argument("--page", type=Path, help="write the results page here (default: OUT/tiny_voice.md)")
    args = parser.parse_args()
    found = run(args, lambda message: print(message, file=sys.stderr, flush=True))
    print(write_page(found, args.page or args.out / "tiny_voice.md"))


def run(args: argparse.Namespace, tell: Any) -> dict[str, Any]:
    """All steps; what the page tells, as JSON."""
    out, saved = args.out, args.out / "tiny.keras"
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "lessons.npz").exists():
        lessons.make(out, sentences.make(args.sentences), tell)
    if not saved.exists():
        network.train(out, saved, minutes=args.minutes, scale=args.scale, tell=tell)
    bundle = (
        open_bundle(out / "fp32") if (out / "fp32" / MANIFEST).exists() else vivace.import_model(saved, out / "fp32")
    )
    store, heard = Store(out / "store"), texts.evaluation(args.texts)
    progress = _Told(tell)
    result = vivace.optimize(
        bundle,
        out / "int8",
        load(str(RECIPE)),
        gate.Settings(texts=args.texts, rounds=max(3, args.rounds)),
        metrics=tuple(filter(None, args.metrics.split(","))),
        store=store,
        overwrite=True,
        progress=progress,
    )
    kept = "int8" in result.bundle.stages[0].precision
    int8 = result.bundle if kept else _forced(bundle, out / "forced")
    arms = {"teacher (Piper)": lessons.teacher(), "ONNX, fp32": bundle, "ONNX, INT8": int8}
    scores = {
        name: vivace.evaluate(one, heard, metrics=METRICS, store=store, progress=progress).details["scores"]
        for name, one in arms.items()
    }
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "settings": {
            "sentences": args.sentences,
            "minutes": args.minutes,
            "texts": args.texts,
            "rounds": args.rounds,
            "threads": 1,
        },
        "parameters": bundle.defaults["saved"]["parameters"],
        "quality": _quality(scores, heard),
        "int8_kept": kept,
        "sizes": keras_steps.sizes(saved, bundle, int8),
        **_times(saved, bundle, int8, out, args.rounds),
        "trials": [
            {"pass": t["label"], "objective": t["objective"], "kept": t["kept"], "reasons": t["reasons"]}
            for t in result.report.details["trials"]
        ],
    }


class _Told:
    """Progress in lines: a new one for each new message, at most one a second."""

    def __init__(self, tell: Any) -> None:
        self._tell, self._last = tell, 0.0

    def __call__(self, message: str, share: float) -> None:
        if time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            self._tell(f"{message} ({share:.0%})")


def _forced(bundle: Bundle, out: Path) -> Bundle:
    """The same passes without the gate, which kept none: the page shows them all the same, and says so."""
    rows = _task.Speech().record(bundle, texts.calibration(_task.CALIBRATION_TEXTS))
    for k, entry in enumerate(load(str(RECIPE)).passes[1:]):
        module = registry.load("passes", entry.name)
        if (out / str(k) / MANIFEST).exists():
            bundle = open_bundle(out / str(k))
        else:
            bundle = module.apply(bundle, out / str(k), entry.settings, Context(lambda stage: rows[stage]))
    return bundle


def _quality(scores: dict[str, dict[str, list[float]]], heard: list[str]) -> dict[str, Any]:
    """Each metric with its interval, and the paired change from fp32 to INT8."""

    def plain(found: Any) -> dict[str, float]:
        return {"value": found.mean, "low": found.low, "high": found.high}

    rows: dict[str, Any] = {
        arm: {name: plain(evaluate.mean(name, values, heard)) for name, values in one.items()}
        for arm, one in scores.items()
    }
    fp32, int8 = scores["ONNX, fp32"], scores["ONNX, INT8"]
    changes = {name: plain(evaluate.difference(name, int8[name], fp32[name], heard)) for name in METRICS}
    return {"arms": rows, "change": changes, "texts": len(heard)}


def _times(saved: Path, fp32: Bundle, int8: Bundle, out: Path, rounds: int) -> dict[str, Any]:
    """Of the medium sentence: the network in every arm, and Griffin-Lim, which all of them need."""
    rows = _task.Speech().record(fp32, [texts.latency()["medium"]])["model"]
    frames = np.concatenate([next(iter(row.values())) for row in rows], axis=1).astype(np.int32)
    arms, missing = keras_steps.arms(saved, fp32, int8, np.concatenate([frames, frames]))
    seconds = keras_steps.interleaved(arms, frames, rounds)
    made = arms["ONNX Runtime, fp32"](frames)
    vocoder = GriffinLim(lessons.MEL)
    mels = next(iter(made.values()))[0]
    sound = keras_steps.interleaved({"Griffin-Lim": lambda x: vocoder(x, np.random.default_rng(0))}, mels, rounds)
    return {
        "seconds": seconds,
        "missing": missing,
        "griffin_lim": sound["Griffin-Lim"],
        "gpu": keras_steps.on_gpu(saved, frames, rounds),
        "speech_seconds": len(mels) * lessons.MEL.hop / lessons.MEL.rate,
    }


if __name__ == "__main__":
    main()
