from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vivace.core.bundle import Bundle
from vivace.core.errors import BundleError, VivaceError
from vivace.engine.pool import Pool
from vivace.workflows.clips import Store, scored, spoken

TEXTS = ["one two three.", "four five.", "six seven eight nine."]


def test_clips_do_not_depend_on_their_neighbours(toy: Bundle) -> None:
    together = spoken(toy, TEXTS, seed=2)
    alone = [spoken(toy, TEXTS[: k + 1], seed=2).audio[k] for k in range(len(TEXTS))]
    for a, b in zip(together.audio, alone, strict=True):
        assert np.array_equal(a.samples, b.samples)


def test_another_seed_is_another_take(toy: Bundle) -> None:
    first, second = spoken(toy, TEXTS, seed=0), spoken(toy, TEXTS, seed=1)
    assert any(
        len(a.samples) != len(b.samples) or not np.array_equal(a.samples, b.samples)
        for a, b in zip(first.audio, second.audio, strict=True)
    )


def test_the_store_gives_back_the_same_samples(toy: Bundle, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = spoken(toy, TEXTS, store=store)
    again = spoken(toy, TEXTS, store=store)
    for a, b in zip(first.audio, again.audio, strict=True):
        assert np.array_equal(a.samples, b.samples)
        assert a.rate == b.rate


def test_only_what_is_missing_or_unreadable_is_spoken(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first = spoken(toy, TEXTS[:2], store=store)
    damaged = min(tmp_path.iterdir())
    damaged.write_bytes(b"no clip")
    asked: list[str] = []
    original = Pool.submit
    monkeypatch.setattr(Pool, "submit", lambda self, request: asked.append(request.text) or original(self, request))
    told: list[float] = []
    again = spoken(toy, TEXTS, store=store, progress=lambda message, share: told.append(share))
    assert len(asked) == 2
    assert TEXTS[2] in asked
    assert told[-1] == 1.0
    for a, b in zip(first.audio, again.audio, strict=False):
        assert np.array_equal(a.samples, b.samples)


def test_metrics_that_compare_are_left_out_without_a_reference(toy: Bundle) -> None:
    clips = spoken(toy, TEXTS)
    assert set(scored(clips, ["clipping", "duration_ratio"])) == {"clipping"}
    both = scored(clips, ["clipping", "duration_ratio"], reference=clips)
    assert both["duration_ratio"] == [1.0, 1.0, 1.0]


def test_a_text_that_cannot_be_spoken_is_named(toy: Bundle) -> None:
    with pytest.raises(VivaceError, match="~~~"):
        spoken(toy, ["fine.", "~~~"])


def test_a_clip_that_cannot_be_judged_is_named(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivace.metrics import clipping

    def refuse(*_: object) -> float:
        raise ValueError("no sound")

    monkeypatch.setattr(clipping, "score", refuse)
    with pytest.raises(BundleError, match=r"clipping cannot judge .*no sound"):
        scored(spoken(toy, TEXTS), ["clipping"])
