"""The example of spoken commands, whole, at a small scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # without it Keras looks for TensorFlow, and is not found
for name in ("torch", "keras", "onnxscript", "espeakng_loader"):
    pytest.importorskip(name)
RUN = Path(__file__).parents[2] / "examples" / "spoken_commands" / "run.py"


def test_from_nothing_to_a_page(tmp_path: Path) -> None:
    small = ["--clips", "6", "--piper", "0", "--epochs", "1", "--width", "0.05", "--rounds", "3"]
    done = subprocess.run(
        [sys.executable, str(RUN), "--out", str(tmp_path), *small], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "keras.json").read_text(encoding="utf-8"))
    sizes = found["sizes"]
    assert sizes["saved"] > sizes["without optimizer"] > sizes["int8"]
    assert found["test_clips"] == 4 * 12
    speakers = {}
    for which in ("training", "calibration", "test"):
        rows = (tmp_path / "data" / which / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
        speakers[which] = {(row.split(",")[2].partition("+")[2], row.split(",")[3]) for row in rows}
    for other in ("training", "calibration"):
        assert not {voice for voice, _ in speakers["test"]} & {voice for voice, _ in speakers[other]}
        assert not {speed for _, speed in speakers["test"]} & {speed for _, speed in speakers[other]}
    assert {t["pass"] for t in found["trials"]} == {"int8_dynamic", "int8_static", "short_names"}
    page = (tmp_path / "keras.md").read_text(encoding="utf-8")
    assert "optimizer state left out" in page
    assert set(found["seconds"]) == {"1", "32", "missing", "rounds"}
