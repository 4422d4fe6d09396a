"""Tiny voices in the layout of coqui-tts: config.json, model_file.pth with weights from a seed, a table of speakers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ARGS: dict[str, Any] = {
    "hidden_channels": 8, "hidden_channels_ffn_text_encoder": 12, "num_layers_text_encoder": 1, "num_layers_flow": 2,
    "upsample_rates_decoder": [8, 4], "upsample_initial_channel_decoder": 8, "upsample_kernel_sizes_decoder": [16, 8],
    "resblock_kernel_sizes_decoder": [3, 5], "resblock_dilation_sizes_decoder": [[1, 2], [1, 3]],
    "resblock_type_decoder": "2", "init_discriminator": False,
}  # fmt: skip
NORMS = (".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1")


def config(speakers: int = 0, **more: Any) -> dict[str, Any]:
    args = {**ARGS, **more.pop("args", {})}
    if speakers:
        args |= {"use_speaker_embedding": True, "speaker_embedding_channels": 4}
    return {
        "model": "vits", "audio": {"sample_rate": 8000, "hop_length": 32}, "model_args": args,
        "text_cleaner": "english_cleaners", "use_phonemes": False, "add_blank": True,
        "characters": {
            "characters_class": "TTS.tts.models.vits.VitsCharacters", "pad": "_", "characters": LETTERS,
            "phonemes": None, "punctuations": ";:,.!? ",
        },
        **more,
    }  # fmt: skip


def weights(given: dict[str, Any], speakers: int, spelling: int = 0, seed: int = 0) -> dict[str, Any]:
    """Their names and shapes, with weight norm, and something of what training alone needs."""
    import torch

    from vivace.core import registry
    from vivace.modules._vits_coqui import shape, write
    from vivace.modules._vits_coqui_rest import NORMED
    from vivace.modules.vits import Vits

    symbols = len(registry.load("text", "coqui").reader(given).vocabulary)
    torch.manual_seed(seed)
    args = {**given["model_args"], "num_chars": symbols, "num_speakers": speakers}
    voice = Vits(shape({"model": "vits", "model_args": args}))
    for coupling in voice.flow.flows[::2]:
        torch.nn.init.normal_(coupling.post.weight, 0, 0.1)
    made: dict[str, Any] = {}
    for name, value in write(voice.state_dict()).items():
        if NORMED.fullmatch(name):
            length, direction = (name.removesuffix(".weight") + end for end in NORMS[spelling])
            made[length] = torch.from_numpy(np.sqrt(np.square(value.numpy()).sum((1, 2), keepdims=True)))
            made[direction] = 3 * value
        else:
            made[name] = value
    return {**made, "posterior_encoder.pre.weight": torch.zeros(8, 5, 1), "disc.nets.0.bias": torch.zeros(3)}


def make(folder: Path, name: str = "tiny", *, speakers: int = 0, spelling: int = 0, seed: int = 0, **more: Any) -> Path:
    """Writes the folder NAME; returns its path."""
    import torch

    path = folder / name
    path.mkdir(parents=True)
    given = config(speakers, **more)
    (path / "config.json").write_text(json.dumps(given), encoding="utf-8")
    torch.save({"model": weights(given, speakers, spelling, seed), "step": 3}, path / "model_file.pth")
    if speakers:
        torch.save({f"speaker {k}": k for k in range(speakers)}, path / "speakers.pth")
    return path
