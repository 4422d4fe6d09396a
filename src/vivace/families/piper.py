"""Piper voices: VITS exported to ONNX, with a JSON of phoneme ids beside it.

The bundle holds three stages (text, flow, decoder) with all noise as explicit input; `export` joins them into one
standard Piper file again. Text to phoneme ids is the front end's work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, atomic_file, write_bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, Session, Stage, TensorSpec
from vivace.families import _vits_graph as vits
from vivace.families._piper_config import read_config
from vivace.families._piper_proof import first_line, prove
from vivace.families._receptive_field import receptive_field
from vivace.families._vits_windows import FLOW_WINDOW, WINDOW, Vocoder

SUMMARY = "Piper VITS voice: NAME.onnx with NAME.onnx.json beside it, or a folder with both"
VOICE = "voice.json"
PADDED = (vits.DECODER, vits.LATENT, vits.MASK)  # the stage that pass few_shapes may give a mask: its signal, the mask


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
    parts = vits.split(model)
    overlap, hop = receptive_field(parts[vits.DECODER])
    flow_overlap, _ = receptive_field(parts[vits.FLOW], vits.in_time(parts[vits.FLOW]))
    prove(model, parts, config, hop, overlap, flow_overlap)

    rate = config["audio"]["sample_rate"]
    frame_rate = {vits.TEXT: rate / hop, vits.FLOW: rate / hop, vits.DECODER: float(rate)}
    stages = tuple(replace(_stage(name, part), frame_rate=frame_rate[name]) for name, part in parts.items())
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
            "hop": hop,
            "overlap": overlap,
            "flow_overlap": flow_overlap,
        },
    )

    def fill(folder: Path) -> None:
        (folder / "stages").mkdir()
        for stage in stages:
            onnx.save(parts[stage.name], str(folder / stage.file))
        (folder / VOICE).write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """NAME.onnx and NAME.onnx.json, as piper-tts reads them, and NAME.tokens.txt for sherpa-onnx (whose metadata
    are inside the model). `out` is a folder, or the .onnx file itself."""
    import onnx

    config = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
    model = vits.join({s.name: onnx.load(str(bundle.file(s.file))) for s in bundle.stages}, _sherpa(bundle, config))
    file = out if out.suffix == ".onnx" else out / f"{bundle.name}.onnx"
    tokens = "".join(f"{symbol} {ids[0]}\n" for symbol, ids in config["phoneme_id_map"].items())
    written = {
        file: model.SerializeToString(),
        file.with_name(file.name + ".json"): json.dumps(config, ensure_ascii=False, indent=2).encode(),
        file.with_suffix(".tokens.txt"): tokens.encode(),
    }
    for path, data in written.items():
        atomic_file(path, data)
    return list(written)


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> PiperModel:
    return PiperModel(bundle, sessions)


class PiperModel:
    """An opened Piper voice: one step makes the prior of a sentence (all its frames), `render` makes samples of it."""

    most_rows = 2**31  # each holds its own memory

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        defaults = bundle.defaults
        self._bundle = bundle
        self._text = sessions[vits.TEXT]
        self._config = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
        self._vocoder = Vocoder(
            sessions[vits.FLOW],
            sessions[vits.DECODER],
            int(defaults["hop"]),
            int(defaults["overlap"]),
            defaults.get("flow_overlap"),  # bundles of before have none
            int(defaults.get("window", WINDOW)),
            multiple=int(defaults.get("frame_multiple", 1)),
        )

    def encode(self, request: Request) -> Iterator[Array]:
        self._speaker(request)
        front_end = registry.load("text", "piper")
        return (np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._config))

    def advance(self, rows: Sequence[Row]) -> None:
        """Rows that share their scales run as one batch: the graph takes one set of scales for a run."""
        groups: dict[tuple[float, float, float], list[Row]] = {}
        for row in rows:
            groups.setdefault(self._scales(row.request), []).append(row)
        for scales, group in groups.items():
            self._advance(group, np.array(scales, np.float32))

    def _advance(self, rows: list[Row], scales: Array) -> None:
        lengths = np.array([len(row.tokens) for row in rows], np.int64)
        tokens = np.zeros((len(rows), int(lengths.max())), np.int64)
        duration_noise = np.zeros((len(rows), vits.DURATION_CHANNELS, tokens.shape[1]), np.float32)
        for k, row in enumerate(rows):
            tokens[k, : lengths[k]] = row.tokens
            duration_noise[k, :, : lengths[k]] = _normal(row, (vits.DURATION_CHANNELS, int(lengths[k])))
        speakers = np.array([self._speaker(row.request) for row in rows], np.int64)
        feed = {
            "input": tokens,
            "input_lengths": lengths,
            "scales": scales,
            "sid": speakers,
            vits.DURATION_NOISE: duration_noise,
        }
        made = self._text.run(feed)
        frames = made[vits.MASK].sum(axis=(1, 2)).astype(int)
        for k, row in enumerate(rows):
            prior = {name: _own(array, k, int(frames[k])) for name, array in made.items()}
            prior[vits.PRIOR_NOISE] = _normal(row, prior[vits.MEAN].shape[1:])[None]
            row.frames = prior[vits.MEAN][0]
            row.state = {"prior": {**prior, "scales": scales, "sid": speakers[k : k + 1]}, "latent": None}
            row.done = True

    def release(self, row: Row) -> None:
        """Nothing is held outside the row."""

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        return [self._render(row) for row in rows]

    def _render(self, row: Row) -> Audio:
        """In a stream, the flow runs ahead by as much as the listener has to play meanwhile."""
        stop = row.rendered + row.due
        ahead = row.before + row.rendered if row.request.chunk_frames else FLOW_WINDOW
        prior, latent = row.state["prior"], row.state["latent"]
        samples, latent = self._vocoder.samples(prior, latent, row.rendered, stop, ahead)
        row.rendered, row.state = stop, {"prior": prior, "latent": latent}
        return Audio(samples, self._bundle.sample_rate)

    def _scales(self, request: Request) -> tuple[float, float, float]:
        defaults = self._bundle.defaults
        noise = defaults["noise_scale"] if request.noise_scale is None else request.noise_scale
        noise_w = defaults["noise_w"] if request.noise_w is None else request.noise_w
        return (noise, defaults["length_scale"] / request.speed, noise_w)

    def _speaker(self, request: Request) -> int:
        voices = self._bundle.voices
        if not request.voice or request.voice == self._bundle.name:
            return int(self._config.get("default_speaker_id", 0))
        if request.voice in voices:
            return voices.index(request.voice)
        known = ", ".join(voices[:8]) + (" ..." if len(voices) > 8 else "") or self._bundle.name
        raise UsageError(f"unknown voice {request.voice!r}; known: {known}")


def _normal(row: Row, shape: tuple[int, ...]) -> Array:
    return row.rng.standard_normal(shape, dtype=np.float32)


def _own(array: Array, k: int, frames: int) -> Array:
    """Row k of what the text stage made of a batch, without the padding: a copy, so that the batch can go."""
    return array[k : k + 1, ..., : max(frames, 1)].copy()


def _sid(inputs: set[str]) -> str:
    return "a" if "sid" in inputs else "no"


def _speakers(config: dict[str, Any]) -> tuple[str, ...]:
    count = config.get("num_speakers", 1)
    if count == 1:
        return ()
    names = {i: name for name, i in config.get("speaker_id_map", {}).items()}
    return tuple(names.get(i, str(i)) for i in range(count))


def _stage(name: str, model: Any) -> Stage:
    from onnx import helper

    def spec(value: Any) -> TensorSpec:
        kind = value.type.tensor_type
        dims = tuple(d.dim_value or d.dim_param or f"d{k}" for k, d in enumerate(kind.shape.dim))
        if any(isinstance(dim, bytes) for dim in dims):  # what protobuf gives for a name that is no UTF-8
            raise ModelError(f"the shape of {value.name} is damaged; copy the voice's .onnx again")
        return TensorSpec(str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)

    inputs = {i.name: spec(i) for i in model.graph.input}
    outputs = {o.name: spec(o) for o in model.graph.output}
    return Stage(name, f"stages/{name}.onnx", inputs=inputs, outputs=outputs)


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
