"""What transformers' own SpeechT5 says with the small seeded model of the tests: tests/families/data/speecht5.

    pip install torch transformers sentencepiece
    python scripts/speecht5_reference.py

Every case is spoken by `SpeechT5ForTextToSpeech.generate_speech` on the CPU in fp32, with the masks of the prenet's
dropout drawn from the seed as Vivace draws them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5Tokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from families import speecht5_maker as maker  # noqa: E402
from vivace.core.stage import seeded  # noqa: E402

DATA = ROOT / "tests" / "families" / "data" / "speecht5"
VOICES = {"ann": maker.voice(1), "bob": maker.voice(2)}
# Settings that differ from the model's own (maxlenratio 3, threshold 0.5, minlenratio 0, dropout 0.5).
CASES: dict[str, dict[str, Any]] = {
    "cut at maxlenratio": {"text": "the quick brown fox, it's here.", "voice": "ann", "seed": 1},
    "stops by itself": {"text": "hello there.", "voice": "bob", "seed": 2, "threshold": 0.06},
    "not before minlenratio": {
        "text": "hello there.",
        "voice": "bob",
        "seed": 2,
        "threshold": 0.05,
        "minlenratio": 2.5,
    },
    "no dropout": {"text": "a b, what?", "voice": "ann", "seed": 3, "dropout": 0.0},
    "much dropout": {"text": "unkn\u00f6wn \u00e9\u00e9 letters", "voice": "bob", "seed": 4, "dropout": 0.8},
}


@contextmanager
def masks(seed: int, layers: int, units: int) -> Iterator[None]:
    """In place of torch's: only the last position of each step is looked at, and gets the row's own noise."""
    rng, real, waiting = seeded(seed, 0), torch.bernoulli, []

    def drawn(like: torch.Tensor, p: float) -> torch.Tensor:
        if not waiting:
            waiting.extend(rng.random((layers, 1, units)) < p)
        made = torch.zeros_like(like)
        made[-1] = torch.from_numpy(waiting.pop(0)[0])
        return made

    torch.bernoulli = drawn
    try:
        yield
    finally:
        torch.bernoulli = real


def generate(model: Any, vocoder: Any, tokenizer: Any, case: dict[str, Any], voice: np.ndarray) -> tuple[Any, Any]:
    """The mel [frames, mels] and the samples of one case."""
    model.config.speech_decoder_prenet_dropout = case.get("dropout", 0.5)
    limits = {"threshold": case.get("threshold", 0.5), "minlenratio": case.get("minlenratio", 0.0), "maxlenratio": 3.0}
    ids = tokenizer(case["text"], return_tensors="pt").input_ids
    with torch.no_grad(), masks(case["seed"], len(model.speecht5.decoder.prenet.layers), 16):
        mel = model.generate_speech(ids, torch.from_numpy(voice)[None], **limits)
        return mel.numpy(), vocoder(mel).numpy()


def load(folder: Path) -> tuple[Any, Any, Any]:
    model = SpeechT5ForTextToSpeech.from_pretrained(folder).eval()
    vocoder = SpeechT5HifiGan.from_pretrained(folder / "vocoder").eval()
    return model, vocoder, SpeechT5Tokenizer(str(folder / "spm_char.model"))


def main() -> int:
    shutil.rmtree(DATA, ignore_errors=True)
    folder = maker.make(DATA.parent, DATA.name, voices=VOICES)
    parts = load(folder)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        mel, samples = generate(*parts, case, VOICES[case["voice"]])
        found |= {f"{name} mel": mel, f"{name} samples": samples}
        print(f"{name}: {len(mel)} frames, {np.std(samples):.3f}")
    np.savez_compressed(DATA / "expected.npz", **found)
    (DATA / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
