"""SpeechT5 text to speech (Ao et al. 2022) with its HiFi-GAN vocoder, from the folders that Hugging Face writes.

Neither torch nor transformers is needed: the graphs are built from the weights (see _speecht5_graph), with the cache of
keys and values from the start, and the cached step is proven at import. Speech equals `generate_speech`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NoReturn

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, atomic_file, write_bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, Session
from vivace.families import _speecht5_config as files
from vivace.families import _speecht5_graph as graph
from vivace.families import _speecht5_vocoder as hifigan
from vivace.families import _transformer_graph as transformer
from vivace.families._graph_builder import stage_of
from vivace.families._receptive_field import receptive_field
from vivace.families._slots import Slots, kept
from vivace.families._speecht5_proof import prove
from vivace.families._speecht5_tokenizer import read_tokenizer
from vivace.families._stepping import VOCODER, Stepping
from vivace.families._transformer_config import read_weights
from vivace.families._transformer_text import WholeText

SUMMARY = "SpeechT5 text to speech: Hugging Face's folder with model.safetensors, and its vocoder's folder in it"
VOICE, VECTORS = "voice.json", "voices.npy"
KV_MB = 2048  # of all slots together


def recognise(path: Path) -> bool:
    return files.recognise(path)


def import_(path: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Builds the graphs from the weights and proves the cached step before anything is written."""
    import onnx

    config, folder = files.read_config(path), files.folder(path)
    s = config.shape
    voice = read_tokenizer(folder, config.end, s.longest_text, s.tokens)
    voices = files.read_voices(path, s.speaker)
    beside = hifigan.find(folder)
    vocoder = hifigan.read(beside)
    if vocoder.mels != s.mels:
        raise ModelError(f"{beside} takes {vocoder.mels} mels, the model makes {s.mels}: they do not belong together")
    weights = read_weights(beside)
    try:
        graph.check(hifigan.weights_wanted(vocoder), weights)
    except ModelError as error:
        raise ModelError(f"{beside}: {error}") from None
    models = graph.build(s, read_weights(folder)) | {VOCODER: hifigan.build(vocoder, weights)}
    prove(s, models)
    del models[graph.PREFIX]
    overlap, hop = receptive_field(models[VOCODER])
    rate = vocoder.sample_rate / hop
    rates = {graph.STEP: rate, graph.POSTNET: rate, VOCODER: float(vocoder.sample_rate)}
    loops = {graph.STEP: "frame"}
    bundle = Bundle(
        path=out,
        name=folder.resolve().name,
        family="speecht5",
        sample_rate=vocoder.sample_rate,
        stages=tuple(stage_of(n, models[n], rates.get(n, 0.0), loop=loops.get(n, "once")) for n in models),
        voices=tuple(voices),
        defaults={
            **asdict(s),
            "dropout": config.dropout,
            "threshold": config.threshold,
            "minlenratio": config.minlenratio,
            "maxlenratio": config.maxlenratio,
            "hop": hop,
            "overlap": overlap,
            "postnet_overlap": receptive_field(models[graph.POSTNET])[0],
            "kv_mb": KV_MB,
        },
    )

    def fill(made: Path) -> None:
        (made / "stages").mkdir()
        for each in bundle.stages:
            onnx.save(models[each.name], str(made / each.file))
        (made / VOICE).write_text(json.dumps({"front_end": "pieces", **voice}, ensure_ascii=False), encoding="utf-8")
        vectors = list(voices.values()) or [np.zeros(s.speaker, np.float32)]
        np.save(made / VECTORS, np.stack(vectors))

    return write_bundle(out, bundle, fill, overwrite=overwrite)


def export(bundle: Bundle, out: Path) -> list[Path]:
    """The stages as they are, NAME.encoder.onnx first; `out` is a folder, or NAME.onnx."""
    base = out.with_suffix("") if out.suffix == ".onnx" else out / bundle.name
    written = {base.with_name(f"{base.name}.{s.name}.onnx"): bundle.file(s.file) for s in bundle.stages}
    for target, source in written.items():
        atomic_file(target, source.read_bytes())
    return list(written)


def cached(bundle: Bundle, precision: str = "fp32") -> NoReturn:  # noqa: ARG001
    """For `kv_cache`, which has nothing to do here."""
    raise UsageError("kv_cache: this model has its cache already")


def open(bundle: Bundle, sessions: Mapping[str, Session]) -> SpeechT5:
    return SpeechT5(bundle, sessions)


