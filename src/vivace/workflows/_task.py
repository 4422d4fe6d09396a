"""What a model is for, as the gate sees it: how it is asked, timed, judged and damaged. The bundle names its task.

`Speech` is asked with texts, `Labels` (a model that listens) with labelled clips; the gate knows neither.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vivace.core import machine, registry
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.contracts import Classifier, Progress
from vivace.core.errors import UsageError
from vivace.core.stage import Array, RuntimeOptions, Session, Stage
from vivace.engine.sessions import Wrap, open_sessions
from vivace.workflows import _labels, benchmark, calibration, clips, gate, texts
from vivace.workflows._memory import peak_memory
from vivace.workflows.benchmark import Timings
from vivace.workflows.clips import Clips, Scores, Store
from vivace.workflows.dataset import Dataset, read

CALIBRATION_TEXTS = 32
BATCH = 32
SHIFT = 0.01  # seconds by which a clip begins later, at most, for the noise floor


class Task(Protocol):
    """Items are texts, or the names of clips. `answers` are what the model makes of them, one for each."""

    latency: dict[str, str]

    @property
    def damages(self) -> Sequence[str]:
        """What the gate must refuse, whatever the model."""
        ...

    @property
    def given(self) -> bool:
        """Whether the user brought the items."""
        ...

    def items(self, count: int) -> list[str]: ...
    def calibration_items(self) -> list[str]: ...
    def metrics(self, asked: Sequence[str]) -> tuple[str, ...]: ...
    def answers(self, bundle: Bundle, items: Sequence[str], seed: int, store: Store, tell: Progress) -> Clips: ...
    def scores(
        self, answers: Clips, metrics: Sequence[str], reference: Clips, store: Store, tell: Progress
    ) -> Scores: ...
    def damaged(self, answers: Clips, name: str, count: int) -> Clips: ...
    def measure(
        self, arms: Mapping[str, Bundle], *, threads: int, rounds: int, first_seed: int = 0, progress: Progress = ...
    ) -> Timings: ...
    def memory(self, bundle: Bundle, threads: int) -> float: ...
    def record(self, bundle: Bundle, items: Sequence[str]) -> dict[str, list[dict[str, Array]]]: ...
    def training(self, bundle: Bundle) -> Callable[[], tuple[Array, Array]] | None: ...
    def details(self, answers: Mapping[str, Clips]) -> dict[str, Any]: ...


def of(bundle: Bundle, evaluation: Path | None, calibration: Path | None, training: Path | None = None) -> Task:
    """The task of a bundle with the user's own material. Raises UsageError where what it needs is missing."""
    if listens(bundle):
        if evaluation is None or calibration is None:
            raise UsageError("this model listens: give labelled clips, --evaluation FOLDER and --calibration FOLDER")
        return Labels(bundle, read(evaluation), read(calibration), read(training) if training else None)
    if training is not None:
        raise UsageError("--training belongs to models that listen; this one speaks")
    said, heard = (texts.from_file(path) if path else [] for path in (evaluation, calibration))
    return Speech(said, heard)


def listens(bundle: Bundle) -> bool:
    return bundle.defaults.get("task") == "labels"


@dataclass
class Speech:
    """Texts in, sound out. Without texts of the user's own: the built-in sets."""

    evaluation: Sequence[str] = ()
    calibration: Sequence[str] = ()
    latency: dict[str, str] = field(default_factory=texts.latency)

    @property
    def damages(self) -> Sequence[str]:
        return tuple(gate.DAMAGES)

    @property
    def given(self) -> bool:
        return bool(self.evaluation)

    def items(self, count: int) -> list[str]:
        return list(self.evaluation)[:count] or texts.evaluation(count)

    def calibration_items(self) -> list[str]:
        return list(self.calibration) or texts.calibration(CALIBRATION_TEXTS)

    def metrics(self, asked: Sequence[str]) -> tuple[str, ...]:
        names = tuple(asked) or tuple(registry.names("metrics"))
        for name in names:
            registry.load("metrics", name)
        return names

    def answers(self, bundle: Bundle, items: Sequence[str], seed: int, store: Store, tell: Progress) -> Clips:
        return clips.spoken(bundle, items, seed=seed, store=store, progress=tell)

    def scores(self, answers: Clips, metrics: Sequence[str], reference: Clips, store: Store, tell: Progress) -> Scores:
        return clips.scored(answers, metrics, reference=reference, store=store, progress=tell)

    def damaged(self, answers: Clips, name: str, count: int) -> Clips:
        return gate.damaged(answers, name, count)

    def measure(
        self,
        arms: Mapping[str, Bundle],
        *,
        threads: int,
        rounds: int,
        first_seed: int = 0,
        progress: Progress = lambda message, share: None,
    ) -> Timings:
        asked: dict[str, Any] = {"threads": threads, "rounds": rounds, "first_seed": first_seed, "progress": progress}
        return benchmark.measure(arms, spoken_texts=self.latency, **asked)

    def memory(self, bundle: Bundle, threads: int) -> float:
        return peak_memory(bundle, self.latency["long"], threads)[1]

    def record(self, bundle: Bundle, items: Sequence[str]) -> dict[str, list[dict[str, Array]]]:
        return calibration.record(bundle, items)

    def training(self, bundle: Bundle) -> None:
        """A voice brings no labelled clips."""

    def details(self, answers: Mapping[str, Clips]) -> dict[str, Any]:  # noqa: ARG002
        return {}


