"""Transformers that make mel frames (or another vocoder's latents) one step after another, with a vocoder behind.

The user's folder holds config.json, model.safetensors and perhaps the vocoder (see _transformer_config). As imported,
every step computes all frames anew, which is what the model is defined by; the pass `kv_cache` adds a cache where that
is proven to be the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, atomic_file, write_bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, Session, Stage
from vivace.families import _transformer_config as files
from vivace.families import _transformer_graph as graph
from vivace.families import _transformer_vocoder as vocoder
from vivace.families._graph_builder import stage_of
from vivace.families._kept import narrowed
from vivace.families._receptive_field import receptive_field
from vivace.families._runaway import Guard
from vivace.families._slots import Slots, kept
from vivace.families._stepping import VOCODER, Stepping
from vivace.families._transformer_proof import difference
from vivace.families._transformer_text import ReadText, Text, WholeText, bias

SUMMARY = "transformers that make mels step by step: a folder with config.json and model.safetensors"
VOICE = "voice.json"
KV_MB = 1024  # of all slots together
LONGEST_TEXT = 512  # tokens that a slot is reckoned with


def recognise(path: Path) -> bool:
    return files.recognise(path)


def import_(path: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Builds the graphs from the weights."""
    import onnx

    config = files.read_config(path)
    weights = files.read_weights(path)
    models = graph.build(config.shape, weights)
    if isinstance(config.vocoder, str):
        file = files.vocoder_file(path, config)
        try:
            models[VOCODER] = onnx.load(str(file), load_external_data=False)
        except Exception as error:
            raise ModelError(f"{file} is no readable ONNX model ({error})") from error
    else:
        models[VOCODER] = vocoder.build(config.shape.mels, **config.vocoder, weights=weights)
    overlap, hop = receptive_field(models[VOCODER])
    names = [graph.ENCODER, graph.PREFIX, VOCODER]
    rates = {graph.PREFIX: config.sample_rate / hop, VOCODER: float(config.sample_rate)}
    bundle = Bundle(
        path=out,
        name=Path(path).resolve().parent.name if Path(path).is_file() else Path(path).resolve().name,
        family="transformer_mel",
        sample_rate=config.sample_rate,
        stages=tuple(_stage(name, models[name], rates.get(name, 0.0)) for name in names),
        defaults={
            **asdict(config.shape),
            "max_steps": config.max_steps,
            "stop_threshold": config.stop_threshold,
            **asdict(config.guard),
            "hop": hop,
            "overlap": overlap,
            "kv_mb": KV_MB,
        },
    )

    def fill(folder: Path) -> None:
        (folder / "stages").mkdir()
        for stage in bundle.stages:
            onnx.save(models[stage.name], str(folder / stage.file))
        (folder / VOICE).write_text(json.dumps(config.text, ensure_ascii=False), encoding="utf-8")

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """The stages as they are, NAME.encoder.onnx first; `out` is a folder, or NAME.onnx."""
    base = out.with_suffix("") if out.suffix == ".onnx" else out / bundle.name
    written = {base.with_name(f"{base.name}.{s.name}.onnx"): bundle.file(s.file) for s in bundle.stages}
    for target, source in written.items():
        atomic_file(target, source.read_bytes())
    return list(written)


def cached(bundle: Bundle, precision: str = "fp32") -> tuple[str, Stage, bytes, float]:
    """For `kv_cache`: the stage that a cached step takes the place of, the step as a stage and as a file, and how far
    its frames are from full recomputation (see _transformer_proof), where the cache is kept in this precision (see
    _kept). Raises UsageError if there is nothing to do."""
    import onnx

    if any(stage.name == graph.STEP for stage in bundle.stages):
        raise UsageError("kv_cache: this model has its cache already")
    shape = _shape(bundle)
    models = {name: onnx.load(str(bundle.file(bundle.stage(name).file))) for name in (graph.ENCODER, graph.PREFIX)}
    # Of a decoder that is not causal too: the difference tells.
    step = graph.build(replace(shape, causal=True), graph.weights_of(shape, models))[graph.STEP]
    models[graph.STEP] = narrowed(step, precision)
    stage = _stage(graph.STEP, models[graph.STEP], bundle.stage(graph.PREFIX).frame_rate)
    if precision != "fp32":
        stage = replace(stage, precision=f"{stage.precision}, {precision} cache")
    return graph.PREFIX, stage, models[graph.STEP].SerializeToString(), difference(shape, models, kept(stage))


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> TransformerModel:
    return TransformerModel(bundle, sessions)


