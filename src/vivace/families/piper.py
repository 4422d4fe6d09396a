"""Piper voices: VITS exported to ONNX, with a JSON of phoneme ids beside it.

The bundle holds three stages (text, flow, decoder) with all noise as explicit input; `export` joins them into one
standard Piper file again. Text to phoneme ids is the front end's work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
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

SUMMARY = "Piper VITS voice: NAME.onnx with NAME.onnx.json beside it, or a folder with both"
VOICE = "voice.json"
EXACT = 1e-5  # largest sample difference between the cut and the whole graph at import


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
        raise ModelError(f"{file} is no readable ONNX model ({_first_line(error)})") from error
    inputs = {i.name for i in model.graph.input}
    if not {"input", "input_lengths", "scales"} <= inputs <= {"input", "input_lengths", "scales", "sid"}:
        raise ModelError(f"{file} is no Piper voice: its inputs are {', '.join(sorted(inputs)) or 'none'}")
    if ("sid" in inputs) != (config.get("num_speakers", 1) > 1):
        raise ModelError(f"{config_file}: num_speakers does not fit the model, which has {_sid(inputs)} speaker input")
    parts = vits.split(model)
    overlap, hop = vits.receptive_field(parts[vits.DECODER])
    _prove(model, parts, config, hop)

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
    """An opened Piper voice: one step makes all latent frames of a sentence, `render` decodes them."""

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        self._bundle = bundle
        self._sessions = sessions
        self._config = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
        self._hop = int(bundle.defaults["hop"])
        self._overlap = int(bundle.defaults["overlap"])

    def encode(self, request: Request) -> list[Array]:
        self._speaker(request)
        front_end = registry.load("text", "piper")
        return [np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._config)]

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
        feed |= self._sessions[vits.TEXT].run(feed)
        frames = feed[vits.MASK].sum(axis=(1, 2)).astype(int)
        noise = np.zeros_like(feed[vits.MEAN])
        for k, row in enumerate(rows):
            noise[k, :, : frames[k]] = _normal(row, (noise.shape[1], int(frames[k])))
        feed[vits.PRIOR_NOISE] = noise
        latent = self._sessions[vits.FLOW].run(feed)[vits.LATENT]
        for k, row in enumerate(rows):
            row.frames = np.ascontiguousarray(latent[k, :, : frames[k]])
            row.done = True
            if vits.SPEAKER in feed:
                row.state[vits.SPEAKER] = feed[vits.SPEAKER][k : k + 1]

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        return [self._render(row) for row in rows]

    def _render(self, row: Row) -> Audio:
        """Decodes a window with `overlap` frames of context on each side and cuts the context off: exact, because
        no output sample reaches further than that."""
        assert row.frames is not None
        start, total = row.rendered, row.total_frames
        stop = min(start + (row.request.chunk_frames or total), total)
        left, right = max(0, start - self._overlap), min(total, stop + self._overlap)
        feed = {vits.LATENT: np.ascontiguousarray(row.frames[None, :, left:right]), **row.state}
        samples = next(iter(self._sessions[vits.DECODER].run(feed).values())).reshape(-1)
        row.rendered = stop
        return Audio(samples[(start - left) * self._hop : (stop - left) * self._hop], self._bundle.sample_rate)

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


def _normal(row: Row, shape: tuple[int, int]) -> Array:
    return row.rng.standard_normal(shape, dtype=np.float32)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


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
        return TensorSpec(str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)

    inputs = {i.name: spec(i) for i in model.graph.input}
    outputs = {o.name: spec(o) for o in model.graph.output}
    return Stage(name, f"stages/{name}.onnx", inputs=inputs, outputs=outputs)


def _prove(model: Any, parts: dict[str, Any], config: dict[str, Any], hop: int) -> None:
    """Runs the whole and the cut graph on every known phoneme, without noise. Raises ModelError if they differ."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    load = partial(ort.InferenceSession, sess_options=settings, providers=["CPUExecutionProvider"])
    ids = np.array([[i for group in config["phoneme_id_map"].values() for i in group]], np.int64)[:, :256]
    feed: dict[str, Array] = {
        "input": ids,
        "input_lengths": np.array([ids.shape[1]], np.int64),
        "scales": np.array([0.0, 1.0, 0.0], np.float32),
        "sid": np.array([0], np.int64),
        vits.DURATION_NOISE: np.zeros((1, vits.DURATION_CHANNELS, ids.shape[1]), np.float32),
    }
    try:
        whole = _run(load(model.SerializeToString()), feed)["output"]
        for name in vits.STAGES:
            feed |= _run(load(parts[name].SerializeToString()), feed)
            if vits.MEAN in feed:
                feed.setdefault(vits.PRIOR_NOISE, np.zeros_like(feed[vits.MEAN]))
    except Exception as error:
        raise ModelError(f"the voice does not run on its own phonemes: {_first_line(error)}") from error
    cut = feed[parts[vits.DECODER].graph.output[0].name]
    worst = float(np.abs(whole - cut).max()) if whole.shape == cut.shape else float("inf")
    if cut.size != hop * int(feed[vits.MASK].sum()):
        raise ModelError(
            f"the voice makes {cut.size} samples of {int(feed[vits.MASK].sum())} frames, not {hop} of each"
        )
    if not worst <= EXACT:
        raise ModelError(f"cutting this voice into stages changes its samples by {worst:g} (at most {EXACT:g} allowed)")


def _run(session: Any, feed: dict[str, Array]) -> dict[str, Array]:
    outputs = [o.name for o in session.get_outputs()]
    inputs = {i.name: feed[i.name] for i in session.get_inputs()}
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


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
