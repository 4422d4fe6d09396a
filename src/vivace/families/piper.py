"""Piper voices: VITS exported to ONNX, with a JSON of phoneme ids beside it.

The bundle holds three stages (text, flow, decoder) with all noise as explicit input; `export` joins them into one
standard Piper file again. Text to phoneme ids is the front end's work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.bundle import Bundle, atomic_file, write_bundle
from vivace.core.errors import ModelError
from vivace.core.stage import Session
from vivace.families import _vits_graph as vits
from vivace.families._piper_config import read_config
from vivace.families._vits_import import take_apart
from vivace.families._vits_proof import first_line
from vivace.families._vits_spelling import piper_from_coqui
from vivace.families._vits_voice import Voice

SUMMARY = "Piper VITS voice: NAME.onnx with NAME.onnx.json beside it, or a folder with both"
VOICE = "voice.json"
ALSO_EXPORTS = frozenset({"coqui"})  # bundles of these families can be written so, too
PADDED = (vits.DECODER, vits.LATENT, vits.MASK)  # the stage that pass few_shapes may give a mask: its signal, the mask
CROPPED = (vits.DECODER, vits.LATENT, vits.CROP)  # the same stage for pass crop_context: its signal, what is left of it


def recognise(path: Path) -> bool:
    try:
        _files(path)
    except ModelError:
        return False
    return True


def lacks(path: Path) -> str:
    """What stands between `path` and a Piper voice, if it is the JSON that belongs beside a model; else empty."""
    models = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if len(models) != 1 or models[0].suffix != ".onnx" or recognise(models[0]):
        return ""
    return f"{models[0].name}.json is not beside {models[0]}; a Piper voice needs both files"


def _files(path: Path) -> tuple[Path, Path]:
    """The model and its JSON. Raises ModelError if they are not both there."""
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.onnx"))
        if len(found) != 1:
            raise ModelError(f"{path} holds {len(found)} .onnx files; name the one to import")
        path = found[0]
    if path.suffix != ".onnx" or not path.is_file():
        raise ModelError(f"{path} is no .onnx file")
    config = path.with_name(path.name + ".json")
    if not config.is_file():
        raise ModelError(f"{config.name} is not beside {path}; a Piper voice needs both files")
    return path, config


def import_(path: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Cuts the voice into stages and proves the cut exact before anything is written."""
    import onnx

    file, config_file = _files(path)
    config = read_config(config_file)
    try:
        model = onnx.load(str(file), load_external_data=False)
        if vits.external(model):
            raise ModelError("it keeps weights in another file; export the voice as one file")
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"{file} is no readable ONNX model ({first_line(error)})") from error
    inputs = {i.name for i in model.graph.input}
    if not {"input", "input_lengths", "scales"} <= inputs <= {"input", "input_lengths", "scales", "sid"}:
        raise ModelError(f"{file} is no Piper voice: its inputs are {', '.join(sorted(inputs)) or 'none'}")
    if ("sid" in inputs) != (config.get("num_speakers", 1) > 1):
        raise ModelError(f"{config_file}: num_speakers does not fit the model, which has {_sid(inputs)} speaker input")
    parts = take_apart(model, np.array([i for group in config["phoneme_id_map"].values() for i in group], np.int64))
    rate = config["audio"]["sample_rate"]
    stages = parts.stages(rate)
    inference = config.get("inference", {})
    bundle = Bundle(
        path=out,
        name=file.stem,
        family="piper",
        sample_rate=rate,
        stages=stages,
        voices=_speakers(config),
        defaults={
            "noise_scale": float(inference.get("noise_scale", 0.667)),
            "length_scale": float(inference.get("length_scale", 1.0)),
            "noise_w": float(inference.get("noise_w", 0.8)),
            **parts.defaults,
        },
    )

    def fill(folder: Path) -> None:
        parts.write(folder, stages)
        (folder / VOICE).write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """NAME.onnx and NAME.onnx.json, as piper-tts reads them, and NAME.tokens.txt for sherpa-onnx (whose metadata
    are inside the model). `out` is a folder, or the .onnx file itself. Raises ModelError if a stage is no graph."""
    import onnx

    if other := next((s for s in bundle.stages if Path(s.file).suffix != ".onnx"), None):
        raise ModelError(f"stage {other.name} ({other.runtime}) is no ONNX graph; export the voice as it was before")
    config = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
    if bundle.family != "piper":
        config = _config(bundle, config)
    for_sherpa = all(config["phoneme_id_map"].values())  # it frames every text with ids, and wants to know them
    props = _sherpa(bundle, config) if for_sherpa else {}
    model = vits.join({s.name: onnx.load(str(bundle.file(s.file))) for s in bundle.stages}, props)
    file = out if out.suffix == ".onnx" else out / f"{bundle.name}.onnx"
    written = {
        file: model.SerializeToString(),
        file.with_name(file.name + ".json"): json.dumps(config, ensure_ascii=False, indent=2).encode(),
    }
    if for_sherpa:
        tokens = "".join(f"{symbol} {ids[0]}\n" for symbol, ids in config["phoneme_id_map"].items())
        written[file.with_suffix(".tokens.txt")] = tokens.encode()
    for path, data in written.items():
        atomic_file(path, data)
    return list(written)


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> Voice:
    config = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
    return Voice(bundle, sessions, "piper", config, int(config.get("default_speaker_id", 0)))


def _config(bundle: Bundle, coqui: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a Coqui voice. Raises ModelError if piper-tts cannot read as it does."""
    defaults = bundle.defaults
    return {
        "audio": {"sample_rate": bundle.sample_rate},
        "inference": {key: defaults[key] for key in ("noise_scale", "length_scale", "noise_w")},
        "num_speakers": max(1, len(bundle.voices)),
        "speaker_id_map": {name: i for i, name in enumerate(bundle.voices)},
        "hop_length": defaults["hop"],
        **piper_from_coqui(coqui),
    }


def _sid(inputs: set[str]) -> str:
    return "a" if "sid" in inputs else "no"


def _speakers(config: dict[str, Any]) -> tuple[str, ...]:
    count = config.get("num_speakers", 1)
    if count == 1:
        return ()
    names = {i: name for name, i in config.get("speaker_id_map", {}).items()}
    return tuple(names.get(i, str(i)) for i in range(count))


def _sherpa(bundle: Bundle, config: dict[str, Any]) -> dict[str, str]:
    """The metadata by which sherpa-onnx knows a Piper voice."""
    language = config.get("language", {})
    return {
        "model_type": "vits",
        "comment": "piper",
        "language": str(language.get("name_english", "English") if isinstance(language, dict) else language),
        "voice": config["espeak"]["voice"],
        "has_espeak": str(int(config.get("phoneme_type", "espeak") == "espeak")),
        "n_speakers": str(config.get("num_speakers", 1)),
        "sample_rate": str(bundle.sample_rate),
    }