class SpeechT5(Stepping):
    """An opened model. One step makes `frames_per_step` frames of every row."""

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        d = bundle.defaults
        self._voice = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
        self._speakers = _unit(np.load(bundle.file(VECTORS), allow_pickle=False))
        self._shape = s = graph.Shape(**{f.name: d[f.name] for f in fields(graph.Shape)})
        shape = transformer.Shape(s.tokens, width=s.width, heads=s.heads, decoder_layers=s.decoder_layers)
        super().__init__(
            bundle, sessions, WholeText(shape, 0.0), Slots(kept(bundle.stage(graph.STEP))), mels=s.mels,
            each=s.frames_per_step, longest=s.longest_text, smooth=int(d["postnet_overlap"]),
        )  # fmt: skip
        steps = max(self._bounds(s.longest_text))
        each = 8 * s.decoder_layers * s.width * (min(steps, s.longest_speech) + s.longest_text)
        self.most_rows = max(1, int(d["kv_mb"]) * 1_000_000 // each)

    def encode(self, request: Request) -> Iterator[Array]:
        self._speaker(request)
        front_end = registry.load("text", self._voice["front_end"])
        return (np.array(ids, np.int64) for ids in front_end.tokens(request.text, self._voice))

    def _speaker(self, request: Request) -> Array:
        """The x-vector [numbers] of the request's voice, of length 1, or 0 where there are no voices."""
        known = self._bundle.voices or (self._bundle.name,)
        if request.voice not in ("", *known):
            raise UsageError(f"unknown voice {request.voice!r}; known: {', '.join(known)}")
        found: Array = self._speakers[known.index(request.voice) if request.voice else 0]
        return found

    def _for_reading(self, rows: Sequence[Row]) -> dict[str, Array]:
        return {graph.SPEAKER: np.stack([self._speaker(row.request) for row in rows])[:, None]}

    def _read(self, rows: Sequence[Row]) -> dict[str, Array]:
        made = super()._read(rows)
        for k, row in enumerate(rows):
            row.state = {**row.state, graph.SPEAKER: made[f"{graph.SPEAKER}.share"][k]}
        return made

    def _for_step(self, rows: Sequence[Row], steps: Array) -> dict[str, Array]:  # noqa: ARG002
        """The speaker, and the prenet's dropout, which SpeechT5 needs to speak, too: from each row's own noise. As in
        `generate_speech`, a number is kept (not dropped) with the probability p and multiplied with 1 / (1 - p)."""
        p, size = float(self._bundle.defaults["dropout"]), (self._shape.prenet_layers, 1, self._shape.prenet_units)
        kept = np.stack([row.rng.random(size) < p for row in rows], 1).astype(np.float32) / np.float32(1 - p)
        speakers = np.stack([row.state[graph.SPEAKER] for row in rows])
        return {f"{graph.SPEAKER}.share": speakers, **dict(zip(graph.keep_names(self._shape), kept, strict=True))}

    def _last(self, row: Row) -> Array:
        """The last frame; zeros before the first."""
        assert row.frames is not None
        return row.frames[:, -1] if row.total_frames else np.zeros(self._shape.mels, np.float32)

    def _end(self, row: Row, made: Mapping[str, Array], k: int) -> None:
        """As `generate_speech` ends: not before `least` steps, then where the model says so, and at `most`."""
        steps = row.total_frames // self._each
        least, most = self._bounds(len(row.tokens))
        by_itself = steps >= least and float(made["stop"][k].sum()) >= self._bundle.defaults["threshold"]
        row.cut = not by_itself and (
            steps >= max(least, most)
            or steps >= self._shape.longest_speech
            or self._seconds(row) > row.request.max_seconds
        )
        row.done = by_itself or row.cut

    def _bounds(self, tokens: int) -> tuple[int, int]:
        ratios = (float(self._bundle.defaults[name]) for name in ("minlenratio", "maxlenratio"))
        least, most = (int(tokens * ratio / self._shape.frames_per_step) for ratio in ratios)
        return least, most

    def _heard(self, row: Row, left: int, right: int) -> Array:
        """What the postnet makes of these frames."""
        assert row.frames is not None
        start = max(0, left - self._smooth)
        seen = np.ascontiguousarray(row.frames[None, :, start : right + self._smooth])
        made = self._sessions[graph.POSTNET].run({"latent": seen})["mel"]
        return np.ascontiguousarray(made[..., left - start : right - start])


def _unit(vectors: Array) -> Array:
    """Of length 1, except those of length 0."""
    found: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return found.astype(np.float32)
