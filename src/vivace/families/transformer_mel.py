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
from vivace.core.audio import Audio
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
from vivace.families._slots import Slots, appended, kept
from vivace.families._transformer_proof import difference
from vivace.families._transformer_text import ReadText, Text, WholeText, bias
from vivace.families._vits_windows import windows

SUMMARY = "transformers that make mels step by step: a folder with config.json and model.safetensors"
VOICE, VOCODER = "voice.json", "vocoder"
WINDOW = 256  # frames that the vocoder makes at once
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


class TransformerModel:
    """An opened model. One step makes `frames_per_step` frames of every row."""

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        d = bundle.defaults
        self._bundle, self._sessions = bundle, sessions
        self._voice = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
        self._shape = shape = _shape(bundle)
        self._overlap, self._hop, self._most = int(d["overlap"]), int(d["hop"]), int(d["max_steps"])
        stop = float(np.log(d["stop_threshold"] / (1 - d["stop_threshold"])))
        self._text: Text = ReadText(shape, bundle.sample_rate / self._hop) if shape.timed else WholeText(shape, stop)
        limits = {f.name: d[f.name] for f in fields(Guard) if f.name in d}  # bundles of old have none
        self._guard = None if shape.timed else Guard(**limits)
        own = kept(bundle.stage(graph.STEP)) if graph.STEP in sessions else {}
        self._cache = Slots(own) if own else None
        each = self._most * sum(spec.bytes for spec in own.values())
        each += 8 * shape.decoder_layers * shape.width * LONGEST_TEXT
        self.most_rows = max(1, int(d["kv_mb"]) * 1_000_000 // each)

    def encode(self, request: Request) -> Iterator[Array]:
        if request.voice not in ("", self._bundle.name):
            raise UsageError(f"unknown voice {request.voice!r}; known: {self._bundle.name}")
        front_end = registry.load("text", self._voice.get("front_end", "characters"))
        dropped = self._voice.get("dropped", ())
        sentences = (np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._voice))
        return (ids[~np.isin(ids, dropped) | (np.arange(len(ids)) == 0)] for ids in sentences)

    def advance(self, rows: Sequence[Row]) -> None:
        new = [row for row in rows if row.frames is None]
        if new:
            self._read(new)
        made = self._step(rows) if self._cache is not None else self._prefix(rows)
        if bad := [row for row, frames in zip(rows, made["frames"], strict=True) if not np.isfinite(frames).all()]:
            raise ModelError(f"the model made frames that are not numbers, after {bad[0].total_frames} good ones")
        for k, row in enumerate(rows):
            ended = self._text.ended(row, made, k)
            row.frames = appended(row, made["frames"][k].reshape(-1, self._shape.mels).T)[:, : ended or None]
            row.held = self._overlap
            seconds = (row.total_frames - row.held) * self._hop / self._bundle.sample_rate
            row.cut = row.total_frames // self._shape.frames_per_step >= self._most or seconds > row.request.max_seconds
            row.cut = row.cut or (not ended and self._ran_away(row))
            row.done = bool(ended) or row.cut
            if row.done:
                self.release(row)

    def _ran_away(self, row: Row) -> bool:
        rate, new = self._bundle.sample_rate / self._hop, self._shape.frames_per_step
        return self._guard is not None and row.frames is not None and self._guard.sees(row.frames, new, rate)

    def release(self, row: Row) -> None:
        self._text.release(row)
        if self._cache is not None:
            self._cache.give_back(row)

    @property
    def cache_bytes(self) -> int:
        """Keys and values that are kept now, of frames and of texts, with the room that is not used yet."""
        return self._text.bytes + (self._cache.bytes if self._cache is not None else 0)

    def _read(self, rows: Sequence[Row]) -> None:
        """Reads the texts of new rows together."""
        counts = np.array([len(row.tokens) for row in rows])
        longest = int(counts.max())
        if longest > self._shape.longest:
            raise ModelError(f"a sentence has {longest} tokens; this model reads {self._shape.longest}")
        tokens = np.zeros((len(rows), longest), np.int64)
        for k, row in enumerate(rows):
            tokens[k, : counts[k]] = row.tokens
        feed: dict[str, Array] = {"tokens": tokens, "token_bias": bias(counts, longest)}
        if self._shape.timed:
            scales = [1 / row.request.speed for row in rows]
            feed["length_scale"] = np.array(scales, np.float32)[:, None, None]
        self._text.read(rows, self._sessions[graph.ENCODER].run(feed))
        for row in rows:
            if self._cache is not None:
                self._cache.give_back(row)  # a step that failed may have left it there
                self._cache.take(row)
            row.frames = np.zeros((self._shape.mels, 0), np.float32)

    def _step(self, rows: Sequence[Row]) -> dict[str, Array]:
        """One step of every row from the cache."""
        assert self._cache is not None
        slots = self._cache.places(rows)
        steps = np.array([row.total_frames // self._shape.frames_per_step for row in rows], np.int64)
        self._cache.reserve(int(steps.max()) + 1)
        feed = {
            **self._text.for_step(rows),
            **self._cache.view(slots),
            "before": np.stack([self._last(row) for row in rows])[:, None],
            "place": steps[:, None],
            "cache_bias": self._seen(steps),
        }
        made = self._sessions[graph.STEP].run(feed)
        self._cache.put(slots, steps.tolist(), {name: made[f"new.{name}"] for name in self._cache.names})
        return {name: made[name][:, 0] for name in made if not name.startswith("new.")}

    def _seen(self, steps: Array) -> Array:
        """Which positions of the cache each row attends to, as a bias."""
        assert self._cache is not None
        found = bias(steps, self._cache.room)
        if self._shape.window:
            too_old = np.arange(self._cache.room) <= (steps - self._shape.window)[:, None]
            found[too_old[:, None, None]] = graph.FORBIDDEN
        return found

    def _prefix(self, rows: Sequence[Row]) -> dict[str, Array]:
        """One step of every row from all its frames."""
        counts = np.array([row.total_frames // self._shape.frames_per_step + 1 for row in rows])
        before = np.zeros((len(rows), int(counts.max()), self._shape.outputs), np.float32)
        for k, row in enumerate(rows):
            assert row.frames is not None
            before[k, 1 : counts[k]] = row.frames.T.reshape(-1, self._shape.outputs)
        feed = {**self._text.for_prefix(rows), "before": before, "frame_bias": bias(counts, before.shape[1])}
        made = self._sessions[graph.PREFIX].run(feed)
        return {name: array[np.arange(len(rows)), counts - 1] for name, array in made.items()}

    def _last(self, row: Row) -> Array:
        """What the last step made, flat; zeros before the first."""
        assert row.frames is not None
        if not row.total_frames:
            return np.zeros(self._shape.outputs, np.float32)
        return row.frames[:, -self._shape.frames_per_step :].T.reshape(-1)

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        return [self._render(row) for row in rows]

    def _render(self, row: Row) -> Audio:
        assert row.frames is not None
        stop, pieces = row.rendered + row.due, []
        for w in windows(row.rendered, stop, row.total_frames, self._overlap, WINDOW):
            feed = {"latent": np.ascontiguousarray(row.frames[None, :, w.left : w.right])}
            made = next(iter(self._sessions[VOCODER].run(feed).values())).reshape(-1)
            pieces.append(made[(w.start - w.left) * self._hop : (w.stop - w.left) * self._hop])
        row.rendered = stop
        return Audio(np.concatenate(pieces), self._bundle.sample_rate)


def _shape(bundle: Bundle) -> graph.Shape:
    return graph.Shape(**{f.name: bundle.defaults[f.name] for f in fields(graph.Shape)})


def _stage(name: str, model: Any, frame_rate: float) -> Stage:
    return stage_of(name, model, frame_rate, loop="frame" if name in (graph.PREFIX, graph.STEP) else "once")
