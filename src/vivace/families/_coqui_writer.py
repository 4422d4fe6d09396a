"""Writes a VITS bundle as a Coqui folder, and reads what such a folder says of its own making.

`config["vivace"]["stages"]` has an entry for each stage that runs as a PyTorch module: its options, and by layer (under
Coqui's names) what is quantized. Such weights are int8 in the checkpoint (`NAME.weight`, with `NAME.weight_scale`).
"""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle, atomic_file
from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Stage
from vivace.families._coqui_files import CONFIG, MODEL
from vivace.families._vits_spelling import coqui_from_piper

OWN = {"enc_p": "text", "dp": "text", "emb_g": "text", "flow": "flow", "dec": "decoder"}
DERIVED = ("module", "part", "shape", "quantized")  # options that the rest of the folder says
SPEAKERS = "speaker_ids.json"


def stage_of(weight: str) -> str:
    return OWN.get(weight.split(".")[0], "")


def read_settings(config: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The options of each stage that was a module, layers under their own names; empty for a folder of others.
    Raises ModelError if the field `vivace` is damaged."""
    stages = (config.get("vivace") or {}).get("stages", {}) if isinstance(config.get("vivace") or {}, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(s, dict) for s in stages.values()):
        raise ModelError(f"{path}: field vivace.stages is damaged; export the voice again")
    layer = registry.load("modules", "vits").coqui_layer
    made = {}
    for name, options in stages.items():
        quantized = {layer(theirs, back=True): how for theirs, how in options.get("quantized", {}).items()}
        made[name] = {**options, **({"quantized": quantized} if quantized else {})}
    return made


def write(bundle: Bundle, voice: dict[str, Any], out: Path) -> list[Path]:
    if find_spec("torch") is None:
        raise MissingDependency("PyTorch", "torch")
    import torch

    shape, weights = _weights(bundle)
    config, order = voice, None
    if bundle.family == "piper":
        text, order = coqui_from_piper(voice)
        config = {**text, "model_args": {}, "run_name": bundle.name}
    if order is not None:
        for name in [name for name in weights if name.startswith("enc_p.emb.")]:
            rows = weights[name]
            weights[name] = rows[torch.tensor(order)] if rows.shape[0] == shape["tokens"] else rows
        shape = {**shape, "tokens": len(order)}
    modules = [stage for stage in bundle.stages if stage.runtime == "torch"]
    plain = not any(_narrow(name) or value.dtype == torch.int8 for name, value in weights.items())
    vits = registry.load("modules", "vits")
    args, named = vits.to_coqui(shape, weights, config.get("model_args") or {}, whole=plain)
    config = _config(bundle, config, args, modules)
    buffer = io.BytesIO()
    torch.save({"model": {name: named[name] for name in sorted(named)}}, buffer)
    written = {
        out / MODEL: buffer.getvalue(),
        out / CONFIG: json.dumps(config, ensure_ascii=False, indent=2).encode(),
    }
    if bundle.voices:
        numbers = {name: i for i, name in enumerate(bundle.voices)}
        written[out / SPEAKERS] = json.dumps(numbers, ensure_ascii=False, indent=2).encode()
    for path, data in written.items():
        atomic_file(path, data)
    return list(written)


def _narrow(name: str) -> bool:
    """Whether a stored tensor is a part of a weight that is quantized or sparse."""
    return name.endswith(("_scale", ".kept", ".values"))


def _weights(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shape and the weights of all stages as they are stored. Raises ModelError for a graph that was changed."""
    import onnx
    import torch

    modules = [stage for stage in bundle.stages if stage.runtime == "torch"]
    if odd := [s for s in modules if s.options.get("module") != "vits"]:
        raise ModelError(f"stage {odd[0].name} is a module of {odd[0].options.get('module')}, which Coqui has not")
    graphs = {s.name: onnx.load(str(bundle.file(s.file))) for s in bundle.stages if s not in modules}
    known = modules[0].options["shape"] if modules else None
    weights: dict[str, Any] = {}
    if graphs:
        try:
            known, arrays = registry.load("modules", "vits").parts_from_onnx(graphs, known)
        except ModelError as error:
            passes = ", ".join(step.name for step in bundle.history) or "none"
            raise ModelError(
                f"a Coqui folder holds PyTorch weights, and these graphs have lost them (passes: {passes}; {error})"
            ) from None
        weights = {name: torch.tensor(value) for own in arrays.values() for name, value in own.items()}
    for stage in modules:
        from safetensors.torch import load_file

        weights |= load_file(bundle.file(stage.file))
    assert known is not None
    return dict(known), weights


def _config(bundle: Bundle, config: dict[str, Any], args: dict[str, Any], modules: list[Stage]) -> dict[str, Any]:
    """The voice's config with what is true now: sizes, rate, scales, and what was done."""
    defaults = bundle.defaults
    args |= {
        "inference_noise_scale": defaults["noise_scale"],
        "length_scale": defaults["length_scale"],
        "inference_noise_scale_dp": defaults["noise_w"],
    }
    if bundle.voices:
        args["speakers_file"] = SPEAKERS
    audio = {"fft_size": 1024, "win_length": 1024, "num_mels": 80, **config.get("audio", {})}
    audio |= {"sample_rate": bundle.sample_rate, "hop_length": defaults["hop"]}
    layer = registry.load("modules", "vits").coqui_layer
    stages = {}
    for stage in modules:
        options = {key: value for key, value in stage.options.items() if key not in DERIVED}
        quantized = {layer(name): how for name, how in stage.options.get("quantized", {}).items()}
        stages[stage.name] = {"label": stage.precision, **options, "quantized": quantized}
    history = [{"pass": s.name, "version": s.version, "settings": dict(s.settings)} for s in bundle.history]
    done = {"history": history, "stages": stages}
    made = {key: value for key, value in config.items() if key not in ("front_end", "vivace")}
    return {**made, "model_args": args, "audio": audio, "vivace": done}
