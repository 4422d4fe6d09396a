"""Models with an adapter, opened: one stage that listens (clips in, a score for each label out) or speaks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, atomic_file
from vivace.core.errors import ModelError, UsageError
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, Session, Stage, TensorSpec
from vivace.families import _adapter

STAGE = "model"
FILE = "model.onnx"


def opened(bundle: Bundle, sessions: Mapping[str, Session]) -> Classifier | Speaker:
    adapter = json.loads(bundle.file(_adapter.ADAPTER).read_text(encoding="utf-8"))
    if "mel" in adapter:
        from vivace.families._mel_speaker import MelSpeaker  # it is made of Speaker

        return MelSpeaker(bundle, adapter, sessions[STAGE])
    kind = Classifier if adapter["task"] == "labels" else Speaker
    return kind(bundle, adapter, sessions[STAGE])


def stage_of(model: Any) -> Stage:
    """The stage of a graph, from its declared inputs and outputs."""
    from onnx import helper

    def specs(values: Any) -> dict[str, TensorSpec]:
        found = {}
        for value in values:
            tensor = value.type.tensor_type
            dims = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
            found[value.name] = TensorSpec(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, dims)
        return found

    return Stage(STAGE, FILE, inputs=specs(model.graph.input), outputs=specs(model.graph.output))


def exported(bundle: Bundle, out: Path) -> list[Path]:
    """Writes NAME.onnx, and the adapter NAME.json beside it. `out` is a folder, or NAME.onnx."""
    file = out if out.suffix == ".onnx" else out / f"{bundle.name}.onnx"
    adapter = file.with_suffix(".json")
    atomic_file(file, bundle.file(bundle.stage(STAGE).file).read_bytes())
    atomic_file(adapter, bundle.file(_adapter.ADAPTER).read_bytes())
    return [file, adapter]


class Classifier:
    """A model that listens. Clips of one length are answered together; longer and shorter ones are made equal where
    the adapter says `seconds`."""

    most_rows = 1

    def __init__(self, bundle: Bundle, adapter: _adapter.Adapter, session: Session) -> None:
        self.labels = tuple(adapter["labels"])
        self.rate = _adapter.rate(adapter)
        self._length = round(float(adapter.get("seconds", 0)) * self.rate)
        self._features = _adapter.features(adapter)
        self._stage, self._session = bundle.stage(STAGE), session

    def feed(self, clips: Sequence[Audio]) -> list[tuple[list[int], dict[str, Array]]]:
        """(places in `clips`, inputs of the stage) of each run. Raises UsageError for a clip of another rate."""
        name = next(iter(self._stage.inputs))
        by_shape: dict[tuple[int, ...], tuple[list[int], list[Array]]] = {}
        for k, clip in enumerate(clips):
            if clip.rate != self.rate:
                raise UsageError(f"the clip has {clip.rate} Hz, the model hears {self.rate} Hz; resample it")
            samples = clip.samples
            if self._length:
                samples = np.pad(samples[: self._length], (0, max(0, self._length - len(samples))))
            made = self._features(samples)
            places, arrays = by_shape.setdefault(made.shape, ([], []))
            places.append(k)
            arrays.append(made)
        return [(places, {name: np.stack(arrays)}) for places, arrays in by_shape.values()]

    def answer(self, clips: Sequence[Audio]) -> Array:
        """float32[clips, labels]: the model's scores. Raises ModelError if they do not fit the labels."""
        found = np.empty((len(clips), len(self.labels)), np.float32)
        for places, inputs in self.feed(clips):
            scores = next(iter(self._session.run(inputs).values()))
            if scores.shape != (len(places), len(self.labels)) or not np.isfinite(scores).all():
                wanted = f"[{len(places)}, {len(self.labels)}]"
                raise ModelError(f"the model gives {list(scores.shape)} where finite scores {wanted} are due")
            found[places] = scores
        return found

    def encode(self, request: Request) -> Iterator[Array]:  # noqa: ARG002
        raise UsageError("this model listens, it does not speak; use vivace evaluate --dataset")

    def advance(self, rows: Sequence[Row]) -> None:
        """Never called: nothing can be encoded."""

    def release(self, row: Row) -> None:
        """Nothing is held."""

    def render(self, rows: Sequence[Row]) -> list[Audio]:  # noqa: ARG002
        return []


class Speaker:
    """A model from ids of characters to samples. A sentence is made in one run, and given frame by frame."""

    most_rows = 2**31

    def __init__(self, bundle: Bundle, adapter: _adapter.Adapter, session: Session) -> None:
        self._bundle, self._adapter, self._session = bundle, adapter, session
        self._rate, self._hop = _adapter.rate(adapter), int(adapter["hop"])
        spec = bundle.stage(STAGE).inputs
        self._input = next(iter(spec))
        self._type = spec[self._input].dtype

    def encode(self, request: Request) -> Iterator[Array]:
        self._check_voice(request)
        front_end = registry.load("text", "characters")
        return (np.array(ids, self._type) for ids in front_end.tokens(request.text, self._adapter))

    def _check_voice(self, request: Request) -> None:
        if request.voice and request.voice != self._bundle.name:
            raise UsageError(f"unknown voice {request.voice!r}; known: {self._bundle.name}")

    def advance(self, rows: Sequence[Row]) -> None:
        for row in rows:
            samples = next(iter(self._session.run({self._input: row.tokens[None]}).values())).reshape(-1)
            count = len(samples) // self._hop
            if not count:
                raise ModelError(f"the model gave {len(samples)} samples, less than a frame of {self._hop}")
            frames = np.clip(samples[: count * self._hop], -1, 1).astype(np.float32)
            row.frames = _stretched(frames, row.request.speed, self._hop).reshape(-1, self._hop).T
            row.done = True

    def release(self, row: Row) -> None:
        """Nothing is held outside the row."""

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        found = []
        for row in rows:
            assert row.frames is not None
            stop = row.rendered + row.due
            found.append(Audio(np.ascontiguousarray(row.frames[:, row.rendered : stop].T).reshape(-1), self._rate))
            row.rendered = stop
        return found


def _stretched(samples: Array, speed: float, hop: int) -> Array:
    """Whole frames of the samples, `speed` times as fast, by linear interpolation."""
    if speed == 1:
        return samples
    count = max(1, round(len(samples) / speed / hop)) * hop
    places = np.linspace(0, len(samples) - 1, count)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
