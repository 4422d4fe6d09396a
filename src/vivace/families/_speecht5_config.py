"""The files of a SpeechT5 text-to-speech model: Hugging Face's folder, with the vocoder's folder in it or beside it.

config.json          "model_type": "speecht5"; also `threshold`, `minlenratio`, `maxlenratio` if given
model.safetensors    as `save_pretrained` writes it
spm_char.model       or tokenizer.json, or vocab.json: see _speecht5_tokenizer
voices.npz, speakers.safetensors, NAME.npy    x-vectors by the names of their voices, if any
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Array
from vivace.families._speecht5_graph import Shape
from vivace.families._transformer_config import CONFIG

TYPE, KIND = "speecht5", "SpeechT5ForTextToSpeech"
LARGEST = 2**20
# Our names, Hugging Face's, and what it takes where config.json says nothing.
SIZES: dict[str, tuple[str, int]] = {
    "tokens": ("vocab_size", 81),
    "width": ("hidden_size", 768),
    "encoder_layers": ("encoder_layers", 12),
    "encoder_heads": ("encoder_attention_heads", 12),
    "encoder_hidden": ("encoder_ffn_dim", 3072),
    "decoder_layers": ("decoder_layers", 6),
    "heads": ("decoder_attention_heads", 12),
    "decoder_hidden": ("decoder_ffn_dim", 3072),
    "mels": ("num_mel_bins", 80),
    "frames_per_step": ("reduction_factor", 2),
    "prenet_layers": ("speech_decoder_prenet_layers", 2),
    "prenet_units": ("speech_decoder_prenet_units", 256),
    "postnet_layers": ("speech_decoder_postnet_layers", 5),
    "postnet_units": ("speech_decoder_postnet_units", 256),
    "postnet_kernel": ("speech_decoder_postnet_kernel", 5),
    "speaker": ("speaker_embedding_dim", 512),
    "reach": ("encoder_max_relative_position", 160),
    "longest_text": ("max_text_positions", 450),
    "longest_speech": ("max_speech_positions", 4000),
}


@dataclass(frozen=True)
class Config:
    """`dropout` is that of the prenet, which is drawn whenever it speaks; the rest is as `generate_speech` has it."""

    shape: Shape
    dropout: float
    threshold: float
    minlenratio: float
    maxlenratio: float
    end: int


def recognise(path: Path) -> bool:
    try:
        data = json.loads((folder(path) / CONFIG).read_text(encoding="utf-8"))
        return bool(data["model_type"] == TYPE)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def folder(path: Path) -> Path:
    """Of the model, which may be named by its config.json."""
    path = Path(path)
    return path.parent if path.name == CONFIG else path


def read_config(path: Path) -> Config:
    """Raises ModelError naming the wrong field."""
    file = folder(path) / CONFIG
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON ({error})") from None
    if not isinstance(data, dict) or data.get("model_type") != TYPE:
        raise ModelError(f'{file} is no such model: it needs "model_type": "{TYPE}"')

    def need(holds: bool, name: str, what: str) -> None:
        if not holds:
            raise ModelError(f"{file}: field {name} is missing or wrong; it must be {what}")

    def number(name: str, default: float, low: float, high: float) -> float:
        value = data.get(name, default)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        need(good, name, f"a number from {low:g} to {high:g}")
        return float(value)

    kinds = data.get("architectures") or [KIND]
    need(isinstance(kinds, list) and KIND in kinds, "architectures", f"{KIND}: other tasks do not speak text")
    sizes = {}
    for ours, (name, default) in SIZES.items():
        value = data.get(name, default)
        need(type(value) is int and 1 <= value <= LARGEST, name, "a whole number from 1 up")
        sizes[ours] = value
    for heads in ("encoder_heads", "heads"):
        need(sizes["width"] % sizes[heads] == 0, SIZES[heads][0], "a divisor of hidden_size")
    need(sizes["width"] % 2 == 0, "hidden_size", "even")
    need(sizes["postnet_kernel"] % 2 == 1, "speech_decoder_postnet_kernel", "odd")
    activation = data.get("hidden_act", "gelu")
    need(activation in ("gelu", "relu"), "hidden_act", "gelu or relu")
    need(data.get("layer_norm_eps", 1e-5) == 1e-5, "layer_norm_eps", "1e-5")
    end = data.get("eos_token_id", 2)
    need(type(end) is int and 0 <= end < sizes["tokens"], "eos_token_id", "the id of a token")
    return Config(
        Shape(**sizes, activation=activation),
        number("speech_decoder_prenet_dropout", 0.5, 0, 0.99),
        number("threshold", 0.5, 0, 1e9),
        number("minlenratio", 0, 0, 1e3),
        number("maxlenratio", 20, 0, 1e3),
        end,
    )


def read_voices(path: Path, numbers: int) -> dict[str, Array]:
    """x-vectors [numbers] by name, sorted; none if there are no such files. Raises ModelError for a file that is
    damaged or has another size."""
    found: dict[str, Array] = {}
    for file in sorted(folder(path).iterdir()):
        if file.name in ("voices.npz", "speakers.safetensors") or file.suffix == ".npy":
            found |= _vectors(file)
    for name, vector in found.items():
        size = vector.size if vector.dtype.kind == "f" else 0
        if size != numbers or not np.isfinite(vector).all():
            raise ModelError(f"the voice {name!r} is no x-vector of {numbers} numbers; make it with the same encoder")
    return {name: found[name].astype(np.float32).reshape(-1) for name in sorted(found)}


def _vectors(file: Path) -> dict[str, Array]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(file))
        loaded: Any = np.load(file, allow_pickle=False)
        return {name: loaded[name] for name in loaded.files} if file.suffix == ".npz" else {file.stem: loaded}
    except ImportError:
        raise MissingDependency("safetensors", "transformer") from None
    except Exception as error:  # zip, NumPy and safetensors each raise their own
        raise ModelError(f"{file} holds no readable voices ({error})") from error
