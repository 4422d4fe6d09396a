"""Speaks a set of texts and scores the clips, on all cores, with every result kept so that work can resume."""

from __future__ import annotations

import hashlib
import json
import threading
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
from vivace.core.errors import BundleError, VivaceError
from vivace.core.machine import cores
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak

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

    def audio(self, key: str, compute: Callable[[], Audio]) -> Audio:
        """The clip stored under `key`, made and stored first if it is not there or not readable."""
        path = self._path(key, ".npz")
        if path and path.is_file():
            try:
                with np.load(path, allow_pickle=False) as data:
                    return Audio(data["samples"], int(data["rate"]))
            except (OSError, ValueError, KeyError, EOFError):
                path.unlink(missing_ok=True)
        made = compute()
        if path:
            import io

            buffer = io.BytesIO()
            np.savez(buffer, samples=made.samples, rate=made.rate)
            atomic_file(path, buffer.getvalue())
        return made

    def _path(self, key: str, suffix: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / (hashlib.sha256(key.encode()).hexdigest()[:24] + suffix)


@dataclass(frozen=True, eq=False)
class Clips:
    """One clip for each text; `keys` name what each clip is, so that its scores are found again."""

    texts: tuple[str, ...]
    audio: tuple[Audio, ...]
    keys: tuple[str, ...]

    def head(self, count: int) -> Clips:
        return Clips(self.texts[:count], self.audio[:count], self.keys[:count])


def spoken(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress = lambda message, share: None,
) -> Clips:
    """Speaks every text with a seed of its own, by one single-thread engine for each core.

    Raises VivaceError naming the text that could not be spoken.
    """
    store = store or Store(None)
    own = threading.local()
    engines: list[Engine] = []

    def engine() -> Engine:
        if not hasattr(own, "engine"):
            own.engine = Engine(bundle, RuntimeOptions(threads=1))
            engines.append(own.engine)
        return own.engine  # type: ignore[no-any-return]

    seeds = [seed * 100_003 + k for k in range(len(texts))]
    keys = [f"{bundle.digest} {own_seed} {text}" for own_seed, text in zip(seeds, texts, strict=True)]

    def one(k: int) -> Audio:
        request = Request(f"clip-{k}", texts[k], seed=seeds[k])
        try:
            return store.audio(f"audio {keys[k]}", lambda: speak(engine(), request))
        except VivaceError as error:
            raise VivaceError(f"{bundle.name} cannot speak {texts[k][:60]!r}: {error}") from error

    try:
        audio = _parallel(one, len(texts), progress, f"speaking ({bundle.name})")
    finally:
        for used in engines:
            used.close()
    return Clips(tuple(texts), tuple(audio), tuple(keys))


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
