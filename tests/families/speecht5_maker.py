"""Small SpeechT5 models with seeded weights, in the folders that Hugging Face's `save_pretrained` writes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vivace.families import _speecht5_config as config
from vivace.families import _speecht5_graph as graph
from vivace.families import _speecht5_vocoder as vocoder

CHARACTERS = "etaoinhsrdlumwcfgyp,bvk.xjqz'?T"
SIZES: dict[str, Any] = {
    "hidden_size": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_layers": 2,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 40, "num_mel_bins": 6, "reduction_factor": 2,
    "speech_decoder_prenet_layers": 2, "speech_decoder_prenet_units": 16, "speech_decoder_prenet_dropout": 0.5,
    "speech_decoder_postnet_layers": 3, "speech_decoder_postnet_units": 8, "speech_decoder_postnet_kernel": 5,
    "speaker_embedding_dim": 8, "encoder_max_relative_position": 5, "max_text_positions": 120,
    "max_speech_positions": 200, "vocab_size": 40,
}  # fmt: skip
VOCODER: dict[str, Any] = {
    "model_in_dim": 6, "sampling_rate": 4000, "upsample_initial_channel": 16, "upsample_rates": [4, 2],
    "upsample_kernel_sizes": [8, 4], "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]],
    "leaky_relu_slope": 0.1, "normalize_before": True,
}  # fmt: skip


def make(
    folder: Path, name: str = "hum", *, voices: dict[str, Any] | None = None, stop: float = -4.0, **changes: Any
) -> Path:
    """`stop` is the bias of the stop head: -4 never stops before maxlenratio."""
    folder = folder / name
    (folder / "vocoder").mkdir(parents=True)
    given = {"model_type": "speecht5", "architectures": ["SpeechT5ForTextToSpeech"], "maxlenratio": 3.0}
    (folder / "config.json").write_text(json.dumps({**given, **SIZES, **changes}), encoding="utf-8")
    (folder / "vocoder" / "config.json").write_text(json.dumps({"model_type": "hifigan", **VOCODER}), encoding="utf-8")
    save_file(weights(graph.weights_wanted(config.read_config(folder).shape), stop), folder / "model.safetensors")
    wanted = vocoder.weights_wanted(vocoder.read(folder / "vocoder"))
    save_file(weights(wanted, seed=1), folder / "vocoder" / "model.safetensors")
    (folder / "spm_char.model").write_bytes(sentencepiece())
    if voices:
        np.savez(folder / "voices.npz", **voices)
    return folder


def weights(wanted: dict[str, tuple[int, ...]], stop: float = -4.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Spread so that nothing fades or blows up."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, size in wanted.items():
        drawn = rng.standard_normal(size) / max(1, int(np.prod(size[1:]))) ** 0.5
        if name.endswith(("running_var", "scale")) or ("norm" in name and name.endswith("weight")):
            drawn = 0.8 + 0.2 * np.abs(drawn)
        elif name.endswith((".bias", "running_mean", "mean")):
            drawn = drawn * 0.1
        elif name.endswith("alpha"):
            drawn = np.asarray(0.7)
        made[name] = np.asarray(drawn, np.float32)
    if "speech_decoder_postnet.prob_out.bias" in made:
        made["speech_decoder_postnet.prob_out.bias"][:] = stop
    return made


def voice(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def sentencepiece(characters: str = CHARACTERS, form: str = "identity", **normalizer: int) -> bytes:
    """A SentencePiece model of single characters, written as the protocol buffer that it is."""
    pieces = [("<s>", 3), ("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("\u2581", 1), *((c, 1) for c in characters)]
    data = b""
    for k, (piece, kind) in enumerate(pieces):
        body = _bytes(1, piece.encode()) + b"\x15" + struct.pack("<f", -float(k)) + _number(3, kind)
        data += _bytes(1, body)
    trainer = {3: 4, 4: len(pieces), 40: 3, 41: 0, 42: 2, 43: 1}  # characters; ids of unk, bos, eos and pad
    data += _bytes(2, b"".join(_number(field, value) for field, value in trainer.items()))
    spec = _bytes(1, form.encode())
    spec += b"".join(_number({"prefix": 3, "squeeze": 4}[name], value) for name, value in normalizer.items())
    return data + _bytes(3, spec)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + bytes([value & 127 | 128]), value >> 7
    return made + bytes([value])
