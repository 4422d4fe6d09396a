"""The real inputs of a stage, taken down while a bundle speaks the calibration texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors
from vivace.engine.engine import Engine, speak


class Recorder:
    """A session that notes what it is given."""

    def __init__(self, stage: Stage, session: Session) -> None:
        self._stage = stage
        self._session = session
        self.rows: list[dict[str, Array]] = []

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.rows.append({name: np.array(inputs[name]) for name in self._stage.inputs})
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()


def record(
    bundle: Bundle, texts: Sequence[str], *, progress: Progress = lambda message, share: None
) -> dict[str, list[dict[str, Array]]]:
    """Every stage's inputs by stage name, one mapping for each run."""
    recorders: dict[str, Recorder] = {}

    def wrap(stage: Stage, session: Session) -> Session:
        recorders[stage.name] = Recorder(stage, session)
        return recorders[stage.name]

    with Engine(bundle, RuntimeOptions(), wrap=wrap) as engine:
        for k, text in enumerate(texts):
            speak(engine, Request(f"calibration-{k}", text, seed=1_000_003 + k))
            progress(f"calibrating {k + 1}/{len(texts)}", (k + 1) / len(texts))
    return {name: recorder.rows for name, recorder in recorders.items()}
