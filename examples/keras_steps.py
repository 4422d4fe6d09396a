"""What the examples of Keras models share: sizes and times of a model beside what it became, and tables of them."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.stage import Array, RuntimeOptions
from vivace.engine.sessions import open_sessions
from vivace.workflows import stats

ARMS = ("Keras, model.predict", "Keras, compiled call", "ONNX Runtime, fp32", "ONNX Runtime, INT8")
Call = Callable[[Array], Any]


def arms(saved: Path, fp32: Bundle, int8: Bundle, example: Array) -> tuple[dict[str, Call], dict[str, str]]:
    """(what is timed, by name; why an arm is missing). One thread; `example` is an input [batch, time, channels]."""
    import keras
    import torch

    torch.set_num_threads(1)
    with keras.device("cpu"):
        whole = keras.saving.load_model(saved, compile=False)

    def predict(rows: Array) -> Any:
        with keras.device("cpu"):
            return whole.predict(rows, batch_size=32, verbose=0)

    found: dict[str, Call] = {ARMS[0]: predict}
    missing = {}
    try:  # exported first: Keras's own Python would be compiled anew for every layer, up to a limit
        compiled = torch.compile(_exported(whole, example).module())
        compiled(torch.from_numpy(example))
        found[ARMS[1]] = lambda rows: _without_gradients(compiled, rows)
    except Exception as error:  # noqa: BLE001 - no C++ compiler, for instance: the page says so
        missing[ARMS[1]] = str(error).splitlines()[0][:200]
    for name, bundle in zip(ARMS[2:], (fp32, int8), strict=True):
        session = open_sessions(bundle, RuntimeOptions(threads=1))["model"]
        taken = next(iter(bundle.stages[0].inputs))
        found[name] = lambda rows, session=session, taken=taken: session.run({taken: rows})
    return found, missing


def on_gpu(saved: Path, rows: Array, rounds: int) -> dict[str, Any]:
    """`seconds` of every run of the exported model on `device`, transfers included; empty, with `why`, without one."""
    import keras
    import torch

    if not torch.cuda.is_available():
        return {"seconds": [], "why": "PyTorch sees no GPU here"}
    with keras.device("cpu"):
        program = _exported(keras.saving.load_model(saved, compile=False), np.concatenate([rows, rows]))
    graph = torch.export.passes.move_to_device_pass(program, "cuda").module()

    def call(given: Array) -> Any:
        with torch.inference_mode():
            return graph(torch.from_numpy(given).cuda()).cpu()

    return {"seconds": interleaved({"gpu": call}, rows, rounds)["gpu"], "device": torch.cuda.get_device_name()}


def _exported(whole: Any, example: Array) -> Any:
    """The model as PyTorch's exported program, with open batch and time axes."""
    import torch

    class Inference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = whole

        def forward(self, rows: Any) -> Any:
            return self.inner(rows, training=False)

    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(Inference().eval(), (torch.from_numpy(example),), dynamic_shapes=(axes,))


def _without_gradients(call: Call, rows: Array) -> Any:
    import torch

    with torch.inference_mode():
        return call(torch.from_numpy(rows))


def interleaved(found: dict[str, Call], rows: Array, rounds: int) -> dict[str, list[float]]:
    """Seconds of every run by arm, in another order in each round."""
    shuffle = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for call in found.values():  # compilers and arenas warm up
        for _ in range(3):
            call(rows)
    for _ in range(rounds):
        order = list(found)
        shuffle.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            found[name](rows)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def sizes(saved: Path, fp32: Bundle, int8: Bundle) -> dict[str, int]:
    """Bytes at every step: what was saved, without the optimizer, as fp32 ONNX, as INT8 ONNX."""
    told = fp32.defaults["saved"]
    return {
        "saved": saved.stat().st_size,
        "without optimizer": told["file"] - told["optimizer"],
        "fp32": fp32.size,
        "int8": int8.size,
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]


def size_table(found: dict[str, int], unit: str, divisor: int) -> list[str]:
    names = {
        "saved": "Keras file, optimizer state within",
        "without optimizer": "optimizer state left out",
        "fp32": "format: ONNX, fp32",
        "int8": "INT8",
    }
    rows, before = [], 0
    for key, name in names.items():
        size = found[key]
        rows.append([name, f"{size:,}", f"{size / divisor:.2f}", f"{before / size:.2f}" if before else "–"])
        before = size
    whole = found["int8"] / found["saved"]
    rows.append(["altogether", "", f"{100 * whole:.2f}% of the file", f"{1 / whole:.2f}"])
    return table(("step", "bytes", unit, "times smaller than before"), rows)


def time_table(seconds: dict[str, list[float]]) -> list[str]:
    last = list(seconds)[-1]
    rows, before = [], ""
    for name, runs in seconds.items():
        step = stats.median_ratio(seconds[before], runs) if before else None
        whole = stats.median_ratio(runs, seconds[last])
        low, _, high = statistics.quantiles(runs, n=4)
        rows.append(
            [
                name,
                f"{1000 * statistics.median(runs):.2f} ({1000 * low:.2f} to {1000 * high:.2f})",
                f"{step.mean:.2f} ({step.low:.2f} to {step.high:.2f})" if step else "–",
                f"{whole.mean:.2f} ({whole.low:.2f} to {whole.high:.2f})" if name != last else "–",
            ]
        )
        before = name
    columns = ("arm", "median ms (quartiles)", "times as fast as the row above", "times slower than INT8")
    return table(columns, rows)


def gate_said(found: dict[str, Any]) -> list[str]:
    """The lines of a page on what was kept, and why not."""
    lines = ["## What the gate said", ""]
    for t in found["trials"]:
        asked = f", for {t['objective']}" if "objective" in t else ""
        lines.append(f"- {t['pass']}{asked}: {'kept' if t['kept'] else 'refused: ' + '; '.join(t['reasons'])}")
    if not found["int8_kept"]:
        lines += ["", "No INT8 was kept. The rows named INT8 show the one that was refused."]
    return lines


def written(lines: Sequence[str], found: dict[str, Any], path: Path) -> str:
    """The page, which is at `path` now with `found` as JSON beside it."""
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return text