class TransformerModel(Stepping):
    """An opened model. One step makes `frames_per_step` frames of every row."""

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        d = bundle.defaults
        self._voice = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
        self._shape = s = _shape(bundle)
        stop = float(np.log(d["stop_threshold"] / (1 - d["stop_threshold"])))
        text: Text = ReadText(s, bundle.sample_rate / int(d["hop"])) if s.timed else WholeText(s, stop)
        own = kept(bundle.stage(graph.STEP)) if graph.STEP in sessions else {}
        cache = Slots(own) if own else None
        super().__init__(bundle, sessions, text, cache, mels=s.mels, each=s.frames_per_step, longest=s.longest)
        self._most = int(d["max_steps"])
        limits = {f.name: d[f.name] for f in fields(Guard) if f.name in d}  # bundles of old have none
        self._guard = None if s.timed else Guard(**limits)
        each = self._most * sum(spec.bytes for spec in own.values()) + 8 * s.decoder_layers * s.width * LONGEST_TEXT
        self.most_rows = max(1, int(d["kv_mb"]) * 1_000_000 // each)

    def encode(self, request: Request) -> Iterator[Array]:
        if request.voice not in ("", self._bundle.name):
            raise UsageError(f"unknown voice {request.voice!r}; known: {self._bundle.name}")
        front_end = registry.load("text", self._voice.get("front_end", "characters"))
        dropped = self._voice.get("dropped", ())
        sentences = (np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._voice))
        return (ids[~np.isin(ids, dropped) | (np.arange(len(ids)) == 0)] for ids in sentences)

    def _for_reading(self, rows: Sequence[Row]) -> dict[str, Array]:
        if not self._shape.timed:
            return {}
        scales = [1 / row.request.speed for row in rows]
        return {"length_scale": np.array(scales, np.float32)[:, None, None]}

    def _step(self, rows: Sequence[Row]) -> dict[str, Array]:
        return super()._step(rows) if self._cache is not None else self._prefix(rows)

    def _for_step(self, rows: Sequence[Row], steps: Array) -> dict[str, Array]:  # noqa: ARG002
        """Positions behind a decoder's window are shut too."""
        if not self._shape.window:
            return {}
        assert self._cache is not None
        seen = bias(steps, self._cache.room)
        too_old = np.arange(self._cache.room) <= (steps - self._shape.window)[:, None]
        seen[too_old[:, None, None]] = graph.FORBIDDEN
        return {"cache_bias": seen}

    def _prefix(self, rows: Sequence[Row]) -> dict[str, Array]:
        """One step of every row from all its frames."""
        counts = np.array([row.total_frames // self._each + 1 for row in rows])
        before = np.zeros((len(rows), int(counts.max()), self._shape.outputs), np.float32)
        for k, row in enumerate(rows):
            assert row.frames is not None
            before[k, 1 : counts[k]] = row.frames.T.reshape(-1, self._shape.outputs)
        feed = {**self._text.for_prefix(rows), "before": before, "frame_bias": bias(counts, before.shape[1])}
        made = self._sessions[graph.PREFIX].run(feed)
        newest = {name: array[np.arange(len(rows)), counts - 1] for name, array in made.items()}
        self._check(rows, newest["frames"])
        return newest

    def _end(self, row: Row, made: Mapping[str, Array], k: int) -> None:
        assert row.frames is not None
        ended = self._text.ended(row, made, k)
        too_long = row.total_frames // self._each >= self._most or self._seconds(row) > row.request.max_seconds
        row.cut = too_long or (not ended and self._ran_away(row))
        row.done = bool(ended) or row.cut
        row.frames = row.frames[:, : ended or None]

    def _ran_away(self, row: Row) -> bool:
        rate = self._bundle.sample_rate / self._hop
        return self._guard is not None and row.frames is not None and self._guard.sees(row.frames, self._each, rate)


def _shape(bundle: Bundle) -> graph.Shape:
    return graph.Shape(**{f.name: bundle.defaults[f.name] for f in fields(graph.Shape)})


def _stage(name: str, model: Any, frame_rate: float) -> Stage:
    return stage_of(name, model, frame_rate, loop="frame" if name in (graph.PREFIX, graph.STEP) else "once")
