"""A tiny real voice, made from a seed: hums each character of a text. So that most tests need no large model.

The user's file is a small JSON: {"toy": 1, "seed": 0, "steps": 1, "voices": ["ann", "bob"], "rate": 8000}.
With `steps` 1 all frames come at once (as in VITS); above that they come in so many parts, each of which needs the
one before it (as in an autoregressive voice). It says nothing that anybody would understand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, atomic_file, write_bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, Session, Stage, TensorSpec
from vivace.families import _toy_graph as graph
from vivace.families._receptive_field import receptive_field

SUMMARY = 'a tiny seeded voice for tests: NAME.json with "toy" in it; exports its stages as ONNX files'
VOICE = "voice.json"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?'-"
MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class Spec:
    """What the user's JSON says."""

    seed: int = 0
    steps: int = 1
    voices: tuple[str, ...] = ()
    rate: int = 8000


def recognise(path: Path) -> bool:
    path = Path(path)
    try:
        return path.suffix == ".json" and "toy" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def read_spec(path: Path) -> Spec:
    """Raises ModelError naming the wrong field."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(data, dict) or data.get("toy") != 1:
        raise ModelError(f'{path} is no toy voice: it needs "toy": 1')
    limits = {"seed": (0, 2**63), "steps": (1, MAX_STEPS), "rate": (4000, 192_000)}
    for name, (low, high) in limits.items():
        value = data.get(name, low if name != "rate" else 8000)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ModelError(f"{path}: {name} is {value!r}; it must be a whole number from {low} to {high}")
    voices = data.get("voices", [])
    if not isinstance(voices, list) or not all(isinstance(v, str) and v for v in voices):
        raise ModelError(f"{path}: voices is {voices!r}; it must be a list of names")
    unknown = set(data) - {"toy", "seed", "steps", "voices", "rate"}
    if unknown:
        raise ModelError(f"{path}: unknown field {min(unknown)!r}; known: seed, steps, voices, rate")
    return Spec(data.get("seed", 0), data.get("steps", 1), tuple(voices), data.get("rate", 8000))


def import_(path: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    spec = read_spec(path)
    models = graph.build(spec.seed, len(CHARACTERS), max(1, len(spec.voices)))
    overlap, hop = receptive_field(models[graph.DECODER])
    frame_rate = spec.rate / hop
    rates = {graph.TEXT: 0.0, graph.FRAMES: frame_rate, graph.DECODER: float(spec.rate)}
    loops = {graph.FRAMES: "once" if spec.steps == 1 else "frame"}
    stages = tuple(_stage(name, model, loops.get(name, "once"), rates[name]) for name, model in models.items())
    bundle = Bundle(
        path=out,
        name=Path(path).stem,
        family="toy",
        sample_rate=spec.rate,
        stages=stages,
        voices=spec.voices,
        defaults={"noise_scale": 0.3, "steps": spec.steps, "hop": hop, "overlap": overlap},
    )

    def fill(folder: Path) -> None:
        (folder / "stages").mkdir()
        for stage in stages:
            (folder / stage.file).write_bytes(models[stage.name].SerializeToString())
        text = json.dumps({"characters": CHARACTERS, "lowercase": True, "language": ""})
        (folder / VOICE).write_text(text, encoding="utf-8")

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """The stages as they are, NAME.decoder.onnx first: what joins them is this file's code, which no graph holds.
    `out` is a folder, or NAME.onnx."""
    base = out.with_suffix("") if out.suffix == ".onnx" else out / bundle.name
    written = {
        base.with_name(f"{base.name}.{stage.name}.onnx"): bundle.file(stage.file) for stage in reversed(bundle.stages)
    }
    for target, source in written.items():
        atomic_file(target, source.read_bytes())
    return list(written)


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> ToyModel:
    return ToyModel(bundle, sessions)


class ToyModel:
    """An opened toy voice. The text stage gives each character its sound and length; the frames stage makes one
    part of the frames in each step, beginning at the last frame of the part before; the decoder makes samples."""

    most_rows = 2**31  # each holds its own memory

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        self._bundle = bundle
        self._sessions = sessions
        self._voice = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
        self._steps = int(bundle.defaults["steps"])
        self._hop = int(bundle.defaults["hop"])
        self._overlap = int(bundle.defaults["overlap"])

    def encode(self, request: Request) -> Iterator[Array]:
        self._speaker(request)
        front_end = registry.load("text", "characters")
        return (np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._voice))

    def advance(self, rows: Sequence[Row]) -> None:
        new = [row for row in rows if row.frames is None]
        if new:
            self._read(new)
        parts = [self._part(row) for row in rows]
        widest = max(part.shape[1] for part in parts)
        shape = (len(rows), graph.CHANNELS, widest)
        condition, noise = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for k, (row, part) in enumerate(zip(rows, parts, strict=True)):
            condition[k, :, : part.shape[1]] = part
            noise[k, :, : part.shape[1]] = row.rng.standard_normal(part.shape, dtype=np.float32)
        scales = np.array([self._noise_scale(row.request) for row in rows], np.float32)
        feed = {
            "condition": condition,
            "noise": noise,
            "noise_scale": scales.reshape(-1, 1, 1),
            "before": np.stack([row.state["before"] for row in rows]),
        }
        made = self._sessions[graph.FRAMES].run(feed)["frames"]
        for k, (row, part) in enumerate(zip(rows, parts, strict=True)):
            assert row.frames is not None
            row.frames = np.concatenate([row.frames, made[k, :, : part.shape[1]]], axis=1)
            row.state = {**row.state, "before": row.frames[:, -1:]}
            row.held = self._overlap
            seconds = (row.total_frames - row.held) * self._hop / self._bundle.sample_rate
            row.done = row.total_frames >= row.state["condition"].shape[1] or seconds > row.request.max_seconds

    def _read(self, rows: Sequence[Row]) -> None:
        """The sound of every frame from the characters, as `row.state["condition"]` of shape [channels, frames]."""
        lengths = [len(row.tokens) for row in rows]
        tokens, mask = np.zeros((len(rows), max(lengths)), np.int64), np.zeros((len(rows), 1, max(lengths)), np.float32)
        for k, row in enumerate(rows):
            tokens[k, : lengths[k]] = row.tokens
            mask[k, :, : lengths[k]] = 1
        speakers = np.array([self._speaker(row.request) for row in rows], np.int64)
        read = self._sessions[graph.TEXT].run({"input": tokens, "mask": mask, "sid": speakers})
        for k, row in enumerate(rows):
            durations = np.maximum(1, np.rint(read["durations"][k, : lengths[k]] / row.request.speed)).astype(int)
            hidden = read["hidden"][k, :, : lengths[k]]
            start = np.zeros((graph.CHANNELS, 1), np.float32)
            row.state = {"condition": np.repeat(hidden, durations, axis=1), "before": start}
            row.frames = start[:, :0]

    def _part(self, row: Row) -> Array:
        """What the row's next step makes frames of: a part of near equal size in each step, never none."""
        condition: Array = row.state["condition"]
        size = max(1, -(-condition.shape[1] // self._steps))
        return condition[:, row.total_frames : row.total_frames + size]

    def release(self, row: Row) -> None:
        """Nothing is held outside the row."""

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        return [self._render(row) for row in rows]

    def _render(self, row: Row) -> Audio:
        """Decodes a window with `overlap` frames of context on each side, and cuts the context off."""
        assert row.frames is not None
        start, total = row.rendered, row.total_frames
        stop = start + row.due
        left, right = max(0, start - self._overlap), min(total, stop + self._overlap)
        feed = {"latent": np.ascontiguousarray(row.frames[None, :, left:right])}
        samples = self._sessions[graph.DECODER].run(feed)["output"].reshape(-1)
        row.rendered = stop
        return Audio(samples[(start - left) * self._hop : (stop - left) * self._hop], self._bundle.sample_rate)

    def _noise_scale(self, request: Request) -> float:
        return float(self._bundle.defaults["noise_scale"] if request.noise_scale is None else request.noise_scale)

    def _speaker(self, request: Request) -> int:
        voices = self._bundle.voices
        if not request.voice or request.voice == self._bundle.name:
            return 0
        if request.voice in voices:
            return voices.index(request.voice)
        raise UsageError(f"unknown voice {request.voice!r}; known: {', '.join(voices) or self._bundle.name}")


def _stage(name: str, model: Any, loop: str, frame_rate: float) -> Stage:
    def specs(values: Any) -> dict[str, TensorSpec]:
        return {v.name: TensorSpec(*graph.tensor(v)) for v in values}

    inputs, outputs = specs(model.graph.input), specs(model.graph.output)
    return Stage(name, f"stages/{name}.onnx", loop=loop, inputs=inputs, outputs=outputs, frame_rate=frame_rate)
