"""Quick measurements for a search: one stage's time in several ways, a stage's hold on the length of speech, and what
a candidate costs in predicted MOS on a few sentences that the verdict does not use. Every figure is kept in the store.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vivace import __version__
from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import VivaceError
from vivace.core.machine import cores, timing_key
from vivace.core.stage import Array, RuntimeOptions, Stage
from vivace.workflows import stats
from vivace.workflows.benchmark import measure
from vivace.workflows.calibration import record
from vivace.workflows.clips import Clips, Store, scored, spoken
from vivace.workflows.recipe import Entry

Rows = Mapping[str, Sequence[Mapping[str, Array]]]  # what a stage is given for each text
METRIC = "predicted_mos"
MOVED = 0.01  # share of a clip's length, on average: half of what the gate allows
SEED, SEEDS = 77, 4  # of the noise that every sentence is spoken with, and how many such are tried at most
PRECISE = 0.2  # share of the margin: a standard error of the loss below which no more are tried


@dataclass(frozen=True)
class Found:
    """A candidate beside the original: seconds as a share of its, predicted MOS lost (mean and standard error), MB,
    and whether clips changed their length (by more than MOVED)."""

    time: float
    loss: float
    error: float
    mb: float
    moved: bool


class Prober:
    """Measures candidates of one bundle. `texts` are for quality, `latency` for time, `calibration` for INT8."""

    def __init__(
        self,
        bundle: Bundle,
        store: Store,
        texts: Sequence[str],
        latency: Mapping[str, str],
        calibration: Sequence[str],
        threads: Sequence[int],
        rounds: int = 5,
    ) -> None:
        self.bundle = bundle
        self._store = store
        self._texts = list(texts)
        self._latency = dict(latency)
        # One stage is timed without the longest text: a long one only repeats what a shorter one does.
        self._brief = dict(sorted(self._latency.items(), key=lambda t: len(t[1]))[: max(1, len(self._latency) - 1)])
        self._calibration = list(calibration)
        self._threads = tuple(threads)
        self._rounds = rounds
        self._rows: dict[str, list[dict[str, Array]]] | None = None
        self._clips: dict[int, Clips] = {}  # of the original, by seed
        self._kept: tuple[tuple[Entry, ...], Bundle] = ((), bundle)

    @contextmanager
    def built(self, entries: Sequence[Entry]) -> Iterator[Bundle]:
        """The bundle after these passes, in a folder that is gone afterwards."""
        with TemporaryDirectory(prefix="vivace-search-") as folder:
            bundle, rest = self._begun(entries)
            for k, entry in enumerate(rest):
                module = registry.load("passes", entry.name)
                context = Context(self._inputs, threads=cores(), remember=self._store.json)
                bundle = module.apply(bundle, Path(folder) / str(k), entry.settings, context)
            yield bundle

    def keep(self, entries: Sequence[Entry], bundle: Bundle) -> None:
        """Lets what begins with these passes be built from there, as long as the bundle lies where it does."""
        self._kept = (tuple(entries), bundle)

    def _begun(self, entries: Sequence[Entry]) -> tuple[Bundle, Sequence[Entry]]:
        first, bundle = self._kept
        return (bundle, entries[len(first) :]) if tuple(entries[: len(first)]) == first else (self.bundle, entries)

    def decides_length(self, stage: Stage) -> bool:
        """Whether the shape of a stage's outputs depends on the values that it is given: 5% of noise on its float
        inputs changes it. Such a stage must not be rounded."""

        def compute() -> bool:
            runtime = registry.load("runtimes", stage.runtime)
            session = runtime.open(stage, self.bundle.file(stage.file), RuntimeOptions(threads=1))
            rng = np.random.default_rng(0)
            try:
                for row in sorted(self._inputs(stage.name), key=_size)[:3]:
                    noisy = {
                        name: value * (1 + 0.05 * rng.standard_normal(value.shape)).astype(value.dtype)
                        if value.dtype.kind == "f" and value.ndim > 1
                        else value
                        for name, value in row.items()
                    }
                    before, after = session.run(row), session.run(noisy)
                    if any(before[name].shape != after[name].shape for name in before):
                        return True
                return False
            finally:
                session.close()

        return bool(self._store.json(f"decides length {self.bundle.digest} {stage.name}", compute))

    def stage_seconds(self, name: str, variants: Mapping[str, tuple[Bundle, Stage]]) -> dict[str, float]:
        """Seconds of one stage in several ways, interleaved: median of the rounds, geometric mean over the texts and
        thread counts. A way that cannot run is infinitely slow."""
        digests = {key: f"{bundle.files[stage.file]} {_how(stage)}" for key, (bundle, stage) in variants.items()}
        key = f"stage seconds {self.bundle.digest} {name} {digests} {self._threads} {self._rounds} {self._brief}"
        key += f" {timing_key()}"
        found = self._store.json(key, lambda: self._stage_seconds(name, variants))
        return {k: float(v) for k, v in found.items()}

    def _stage_seconds(self, name: str, variants: Mapping[str, tuple[Bundle, Stage]]) -> dict[str, float]:
        texts = {text: record(self.bundle, [said])[name] for text, said in self._brief.items()}
        logs: dict[str, list[float]] = {key: [] for key in variants}
        for threads in self._threads:
            with ExitStack() as stack:
                runs: dict[str, Callable[[str], None]] = {}
                for key, (bundle, stage) in variants.items():
                    try:
                        run = self._runner(stack, bundle, stage, texts, threads)
                        for text in texts:
                            run(text)
                    except VivaceError:  # this way cannot run here: it is not an answer
                        logs[key].append(np.inf)
                        continue
                    runs[key] = run
                for text in texts:
                    for key, seconds in interleaved(runs, text, self._rounds).items():
                        logs[key].append(np.log(seconds))
        return {key: float(np.exp(np.mean(values))) for key, values in logs.items()}

    def _runner(
        self, stack: ExitStack, bundle: Bundle, stage: Stage, texts: Rows, threads: int
    ) -> Callable[[str], None]:
        runtime = registry.load("runtimes", stage.runtime)
        session = runtime.open(stage, bundle.file(stage.file), RuntimeOptions(threads=threads))
        stack.callback(session.close)

        def run(text: str) -> None:
            for row in texts[text]:
                session.run(row)

        return run

    def found(self, entries: Sequence[Entry], margin: float) -> Found:
        """A whole candidate against the original. Raises VivaceError if it cannot be made or does not speak."""

        def compute() -> dict[str, Any]:
            with self.built(entries) as child:
                loss, error, moved = self.loss(child, margin)
                return asdict(Found(self._share(child), loss, error, child.size / 1e6, moved))

        made = [(entry.name, asdict(entry.settings)) for entry in entries]
        measured = f"{self._texts} {self._latency} {self._calibration} {self._threads} {self._rounds} {margin}"
        key = f"found 5 {__version__} {self.bundle.digest} {made} {measured} {timing_key()}"
        return Found(**self._store.json(key, compute))

    def loss(self, child: Bundle, margin: float) -> tuple[float, float, bool]:
        """(predicted MOS lost, its standard error over the sentences, whether clips changed their length by more than
        MOVED). Sentences are spoken again with other noise as long as the error is large for the margin that may be
        lost, and they may serve: what moves a frame changes how a sentence sounds, for better or worse."""
        lost, longer = [], []
        for seed in range(SEED, SEED + SEEDS):
            before, after = self._original(seed), spoken(child, self._texts, seed=seed, store=self._store)
            lost.append(np.subtract(self._scores(before), self._scores(after)))
            pairs = zip(before.audio, after.audio, strict=True)
            longer.append([len(b.samples) / len(a.samples) - 1 for a, b in pairs])
            each = np.mean(lost, axis=0)
            loss, error = float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))
            moved = float(np.abs(longer).mean())
            if error <= PRECISE * margin or loss - 2 * error > margin or moved > 2 * MOVED:
                break
        return loss, error, moved > MOVED

    def _original(self, seed: int) -> Clips:
        if seed not in self._clips:
            self._clips[seed] = spoken(self.bundle, self._texts, seed=seed, store=self._store)
        return self._clips[seed]

    def _scores(self, clips: Clips) -> Sequence[float]:
        return scored(clips, [METRIC], store=self._store)[METRIC]

    def _share(self, child: Bundle) -> float:
        def compute() -> float:
            logs = []
            for threads in self._threads:
                timings = measure(
                    {"original": self.bundle, "child": child},
                    threads=threads,
                    rounds=self._rounds,
                    spoken_texts=self._latency,
                    first_audio=False,
                )
                logs.append(np.log(timings.overall("child", "original").mean))
            return float(np.exp(np.mean(logs)))

        key = f"share 2 {self.bundle.digest} {child.digest} {self._threads} {self._rounds} {self._latency}"
        key += f" {timing_key()}"
        return float(self._store.json(key, compute))

    def mean(self) -> stats.Interval:
        """The original's own predicted MOS on the probe sentences."""
        return stats.mean_interval(self._scores(self._original(SEED)))

    def _inputs(self, stage: str) -> list[dict[str, Array]]:
        """Rewrites change no stage's inputs, so the original's serve for all candidates."""
        if self._rows is None:
            self._rows = record(self.bundle, self._calibration)
        return self._rows[stage]


def interleaved(runs: Mapping[str, Callable[[str], None]], text: str, rounds: int) -> dict[str, float]:
    """Median seconds of each, the order shuffled in every round."""
    shuffle = random.Random(0)  # noqa: S311 - an order, not a secret
    spent: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        order = list(runs)
        shuffle.shuffle(order)
        for key in order:
            begun = time.perf_counter()
            runs[key](text)
            spent[key].append(time.perf_counter() - begun)
    return {key: statistics.median(values) for key, values in spent.items()}


def placed(stage: Stage, runtime: str, precision: str) -> Stage:
    options: dict[str, Any] = {} if precision == "fp32" else {"precision": precision}
    return replace(stage, runtime=runtime, options=options)


def _size(row: Mapping[str, Array]) -> int:
    return sum(value.size for value in row.values())


def _how(stage: Stage) -> str:
    return f"{stage.runtime} {dict(stage.options)}"
