"""The characters that a SpeechT5 model reads, from its tokenizer's files: no tokenizer library is needed.

A SentencePiece model is a protocol buffer: messages of fields, each a number, a wire type and a value. Of it only the
pieces, what kind of model it is, and how text is prepared are read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelError

NORMAL, UNKNOWN = 1, 2  # types of a piece
FORMS = {"identity": "", "nfkc": "NFKC", "nmt_nfkc": "NFKC", "nfkc_cf": "NFKC", "nmt_nfkc_cf": "NFKC"}
SPACE = "\u2581"


def read_tokenizer(folder: Path, end: int, longest: int, tokens: int) -> dict[str, Any]:
    """Settings for the text front end `pieces`. `end` closes every sentence of at most `longest` ids below `tokens`.
    Raises ModelError if there is no character tokenizer that can be read."""
    for name, reader in (("spm_char.model", _sentencepiece), ("tokenizer.json", _tokenizers), ("vocab.json", _plain)):
        file = folder / name
        if file.is_file():
            try:
                voice = reader(file)
            except ModelError:
                raise
            except Exception as error:
                raise ModelError(f"{file} is no readable tokenizer ({type(error).__name__}: {error})") from error
            return _checked(file, voice | {"end": end, "longest": longest, "spell": _spells(folder)}, tokens)
    raise ModelError(f"{folder} has no tokenizer (spm_char.model, tokenizer.json or vocab.json); copy it there")


def _checked(file: Path, voice: dict[str, Any], tokens: int) -> dict[str, Any]:
    characters = voice["characters"]
    if not all(isinstance(c, str) and len(c) == 1 and type(i) is int and i >= 0 for c, i in characters.items()):
        raise ModelError(f"{file} is no tokenizer of single characters, which SpeechT5 reads")
    if not characters or type(voice["unknown"]) is not int:
        raise ModelError(f"{file} lacks characters, or an id for those that are unknown")
    largest = max(*characters.values(), voice["unknown"])
    if largest >= tokens:
        raise ModelError(f"{file} has the id {largest}, the configuration says vocab_size {tokens}: they do not belong")
    return voice


def _spells(folder: Path) -> bool:
    """Whether numbers are to be spelled in English."""
    try:
        return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["normalize"] is True
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _sentencepiece(file: Path) -> dict[str, Any]:
    pieces: list[tuple[str, int]] = []
    form, prefix, squeeze = "nmt_nfkc", True, True
    for number, value in _fields(file.read_bytes()):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode("utf-8"), piece.get(3, NORMAL)))
        elif number == 3:
            spec = dict(_fields(value))
            form, prefix, squeeze = spec.get(1, b"nmt_nfkc").decode(), bool(spec.get(3, 1)), bool(spec.get(4, 1))
    if form not in FORMS:
        raise ModelError(f"{file} prepares text by {form!r}, which is not known; known: {', '.join(FORMS)}")
    return {
        "characters": {piece: i for i, (piece, kind) in enumerate(pieces) if kind == NORMAL},
        "unknown": next((i for i, (_, kind) in enumerate(pieces) if kind == UNKNOWN), None),
        "form": FORMS[form],
        "fold": form.endswith("_cf"),
        "prefix": prefix,
        "squeeze": squeeze,
    }


def _tokenizers(file: Path) -> dict[str, Any]:
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # a Unigram model: [piece, score] in the order of their ids
        vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    unknown = model.get("unk_id", vocabulary.get(model.get("unk_token") or "<unk>"))
    return _listed(vocabulary, unknown)


def _plain(file: Path) -> dict[str, Any]:
    vocabulary = json.loads(file.read_text(encoding="utf-8"))
    return _listed(vocabulary, vocabulary.get("<unk>"))


def _listed(vocabulary: dict[str, int], unknown: int | None) -> dict[str, Any]:
    """As SentencePiece prepares text unless it is told otherwise."""
    known = {piece: i for piece, i in vocabulary.items() if not (piece.startswith("<") and piece.endswith(">"))}
    form = {"form": "NFKC", "fold": False, "prefix": True, "squeeze": True}
    return {"characters": known, "unknown": unknown, **form}


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, a float, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind, size = key & 7, 0
        if kind == 0:
            value: Any
            value, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            value = data[at : at + size]
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            (value,) = struct.unpack("<d" if kind == 1 else "<f", data[at : at + size])
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("it ends too early")
        at += size
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without an end")
