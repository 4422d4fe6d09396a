"""The gate must be able to say no, and must not say no to what is equal."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.core.errors import UsageError
from vivace.workflows import gate
from vivace.workflows.benchmark import Timings
from vivace.workflows.clips import Clips

TEXTS = [f"sentence number {k} of the set" for k in range(40)]
SETTINGS = gate.Settings()


def rule(metric: str) -> dict[str, gate.Rule]:
    return gate.rules(SETTINGS, [metric])


def scores(metric: str, mean: float, spread: float, seed: int = 0) -> dict[str, list[float]]:
    return {metric: list(np.random.default_rng(seed).normal(mean, spread, len(TEXTS)))}


def timings(parent: list[float], child: list[float]) -> Timings:
    texts = {"short": 10, "long": 200}
    return Timings(1, texts, {"parent": dict.fromkeys(texts, parent), "child": dict.fromkeys(texts, child)})


def test_equal_scores_pass() -> None:
    before = scores("predicted_mos", 4.2, 0.3)
    rows, reasons = gate.compare(before, before, TEXTS, rule("predicted_mos"))
    assert reasons == []
    assert rows[0]["ok"] is True
    assert rows[0]["margin"] == pytest.approx(0.05 * np.mean(before["predicted_mos"]))


def test_a_loss_beyond_the_margin_is_refused_with_the_figures() -> None:
    before = scores("predicted_mos", 4.2, 0.3)
    after = {"predicted_mos": [v - 0.5 for v in before["predicted_mos"]]}
    rows, reasons = gate.compare(before, after, TEXTS, rule("predicted_mos"))
    assert rows[0]["ok"] is False
    assert "predicted_mos" in reasons[0]
    assert "-0.500" in reasons[0]


def test_a_loss_that_could_be_beyond_the_margin_is_refused_too() -> None:
    """The mean loss is inside the margin, its interval is not: not proven, so refused."""
    before = scores("predicted_mos", 4.2, 0.3)
    wobble = np.random.default_rng(1).normal(-0.1, 0.9, len(TEXTS))
    after = {"predicted_mos": list(np.array(before["predicted_mos"]) + wobble - wobble.mean() - 0.1)}
    rows, _ = gate.compare(before, after, TEXTS, rule("predicted_mos"))
    assert rows[0]["difference"]["value"] > -rows[0]["margin"]
    assert rows[0]["ok"] is False


def test_word_errors_are_weighted_by_words() -> None:
    texts = ["one", "two three four five six seven eight nine ten"]
    before = {"wer": [0.0, 0.0]}
    after = {"wer": [1.0, 0.0]}  # one word of ten is wrong
    rows, _ = gate.compare(before, after, texts, rule("wer"))
    assert rows[0]["child"]["value"] == pytest.approx(0.1)


@pytest.mark.parametrize("change", [0.0, 0.015, -0.015, 0.03, -0.03])
def test_duration_may_move_neither_way(change: float) -> None:
    kept = abs(change) < 0.02
    before = {"duration_ratio": [1.0] * len(TEXTS)}
    after = {"duration_ratio": [1.0 + change] * len(TEXTS)}
    assert (gate.compare(before, after, TEXTS, rule("duration_ratio"))[1] == []) is kept


def test_an_artifact_in_few_clips_is_seen_where_the_mean_hides_it() -> None:
    one = {"m": gate.Rule(0.1, "clips", "", share=0.02)}
    before = {"wer": [0.0] * len(TEXTS)}
    after = {"wer": [1.0] + [0.0] * (len(TEXTS) - 1)}
    assert gate.compare(before, after, TEXTS, {"wer": one["m"]})[1] != []
    assert gate.compare(before, before, TEXTS, {"wer": one["m"]})[1] == []


def test_metrics_without_a_rule_are_reported_only() -> None:
    before = scores("predicted_mos", 4.2, 0.3)
    after = {"predicted_mos": [1.0] * len(TEXTS)}
    rows, reasons = gate.compare(before, after, TEXTS, {})
    assert rows[0]["ok"] is None
    assert reasons == []


def test_faster_needs_an_interval_above_one() -> None:
    steady = [1.0 + 0.01 * k for k in range(9)]
    assert gate.faster(timings(steady, [s / 2 for s in steady]), "parent", "child")[1] == []
    assert "not faster" in gate.faster(timings(steady, steady), "parent", "child")[1][0]
    assert "not faster" in gate.faster(timings(steady, [s * 3 for s in steady]), "parent", "child")[1][0]


def test_faster_on_the_whole_but_slower_on_one_text_is_refused() -> None:
    steady = [1.0 + 0.01 * k for k in range(9)]
    mixed = Timings(
        1,
        {"short": 10, "long": 200},
        {
            "parent": {"short": steady, "long": steady},
            "child": {"short": [s * 1.3 for s in steady], "long": [s / 3 for s in steady]},
        },
    )
    rows, reasons = gate.faster(mixed, "parent", "child")
    assert rows[-1]["ok"] is True
    assert any("slower on short text" in reason for reason in reasons)


def test_size_allows_a_little_slowness_only() -> None:
    steady = [1.0 + 0.001 * k for k in range(9)]
    assert gate.not_slower(timings(steady, [s * 1.01 for s in steady]), "parent", "child", 0.03)[1] == []
    [reason] = gate.not_slower(timings(steady, [s * 1.1 for s in steady]), "parent", "child", 0.03)[1]
    assert reason.startswith("slower: 0.91x")  # certain: more rounds would not help
    noisy = [s * (0.8 if k % 2 else 1.3) for k, s in enumerate(steady)]
    [reason] = gate.not_slower(timings(steady, noisy), "parent", "child", 0.03)[1]
    assert "more rounds narrow the interval" in reason


@pytest.mark.parametrize("name", list(gate.DAMAGES))
def test_damage_changes_every_clip_and_is_the_same_each_time(name: str) -> None:
    tone = np.sin(np.arange(22050) * 0.05).astype(np.float32) * 0.3
    clips = Clips(("a", "b"), (Audio(tone, 22050), Audio(tone, 22050)), ("ka", "kb"))
    first, second = gate.damaged(clips, name, 2), gate.damaged(clips, name, 2)
    for before, after, again in zip(clips.audio, first.audio, second.audio, strict=True):
        assert len(after.samples) != len(before.samples) or not np.array_equal(after.samples, before.samples)
        assert np.array_equal(after.samples, again.samples)
    assert set(first.keys).isdisjoint(clips.keys)


WRONG = [
    {"texts": 1}, {"rounds": 2}, {"mos_margin": 1.0}, {"duration_margin": -0.1}, {"mos_margin": 0.0},
    {"accuracy_points": 0.0}, {"wer_points": -1.0}, {"max_mb": -1.0}, {"min_speedup": -1.0},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_that_prove_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        gate.Settings(**wrong)
