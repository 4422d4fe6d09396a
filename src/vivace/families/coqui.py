"""Coqui TTS voices of model `vits`: a folder with `config.json` and a checkpoint.

The checkpoint becomes a PyTorch module, the module an ONNX graph, and the graph the stages of a Piper voice (text,
flow, decoder), which every pass knows. `export` makes a module of them again and writes what coqui-tts loads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, write_bundle
from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Session, Stage
from vivace.families import _coqui_files as files
from vivace.families import _coqui_writer as writer
from vivace.families import _vits_graph as vits
from vivace.families._vits_import import Parts, take_apart
from vivace.families._vits_voice import Voice

SUMMARY = "Coqui TTS VITS voice: a folder with config.json and model_file.pth"
VOICE = "voice.json"
FRONT_END = "coqui"
PADDED = (vits.DECODER, vits.LATENT, vits.MASK)  # as of a Piper voice
CROPPED = (vits.DECODER, vits.LATENT, vits.CROP)  # as of a Piper voice
MAKES = (files.CONFIG, files.MODEL)
ALSO_EXPORTS = frozenset({"piper"})  # bundles of these families can be written so, too
DEFAULTS = {"inference_noise_scale": 0.667, "length_scale": 1.0, "inference_noise_scale_dp": 1.0}
LIMITS = {"inference_noise_scale": (0, 5), "length_scale": (0.1, 10), "inference_noise_scale_dp": (0, 5)}


def recognise(path: Path) -> bool:
    return files.looks_like_one(path)


def lacks(path: Path) -> str:
    """What stands between `path` and a Coqui voice, where some of it is there; else empty."""
    return files.lacks(Path(path))


def import_(path: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Takes nothing but tensors from the checkpoint, and proves that the stages speak like the module before anything
    is written."""
    found = files.find(path)
    config = files.read_config(found.config)
    rate = files.sample_rate(config, found.config)
    if config.get("model") != "vits":
        raise ModelError(
            f"{found.config} is for {str(config.get('model'))[:40]!r}; of Coqui's models, vits is known here"
        )
    args = config.get("model_args")
    if not isinstance(args, dict):
        raise ModelError(f"{found.config}: field model_args is no object; copy the voice's config.json again")
    reader = registry.load("text", FRONT_END).reader(config)
    weights = files.read_weights(found.model)
    voices = _speakers(found, args, weights)
    args = {**args, "num_chars": len(reader.vocabulary), "num_speakers": len(voices)}
    scales = _scales(found.config, args)
    known, module, stored = _module(found, {**config, "model_args": args}, weights)
    parts = take_apart(registry.load("modules", "vits").to_onnx(module), np.arange(known["tokens"]), _speaks(module))
    saved = writer.read_settings(config, found.config)
    stages = tuple(_as_saved(stage, saved.get(stage.name), known) for stage in parts.stages(rate))
    bundle = Bundle(
        path=out,
        name=found.config.resolve().parent.name,
        family="coqui",
        sample_rate=rate,
        stages=stages,
        voices=voices,
        defaults={
            "noise_scale": scales["inference_noise_scale"],
            "length_scale": scales["length_scale"],
            "noise_w": scales["inference_noise_scale_dp"],
            **parts.defaults,
        },
    )

    def fill(folder: Path) -> None:
        _write(parts, folder, stages, stored)
        voice = {**config, "model_args": args, "front_end": FRONT_END}
        (folder / VOICE).write_text(json.dumps(voice, ensure_ascii=False, indent=1), encoding="utf-8")

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """config.json, model_file.pth and, of several speakers, speaker_ids.json in the folder `out`. The config's field
    `vivace` says what was done to which layer. Raises ModelError if a stage cannot be a module again."""
    voice = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
    return writer.write(bundle, voice, out)


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> Voice:
    return Voice(bundle, sessions, FRONT_END, json.loads(bundle.file(VOICE).read_text(encoding="utf-8")), 0)


def _module(found: files.Files, config: dict[str, Any], weights: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """The shape, the module in float32, and the weights as they are stored, under the module's names."""
    modules = registry.load("modules", "vits")
    quantized = {
        layer: how for options in writer.read_settings(config, found.config).values()
        for layer, how in options.get("quantized", {}).items()
    }  # fmt: skip
    try:
        known, stored = modules.read_coqui(config, weights)
        floats = modules.floats(known, stored, quantized)
        return known, modules.built(known, floats), stored
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{found.config} describes no VITS model ({error!r}); mend its model_args, or copy it again"
        ) from None
    except ModelError as error:
        raise ModelError(f"{found.model.name} and {found.config.name} do not fit: {error}") from None


def _speaks(module: Any) -> Any:
    """What the module says to tokens [1, n], without noise."""

    def said(tokens: Any) -> Any:
        import torch

        with torch.inference_mode():
            sid = torch.zeros(1, dtype=torch.int64)
            return module(torch.from_numpy(tokens), 0.0, 1.0, 0.0, sid if module.shape.speakers else None).numpy()

    return said


def _as_saved(stage: Stage, options: dict[str, Any] | None, shape: dict[str, Any]) -> Stage:
    """A stage that was a module when the folder was written is one again."""
    if options is None:
        return stage
    if find_spec("safetensors") is None:
        raise MissingDependency("safetensors", "torch")
    made = {key: value for key, value in options.items() if key != "label"}
    made |= {"module": "vits", "part": stage.name, "shape": shape}
    file = str(Path(stage.file).with_suffix(".safetensors"))
    return replace(stage, file=file, runtime="torch", precision=options.get("label", "fp32"), options=made)


def _write(parts: Parts, folder: Path, stages: tuple[Stage, ...], stored: dict[str, Any]) -> None:
    parts.write(folder, tuple(stage for stage in stages if stage.runtime != "torch"))
    for stage in stages:
        if stage.runtime == "torch":
            from safetensors.torch import save_file

            own = {
                name: value.contiguous()
                for name, value in sorted(stored.items())
                if writer.stage_of(name) == stage.name
            }
            save_file(own, str(folder / stage.file))


def _scales(config: Path, args: Mapping[str, Any]) -> dict[str, float]:
    made = {}
    for name, usual in DEFAULTS.items():
        value, (low, high) = args.get(name, usual), LIMITS[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ModelError(f"{config}: field model_args.{name} is wrong; it must be a number from {low} to {high}")
        made[name] = float(value)
    return made


def _speakers(found: files.Files, args: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in the order of their numbers; none for a single speaker."""
    if not args.get("use_speaker_embedding"):
        return ()
    if "emb_g.weight" not in weights:
        if not (claimed := args.get("num_speakers")):
            return ()
        raise ModelError(
            f"{found.config} has {claimed} speakers, and {found.model.name} none (emb_g.weight is missing)"
        )
    count = int(weights["emb_g.weight"].shape[0])
    if found.speakers is None:
        tables = " or ".join(files.TABLES[:3])
        raise ModelError(f"the voice has {count} speakers, and no table of them ({tables}) is beside {found.config}")
    table = files.read_speakers(found.speakers)
    if beyond := [name for name, i in table.items() if i >= count]:
        raise ModelError(
            f"{found.speakers}: speaker {beyond[0]!r} is number {table[beyond[0]]}, and the voice has {count}"
        )
    names = {i: name for name, i in table.items()}
    return tuple(names.get(i, str(i)) for i in range(count))
