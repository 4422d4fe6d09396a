"""The benchmark runs through with a tiny voice and says whether the formats kept it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import coqui_vits  # noqa: E402
from families import coqui_maker  # noqa: E402
from vivace.families import coqui, piper  # noqa: E402


def test_quick_runs_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    framed = {
        "characters_class": "TTS.tts.utils.text.characters.Graphemes", "characters": coqui_maker.LETTERS,
        "punctuations": "!,. ", "pad": "<PAD>", "bos": "<", "eos": ">", "blank": "~", "is_unique": False,
    }  # fmt: skip
    args = {"resblock_dilation_sizes_decoder": [[1, 2], [1, 3]]}
    folder = coqui_maker.make(
        tmp_path, text_cleaner="no_cleaners", enable_eos_bos_chars=True, characters=framed, args=args
    )
    voice = coqui.import_(folder, tmp_path / "voice")
    model = piper.export(voice, tmp_path / "piper")[0]
    config = json.loads(model.with_name(f"{model.name}.json").read_text(encoding="utf-8"))
    assert config["phoneme_id_map"]["^"] != []
    assert coqui_vits.main(["--texts", "2", "--rounds", "1", "--no-quality", "--page", "-"], model) == 0
    said = capsys.readouterr().out
    assert "DOES NOT" not in said
    assert said.count("| Coqui folder, imported |") == 1
    assert "| INT8 weights, saved and loaded | " in said


def test_decibels() -> None:
    import numpy as np

    true = np.array([0.0, 1.0, -0.5], np.float32)
    assert coqui_vits.decibels(true, true) == float("-inf")
    assert coqui_vits.decibels(true, true + np.float32([0, 0, 0.1])) == pytest.approx(-20)
    assert coqui_vits.decibels(true, true[:2]) == float("inf")
