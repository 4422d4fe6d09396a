"""The real Piper voice as a checkpoint in Coqui's layout, imported and spoken; and through PyTorch to Piper again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import coqui_vits  # noqa: E402
from vivace.core.bundle import Bundle  # noqa: E402
from vivace.families import coqui, piper  # noqa: E402

TEXTS = ["Hello there.", "The quick brown fox, it is said, jumped over the lazy dog."]
CLOSE = -60.0  # dB under the peak

pytestmark = pytest.mark.voice


def test_through_coquis_layout_it_says_the_same(real_voice: Bundle, tmp_path: Path) -> None:
    folder = coqui.export(real_voice, tmp_path / "folder")[0].parent
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["characters"]["characters_class"].endswith("IPAPhonemes")
    stored = torch.load(folder / "model_file.pth", weights_only=True)["model"]
    assert {"flow.flows.0.enc.in_layers.0.weight_g", "posterior_encoder.enc.in_layers.15.weight_v"} <= set(stored)
    assert (folder / "model_file.pth").stat().st_size < 64e6
    again = coqui.import_(folder, tmp_path / "again")
    assert max(coqui_vits.differences(real_voice, again, TEXTS)) < CLOSE


def test_through_pytorch_it_says_the_same(real_voice: Bundle, real_model: Path, tmp_path: Path) -> None:
    file = coqui_vits.through_torch(real_voice, real_model, tmp_path / "through")
    names = [i.name for i in onnx.load(str(file)).graph.input]
    assert names == ["input", "input_lengths", "scales"]
    again = piper.import_(file, tmp_path / "again")
    found = coqui_vits.differences(real_voice, again, TEXTS)
    assert max(found) < CLOSE
    assert np.isfinite(found).all(), "equal bits would mean that nothing was computed anew"