@contextmanager
def opened(bundle: Bundle, threads: int = 0, wrap: Wrap = lambda stage, session: session) -> Iterator[Classifier]:
    """A model that listens, ready to be asked."""
    sessions = open_sessions(bundle, RuntimeOptions(threads=threads), wrap)
    try:
        yield registry.load("families", bundle.family).open(bundle, sessions)
    finally:
        for session in sessions.values():
            session.close()


DAMAGES = ("one answer in ten replaced by another label", "the two most common labels exchanged", "one label for all")


class Labels:
    """Labelled clips in, a label out. Batches of one clip and of 32 are timed."""

    damages: Sequence[str] = DAMAGES
    given = True

    def __init__(
        self, bundle: Bundle, evaluation: Dataset, calibration: Dataset, training: Dataset | None = None
    ) -> None:
        judged = evaluation.contents
        for name, other in (("calibration", calibration), ("training", training)):
            if other and other.contents & judged:
                raise UsageError(
                    f"a clip is both for {name} and for evaluation; quality must be judged on unseen clips"
                )
        self._evaluation, self._calibration, self._training = evaluation, calibration, training
        self._rate = bundle.sample_rate
        with opened(bundle, 1) as model:
            self._labels = model.labels
        self._classes = dict(
            zip((item.name for item in evaluation.items), evaluation.classes(self._labels), strict=True)
        )
        self._groups = {item.name: item.group or item.name for item in evaluation.items}
        self._heard = dict(zip(self._classes, evaluation.clips(self._rate), strict=True))
        first = list(self._heard.values())
        self._batches = {"1 clip": first[:1], f"{BATCH} clips": [first[k % len(first)] for k in range(BATCH)]}
        self.latency = dict.fromkeys(self._batches, "")

    def items(self, count: int) -> list[str]:  # noqa: ARG002
        """All of them, the labels in turn: the first of a sorted set would be of few labels."""
        seen: Counter[int] = Counter()
        turns = {}
        for name, label in self._classes.items():
            turns[name] = seen[label]
            seen[label] += 1
        return sorted(turns, key=turns.__getitem__)

    def calibration_items(self) -> list[str]:
        return [f"calibration {item.name}" for item in self._calibration.items]

    def metrics(self, asked: Sequence[str]) -> tuple[str, ...]:
        unknown = [name for name in asked if name not in _labels.FIGURES]
        if unknown:
            raise UsageError(f"{unknown[0]!r} is no metric of labels; known: {', '.join(_labels.FIGURES)}")
        return tuple(asked) or tuple(_labels.FIGURES)

    def answers(self, bundle: Bundle, items: Sequence[str], seed: int, store: Store, tell: Progress) -> Clips:
        asked = hashlib.sha256("\0".join(items).encode()).hexdigest()
        key = f"answers {bundle.digest} {self._evaluation.digest} {seed} {asked}"
        rows = store.json(key, lambda: self._answers(bundle, items, seed, tell).tolist())
        keys, groups = (f"{key} {item}" for item in items), (self._groups[item] for item in items)
        return Clips(tuple(items), tuple(np.array(row) for row in rows), tuple(keys), tuple(groups))

    def _answers(self, bundle: Bundle, items: Sequence[str], seed: int, tell: Progress) -> Array:
        rng = np.random.default_rng(seed)
        found = []
        with opened(bundle) as model:
            for first in range(0, len(items), BATCH):
                heard = [self._heard[item] for item in items[first : first + BATCH]]
                found.append(model.answer([_later(clip, rng) for clip in heard] if seed else heard))
                tell(f"listening ({bundle.name}) {first}/{len(items)}", first / len(items))
        return np.concatenate(found)

    def scores(
        self,
        answers: Clips,
        metrics: Sequence[str],
        reference: Clips,
        store: Store,  # noqa: ARG002
        tell: Progress,  # noqa: ARG002
    ) -> Scores:
        classes = np.array([self._classes[item] for item in answers.texts])
        found = _labels.by_clip(np.stack(answers.audio), classes, np.stack(reference.audio[: len(classes)]))
        return {name: found[name] for name in metrics}

    def damaged(self, answers: Clips, name: str, count: int) -> Clips:
        scores = np.stack(answers.audio[:count])
        named = scores.argmax(axis=1)
        wrong = (named + 1) % scores.shape[1]
        if name == DAMAGES[0]:
            named = np.where(np.arange(count) % 10 == 0, wrong, named)
        elif name == DAMAGES[1]:
            a, b = np.argsort(-np.bincount(named, minlength=scores.shape[1]), kind="stable")[:2]
            named = np.where(named == a, b, np.where(named == b, a, named))
        else:
            named = np.zeros_like(named)
        made = np.eye(scores.shape[1])[named]
        few = answers.head(count)
        return replace(few, audio=tuple(made), keys=tuple(f"{name} {key}" for key in few.keys))

    def measure(
        self,
        arms: Mapping[str, Bundle],
        *,
        threads: int,
        rounds: int,
        first_seed: int = 0,
        progress: Progress = lambda message, share: None,
    ) -> Timings:
        """Clip to scores, features included; the order of arms shuffled in each round."""
        result = Timings(threads, {name: len(batch) for name, batch in self._batches.items()})
        order, shuffle = list(arms), np.random.default_rng(first_seed)
        with ExitStack() as stack:
            models = {}
            for arm, bundle in arms.items():
                begun = time.perf_counter()
                models[arm] = stack.enter_context(opened(bundle, threads))
                result.load[arm] = [time.perf_counter() - begun]
                result.whole[arm] = {name: [] for name in self._batches}
                result.audio[arm] = {name: sum(c.seconds for c in batch) for name, batch in self._batches.items()}
            for k in range(rounds + 1):  # the first round warms up
                for name, batch in self._batches.items():
                    shuffle.shuffle(order)
                    for arm in order:
                        begun = time.perf_counter()
                        models[arm].answer(batch)
                        if k:
                            result.whole[arm][name].append(time.perf_counter() - begun)
                progress(f"timing round {k}/{rounds}", k / rounds)
        result.first.update(result.whole)  # the first of the answer is all of it
        return result

    def memory(self, bundle: Bundle, threads: int) -> float:
        return peak_memory(bundle, "", threads)[1]

    def record(self, bundle: Bundle, items: Sequence[str]) -> dict[str, list[dict[str, Array]]]:  # noqa: ARG002
        recorders: dict[str, calibration.Recorder] = {}

        def wrap(stage: Stage, session: Session) -> Session:
            recorders[stage.name] = calibration.Recorder(stage, session)
            return recorders[stage.name]

        with opened(bundle, wrap=wrap) as model:
            for clip in self._calibration.clips(self._rate):
                model.answer([clip])
        return {name: recorder.rows for name, recorder in recorders.items()}

    def training(self, bundle: Bundle) -> Callable[[], tuple[Array, Array]] | None:
        if self._training is None:
            return None
        return lambda: fed(bundle, self._training)

    def details(self, answers: Mapping[str, Clips]) -> dict[str, Any]:
        found = {}
        for name, made in answers.items():
            classes = np.array([self._classes[item] for item in made.texts])
            found[f"labels, {name}"] = _labels.by_label(np.stack(made.audio).argmax(axis=1), classes, self._labels)
        return found


