"""Speaks a set of texts and scores the clips, on all cores, with every result kept so that work can resume."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace import __version__
from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle, atomic_file
from vivace.core.contracts import Progress
from vivace.core.errors import BundleError
from vivace.core.machine import cores
from vivace.core.speech import Request
from vivace.engine.pool import Pool, speak_all

Scores = dict[str, list[float]]


class Store:
    """Results on disk, by key. Without a folder it remembers nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def json(self, key: str, compute: Callable[[], Any]) -> Any:
        """The JSON value stored under `key`, computed and stored first if it is not there or not readable."""
        path = self._path(key, ".json")
        if path and path.is_file():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                path.unlink(missing_ok=True)
        value = compute()
        if path:
            atomic_file(path, json.dumps(value).encode())
        return value

    def clip(self, key: str) -> Audio | None:
        """The clip kept under `key`; None if it is not there or not readable."""
        path = self._path(key, ".npz")
        if not path or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as data:
                return Audio(data["samples"], int(data["rate"]))
        except (OSError, ValueError, KeyError, EOFError):
            path.unlink(missing_ok=True)
            return None

    def keep(self, key: str, clip: Audio) -> None:
        if path := self._path(key, ".npz"):
            buffer = io.BytesIO()
            np.savez(buffer, samples=clip.samples, rate=clip.rate)
            atomic_file(path, buffer.getvalue())

    def _path(self, key: str, suffix: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / (hashlib.sha256(key.encode()).hexdigest()[:24] + suffix)


@dataclass(frozen=True, eq=False)
class Clips:
    """One clip for each text; `keys` name what each clip is, so that its scores are found again. Clips of one group (a
    speaker, say) are not independent of each other; without groups all are."""

    texts: tuple[str, ...]
    audio: tuple[Any, ...]  # Audio; of a model that listens, its scores for each label
    keys: tuple[str, ...]
    groups: tuple[str, ...] = ()

    def head(self, count: int) -> Clips:
        return Clips(self.texts[:count], self.audio[:count], self.keys[:count], self.groups[:count])


def spoken(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress = lambda message, share: None,
) -> Clips:
    """Speaks every text with a seed of its own, by one worker for each core.

    Raises VivaceError naming the text that could not be spoken.
    """
    store = store or Store(None)
    requests = [Request(f"clip-{k}", text, seed=seed * 100_003 + k) for k, text in enumerate(texts)]
    keys = {request.id: f"{bundle.digest} {request.seed} {request.text}" for request in requests}
    found = {name: clip for name, key in keys.items() if (clip := store.clip(f"audio {key}"))}
    missing = [request for request in requests if request.id not in found]
    if missing:
        with Pool(bundle, limit=len(missing)) as pool:
            for request, audio in speak_all(pool, missing):
                store.keep(f"audio {keys[request.id]}", audio)
                found[request.id] = audio
                progress(f"speaking ({bundle.name}) {len(found)}/{len(texts)}", len(found) / len(texts))
    return Clips(tuple(texts), tuple(found[name] for name in keys), tuple(keys.values()))


def scored(
    clips: Clips,
    metrics: Sequence[str],
    *,
    reference: Clips | None = None,
    store: Store | None = None,
    progress: Progress = lambda message, share: None,
) -> Scores:
    """The score of every clip for every metric, in the order of the texts.

    `reference` holds the same texts; metrics that need one are left out where there is none.
    """
    store = store or Store(None)
    modules = {name: registry.load("metrics", name) for name in metrics}
    usable = [name for name in metrics if reference is not None or "reference" not in modules[name].NEEDS]
    jobs = [(name, k) for k in range(len(clips.texts)) for name in usable]

    def one(job: int) -> float:
        name, k = jobs[job]
        compares = reference is not None and "reference" in modules[name].NEEDS
        other = reference.audio[k] if reference and compares else None
        key = f"score {__version__} {name} {clips.keys[k]} {reference.keys[k] if reference and compares else ''}"

        def compute() -> float:
            try:
                return float(modules[name].score(clips.audio[k], clips.texts[k], other))
            except ValueError as error:
                raise BundleError(f"{name} cannot judge the clip of {clips.texts[k][:60]!r}: {error}") from error

        return float(store.json(key, compute))

    values = _parallel(one, len(jobs), progress, "scoring")
    result: Scores = {name: [] for name in usable}
    for (name, _), value in zip(jobs, values, strict=True):
        result[name].append(value)
    return result


def _parallel(work: Callable[[int], Any], count: int, progress: Progress, message: str) -> list[Any]:
    results: list[Any] = [None] * count
    with ThreadPoolExecutor(cores()) as pool:
        futures = {pool.submit(work, k): k for k in range(count)}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                results[futures[future]] = future.result()
                progress(f"{message} {done}/{count}", done / count)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results
