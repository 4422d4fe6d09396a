"""A test without sound, and listeners who are programs: what they prefer is known, so the result can be checked."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from vivace.listening.design import Design
from vivace.listening.store import Answer, Recording, Store, System, create

Says = Callable[[Answer], int]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, design: Design, texts: int = 20, systems: int = 2) -> tuple[Store, Clock]:
    clock = Clock()
    recordings = [Recording(s, t, False, 2.0, b"%d-%d" % (s, t)) for s in range(systems) for t in range(texts)]
    recordings += [Recording(0, t, True, 2.0, b"bad-%d" % t) for t in range(texts)]
    names = [System(name, f"digest of {name}") for name in ("old", "new", "third")[:systems]]
    store = create(folder / "test.sqlite", design, names, [f"text {t}" for t in range(texts)], recordings, clock=clock)
    return store, clock


def listen(store: Store, clock: Clock, says: Says, *, name: str = "", pause: float = 4.0, trials: int = 10**6) -> int:
    """One listener from the first trial on; `pause`: seconds from hearing to answering. In one transaction: a panel
    would wait for the disk some ten thousand times."""
    who = store.invite(name)
    done = [(trial.position, says(trial)) for trial in store.answers(who)[:trials]]
    with store._open() as db:
        db.execute("update trials set heard = ? where listener = ?", (clock.now, who))
        rows = [(who, position, answer, clock.now + pause) for position, answer in done]
        db.executemany("insert into answers values (?, ?, ?, ?, 1)", rows)
    return who


def rater(seed: int, better: float, text_quality: list[float]) -> Says:
    """Gives `better` points more to the second system on average; a habit, a taste for each text, and noise of its own;
    notices damage."""
    draw = random.Random(seed)
    habit, taste = draw.gauss(0, 0.3), draw.gauss(0, 0.2)

    def says(trial: Answer) -> int:
        if trial.expected:
            return draw.choice([1, 1, 2])
        value = 3.4 + habit + text_quality[trial.first.text] + draw.gauss(0, 0.6)
        return min(5, max(1, round(value + trial.first.system * (better + taste))))

    return says


def chooser(seed: int, share: float) -> Says:
    """Prefers the second system with this probability, says "neither" in a tenth of the trials; notices damage."""
    draw = random.Random(seed)

    def says(trial: Answer) -> int:
        if trial.expected:
            return -1 if trial.expected == "first" else 1
        if draw.random() < 0.1:
            return 0
        wanted = 1 if draw.random() < share else 0
        return -1 if trial.first.system == wanted else 1

    return says


def clicker(seed: int, answers: tuple[int, ...]) -> Says:
    draw = random.Random(seed)
    return lambda trial: draw.choice(answers)
