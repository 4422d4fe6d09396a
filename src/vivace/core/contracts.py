"""The seams. A module that has these members, put into the right folder, is registered under its file name.

Extension modules import core, the standard library and NumPy at the top; anything heavier inside functions,
so that listing and `--help` stay fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.report import Better
from vivace.core.speech import Request, Row
from vivace.core.stage import Array, RuntimeOptions, Session, Stage

Progress = Callable[[str, float], None]  # what is being done, and how much of it (0 to 1)


class Model(Protocol):
    """An opened voice. `advance` and `render` see only rows, so that one scheduler serves every architecture.

    `most_rows` is how many rows may be in the making at once: what its memory is for.
    A model that keeps something for rows in the making also has `cache_bytes`: how much that is now, in bytes.
    One whose runtimes compile for every size may have `warm()`: it runs all of them once.
    """

    most_rows: int

    def encode(self, request: Request) -> Iterable[Array]:
        """The tokens of each utterance of the text, in order; best made as they are asked for, so that the first is
        spoken before the last is read. Raises TextError, at the first one, if nothing can be spoken."""
        ...

    def advance(self, rows: Sequence[Row]) -> None:
        """Moves every row one step: sets `row.frames` and, when no more will come, `row.done`.
        A one-shot model is one whose first step is its last. Equal to advancing each row alone.
        A model that moves in steps sets `row.held`, and is done at the latest when its frames without the held
        ones exceed `request.max_seconds`. What a row holds is replaced, never altered in place, so that the engine
        can take a failed step back."""
        ...

    def release(self, row: Row) -> None:
        """Gives back what the model holds for a row that ends before it is done. A row it does not know is no error."""
        ...

    def render(self, rows: Sequence[Row]) -> list[Audio]:
        """The audio of the next `row.due` frames of each row (each is `speakable`). Sets `row.rendered`.
        Chunks joined equal the whole."""
        ...


class Classifier(Protocol):
    """An opened model that listens, which a family's `open` gives for a bundle whose task is "labels"."""

    labels: tuple[str, ...]

    def feed(self, clips: Sequence[Audio]) -> list[tuple[list[int], dict[str, Array]]]:
        """(places in `clips`, inputs of the stage) of each run that answering them takes."""
        ...

    def answer(self, clips: Sequence[Audio]) -> Array:
        """float32[clips, labels]: a score for each label. Batched = single."""
        ...


class Family(Protocol):
    """`families/<name>.py`: a model architecture, with all glue between its stages."""

    SUMMARY: str

    def recognise(self, path: Path) -> bool:
        """Whether `path` looks like a model of this family. Cheap; never raises for a strange file."""
        ...

    def import_(self, path: Path, out: Path, *, overwrite: bool = False) -> Bundle:
        """Turns the user's files into a bundle. Raises ModelError with the mend for what cannot be imported."""
        ...

    def export(self, bundle: Bundle, out: Path) -> list[Path]:
        """Writes the files that other tools load unchanged; returns them, the model first."""
        ...

    def open(self, bundle: Bundle, sessions: Mapping[str, Session]) -> Model:
        """A voice from a bundle and one session for each stage, by stage name."""
        ...


class Runtime(Protocol):
    """`runtimes/<name>.py`: something that executes a stage file."""

    SUMMARY: str
    FORMATS: tuple[str, ...]  # file suffixes without the dot

    def precisions(self) -> tuple[str, ...]:
        """What this machine computes natively here ("fp32", "bf16", ...), "fp32" first; empty: not installed."""
        ...

    def open(self, stage: Stage, path: Path, options: RuntimeOptions) -> Session: ...


@dataclass(frozen=True)
class Context:
    """What a pass is handed by the workflow, so that no pass imports the engine.

    `calibration(stage)` gives that stage's real inputs, one mapping for each calibration text.
    `remember(key, compute)`, where given, keeps JSON values between applications to the same texts: a search applies
    one pass many times. `training()`, where the user gave labelled clips to train on, gives the inputs of the model's
    stage and the place of each one's label. `custom` are the user's own classes, "module:Class", that may be imported.
    """

    calibration: Callable[[str], list[dict[str, Array]]]
    progress: Progress = lambda message, share: None
    threads: int = 1
    remember: Callable[[str, Callable[[], Any]], Any] | None = None
    training: Callable[[], tuple[Array, Array]] | None = None
    custom: Sequence[str] = ()


class Pass(Protocol):
    """`passes/<name>.py`: makes a child bundle from a parent. Whether the child is any good is not its business.

    A pass that saves size, not time, says so: OBJECTIVE = "size".
    """

    SUMMARY: str
    NEEDS: frozenset[str]  # subset of {"calibration"}
    Settings: type[Any]  # frozen dataclass of vivace.core.settings.option fields

    def accepts(self, stage: Stage, settings: Any) -> str | None:
        """None if the pass has something to do in this stage, else the reason why not."""
        ...

    def apply(self, bundle: Bundle, out: Path, settings: Any, context: Context) -> Bundle:
        """Writes the child at `out` through `bundle.derive`. Raises UsageError if nothing would change."""
        ...


class TextFrontEnd(Protocol):
    """`text/<name>.py`: how a family of voices reads."""

    SUMMARY: str

    def tokens(self, text: str, voice: Mapping[str, Any]) -> Iterable[list[int]]:
        """The token ids of each sentence, best made as they are asked for. `voice` is the voice's own text settings
        (for Piper its JSON). Raises TextError, at the first one, if nothing in the text can be spoken."""
        ...


class Metric(Protocol):
    """`metrics/<name>.py`: one number for one clip. Intervals and verdicts are the workflow's work.

    A metric that detects an artifact also has TOLERANCE: how much worse than the reference's clip counts as harm.
    """

    SUMMARY: str
    NEEDS: frozenset[str]  # subset of {"text", "reference"}
    UNIT: str
    BETTER: Better

    def score(self, audio: Audio, text: str, reference: Audio | None) -> float:
        """The figure of one clip. Thread-safe. Never NaN: raises ValueError for audio it cannot judge."""
        ...