def fed(bundle: Bundle, data: Dataset | None) -> tuple[Array, Array]:
    """(the inputs of the model's stage for every clip, the place of its label). Raises UsageError for clips of
    different length where the adapter does not make them equal."""
    assert data is not None
    with opened(bundle, 1) as model:
        runs = model.feed(data.clips(bundle.sample_rate))
        if len(runs) != 1:
            raise UsageError(
                'the clips have different lengths; say "seconds" in the adapter, so that they are made equal'
            )
        return next(iter(runs[0][1].values())), data.classes(model.labels)


def _later(clip: Audio, rng: np.random.Generator) -> Audio:
    """The same clip, begun up to `SHIFT` seconds later: a change that should not matter."""
    shift = int(rng.integers(1, max(2, round(SHIFT * clip.rate))))
    return Audio(np.concatenate([np.zeros(shift, np.float32), clip.samples[:-shift]]), clip.rate)


def memory_once(bundle: Bundle, threads: int) -> tuple[float, float]:
    """(MB after loading, MB at most) of this process, which listens to one batch of noise."""
    rng = np.random.default_rng(0)
    with opened(bundle, threads) as model:
        loaded = machine.resident("VmRSS")
        noise = (rng.standard_normal(bundle.sample_rate) / 10).astype(np.float32)
        model.answer([Audio(noise, bundle.sample_rate)] * BATCH)
        return loaded, machine.resident("VmHWM")
