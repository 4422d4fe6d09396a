"""The exploration against a world whose figures are known: no voice speaks, and no time passes but the fake clock's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from vivace.core.bundle import Bundle
from vivace.core.errors import MissingDependency, UsageError
from vivace.core.stage import Stage
from vivace.workflows import _explore, search
from vivace.workflows._explore import PLANNED, Explored, Explorer, as_json
from vivace.workflows._probe import Found, placed
from vivace.workflows._space import NATIVE, Choice, Part, Way
from vivace.workflows.recipe import Entry

pytest.importorskip("optuna")
EXACT, FAST = Way(NATIVE, "fp32", there=True), Way("openvino", "bf16")
EARLY, MIDDLE, LATE = (Part("decoder", name, (f"/{name}/*",), 0.3) for name in ("early", "middle", "late"))
MARGIN = 0.10  # of predicted MOS; PLANNED of it may be used


@dataclass
class World:
    """A Prober with figures of its own. Seconds of each stage by way, what bf16 in it costs, and what INT8 in a part
    costs (by method) and saves. `together` is what two parts cost more when both are in INT8."""

    bundle: Bundle
    ways: Mapping[str, Mapping[Way, float]]
    bf16: Mapping[str, float] = field(default_factory=dict)
    int8: Mapping[Part, Mapping[str, float]] = field(default_factory=dict)
    saves: Mapping[Part, float] = field(default_factory=dict)
    together: float = 0.0
    moving: frozenset[Part] = frozenset()
    fixed: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()  # passes that cannot be applied
    step: float = 1.0  # seconds that every measurement takes
    now: float = 0.0
    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def tell(self, message: str, share: float) -> None:
        self.told.append(message)
        assert 0 <= share <= 1

    def decides_length(self, stage: Stage) -> bool:
        return stage.name in self.fixed

    @contextmanager
    def built(self, entries: Sequence[Entry]) -> Iterator[Bundle]:
        for one in entries:
            if one.name in self.broken:
                raise UsageError(f"{one.name} would change nothing")
        places = {s: e.settings for e in entries if e.name == "place" for s in e.settings.stages}
        stages = tuple(
            placed(s, places[s.name].runtime, places[s.name].precision) if s.name in places else s
            for s in self.bundle.stages
        )
        yield replace(self.bundle, stages=stages, defaults={"entries": tuple(entries)})

    def keep(self, entries: Sequence[Entry], bundle: Bundle) -> None:
        pass

    def stage_seconds(self, name: str, variants: Mapping[str, tuple[Bundle, Stage]]) -> dict[str, float]:
        self.now += self.step
        found = {}
        for key, (bundle, stage) in variants.items():
            base = self.ways[name][EXACT if stage.runtime == NATIVE else FAST]
            saved = sum(self.saves[p] for p in self._chosen(bundle.defaults.get("entries", ())) if p.stage == name)
            found[key] = base - (saved if key == "int8" else 0.0)
        return found

    def loss(self, child: Bundle, margin: float) -> tuple[float, float, bool]:
        return self._loss(child.defaults["entries"])

    def found(self, entries: Sequence[Entry], margin: float) -> Found:
        self.now += self.step
        for one in entries:
            if one.name in self.broken:
                raise UsageError(f"{one.name} would change nothing")
        there = self._placed(entries)
        seconds = sum(self.ways[s][FAST if s in there else EXACT] for s in self.ways)
        seconds -= sum(self.saves[p] for p in self._chosen(entries))
        loss, error, moved = self._loss(entries)
        size = 10.0 * 0.9 ** len(self._chosen(entries)) - 3 * any(e.name.startswith("weights") for e in entries)
        original = sum(next(iter(found.values())) for found in self.ways.values())
        return Found(seconds / original, loss, error, size, moved)

    def _placed(self, entries: Sequence[Entry]) -> set[str]:
        return {s for e in entries if e.name == "place" for s in e.settings.stages}

    def _chosen(self, entries: Sequence[Entry]) -> dict[Part, str]:
        found = {}
        for one in entries:
            if one.name == "int8_static":
                found |= {p: one.settings.method for p in self.int8 if set(p.patterns) <= set(one.settings.include)}
        return found

    def _loss(self, entries: Sequence[Entry]) -> tuple[float, float, bool]:
        chosen = self._chosen(entries)
        loss = sum(self.int8[part][method] for part, method in chosen.items())
        loss += sum(self.bf16.get(stage, 0.0) for stage in self._placed(entries))
        loss += self.together * (len(chosen) > 1)
        return loss, 0.0, bool(self.moving & set(chosen))


def world(toy: Bundle, **more: Any) -> World:
    """Two stages that count. `text` gains nothing elsewhere; the decoder is twice as fast in bf16. INT8 costs little
    in the early part, more in the middle and too much in the late one."""
    known: dict[str, Any] = {
        "ways": {"text": {EXACT: 1.0, FAST: 1.5}, "frames": {EXACT: 0.5}, "decoder": {EXACT: 8.0, FAST: 4.0}},
        "int8": {
            EARLY: {"minmax": 0.001, "percentile": 0.001},
            MIDDLE: {"minmax": 0.03, "percentile": 0.02},
            LATE: {"minmax": 0.5, "percentile": 0.4},
        },
        "saves": {EARLY: 1.0, MIDDLE: 0.5, LATE: 0.9},
    }
    return World(toy, **(known | more))


@pytest.fixture(autouse=True)
def space(monkeypatch: pytest.MonkeyPatch, toy: Bundle) -> None:
    """The ways and parts of the worlds above."""

    def ways(stage: Stage, objective: str, *, fixed: bool = False) -> list[Way]:
        return [EXACT] if fixed or objective == "size" or stage.name == "frames" else [EXACT, FAST]

    def parts(bundle: Bundle, stage: Stage, most: int) -> list[Part]:
        return [EARLY, MIDDLE, LATE] if stage.name == "decoder" else []

    monkeypatch.setattr(_explore, "ways", ways)
    monkeypatch.setattr(_explore, "parts", parts)


def explored(made: World, objective: str = "latency", minutes: float = 100.0, margin: float = MARGIN) -> Explored:
    return Explorer(made.bundle, made, objective, margin, minutes, made.tell, made.clock).run()  # type: ignore[arg-type]


def best(found: Explored, objective: str = "latency") -> Choice:
    return found.ranked(objective)[0][0]


# --- single measurements ---


def test_ways_that_are_far_slower_leave_the_search(toy: Bundle) -> None:
    found = explored(world(toy))
    assert list(found.seconds["decoder"]) == [EXACT, FAST]  # its own stays, however slow
    assert list(found.seconds["text"]) == [EXACT]
    assert found.exact == Choice(dict.fromkeys(("text", "frames", "decoder"), EXACT))


def test_a_part_is_tried_with_a_milder_method_only_where_that_can_help(toy: Bundle) -> None:
    tried = [(c.part.name, c.method) for c in explored(world(toy)).costs]
    assert tried == [("early", "minmax"), ("middle", "minmax"), ("middle", "percentile"), ("late", "minmax")]


def test_what_int8_saves_is_known_for_the_native_and_the_fastest_way(toy: Bundle) -> None:
    cost = explored(world(toy)).costs[0]
    assert cost.won == {str(EXACT): pytest.approx(1.0), str(FAST): pytest.approx(1.0)}
    assert cost.loss == pytest.approx(0.001)


def test_a_part_that_moves_the_sentences_is_left_in_float(toy: Bundle) -> None:
    found = explored(world(toy, moving=frozenset({MIDDLE})))
    assert "middle" not in [c.part.name for c in found.costs]
    assert all(MIDDLE not in choice.int8 for choice, _ in found.tried)


def test_a_stage_that_decides_the_length_keeps_its_runtime(toy: Bundle) -> None:
    fixed = world(toy, fixed=frozenset({"decoder"}))
    found = explored(fixed)
    assert best(found).ways["decoder"] == EXACT
    assert {c.part for c in found.costs} == {EARLY, MIDDLE, LATE}  # they are measured, and move nothing
    assert explored(fixed, "size").costs == []  # it may elsewhere


def test_a_part_with_hardly_any_work_is_not_measured(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_explore, "SMALL", EARLY.share + 0.01)
    assert explored(world(toy)).costs == []


def test_exact_passes_that_find_nothing_are_left_out(toy: Bundle) -> None:
    assert [e.name for e in explored(world(toy)).before] == list(_explore.EXACT)
    broken = frozenset({"graph_cleanup"})
    assert [e.name for e in explored(world(toy, broken=broken)).before] == list(_explore.EXACT[1:])
    found = explored(world(toy, broken=frozenset(_explore.EXACT)))
    assert found.before == ()
    assert found.tried


# --- compositions ---


def test_the_predicted_compositions_come_first_the_exact_one_before_all(toy: Bundle) -> None:
    costs = {EARLY: {"minmax": 0.001}, MIDDLE: {"minmax": 0.04, "percentile": 0.035}, LATE: {"minmax": 0.5}}
    found = explored(world(toy, int8=costs))
    choices = [choice for choice, _ in found.tried]
    assert choices[0] == found.exact
    assert dict(choices[1].ways) == {"text": EXACT, "frames": EXACT, "decoder": FAST}
    assert choices[1].int8 == {}
    assert choices[2].int8 == {EARLY: "minmax"}
    # First what costs least for what it brings; of the methods the cheaper.
    assert choices[3].int8 == {EARLY: "minmax", MIDDLE: "percentile"}


def test_the_best_uses_all_that_pays_and_fits(toy: Bundle) -> None:
    found = explored(world(toy))
    assert dict(best(found).ways) == {"text": EXACT, "frames": EXACT, "decoder": FAST}
    assert set(best(found).int8) == {EARLY, MIDDLE}


def test_what_lies_beside_the_best_is_tried_at_once(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Part("decoder", f"part {k}", (f"/{k}/*",), 0.1) for k in range(8)]
    monkeypatch.setattr(_explore, "parts", lambda bundle, stage, most: many if stage.name == "decoder" else [])
    costs = {part: {"minmax": 0.0079, "percentile": 0.0079} for part in many}  # all eight fit, seven are predicted
    made = world(toy, int8=costs, saves=dict.fromkeys(many, 0.25))
    tried = [choice.int8.keys() for choice, _ in explored(made, minutes=1.0).tried]
    assert max(map(len, tried[:6])) == 7
    predicted = next(k for k, parts in enumerate(tried) if len(parts) == 7)
    assert set(many) in [set(parts) for parts in tried[predicted : predicted + 8]]
    assert len({frozenset(parts) for parts in tried}) > 8


@pytest.mark.parametrize(("margin", "parts"), [(0.1, {EARLY, MIDDLE}), (0.02, {EARLY}), (0.0005, set())])
def test_a_tighter_margin_leaves_more_in_float(toy: Bundle, margin: float, parts: set[Part]) -> None:
    found = explored(world(toy), margin=margin)
    assert set(best(found).int8) == parts
    for choice, figures in found.ranked("latency"):
        assert figures.loss <= PLANNED * margin
        assert LATE not in choice.int8


def test_parts_that_harm_each_other_are_not_combined(toy: Bundle) -> None:
    """Each alone fits; together they do not, which only the measured composition tells."""
    found = explored(world(toy, together=0.2))
    assert any({EARLY, MIDDLE} <= set(choice.int8) for choice, _ in found.tried)
    assert set(best(found).int8) == {EARLY}


def test_bf16_that_harms_is_refused(toy: Bundle) -> None:
    found = explored(world(toy, bf16={"decoder": 0.3}))
    assert best(found).ways["decoder"] == EXACT
    assert set(best(found).int8) == {EARLY, MIDDLE}


def test_a_combination_that_cannot_be_built_is_none(toy: Bundle) -> None:
    found = explored(world(toy, broken=frozenset({"place"})))
    assert best(found).ways["decoder"] == EXACT
    assert all(choice.ways["decoder"] == EXACT for choice, _ in found.tried)


def test_for_size_storage_is_chosen_too(toy: Bundle) -> None:
    found = explored(world(toy), "size")
    assert best(found, "size").storage.startswith("weights_")
    assert set(best(found, "size").int8) == {EARLY, MIDDLE}
    assert all(way == EXACT for choice, _ in found.tried for way in choice.ways.values())
    assert {choice.storage for choice, _ in found.tried} == set(_explore.STORAGE)


# --- how long ---


def test_the_search_ends_where_the_space_is_exhausted(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_explore, "parts", lambda bundle, stage, most: [])
    made = world(toy, ways={s.name: {EXACT: 1.0, FAST: 2.0} for s in toy.stages}, int8={}, saves={})
    made.ways["decoder"][FAST] = 0.9  # type: ignore[index]
    found = explored(made, minutes=1e6)
    words = [choice.words() for choice, _ in found.tried]
    assert len(words) == len(set(words)) <= 2
    assert made.now < 1000


@pytest.mark.parametrize("minutes", [0.5, 1.0, 5.0])
def test_the_budget_is_kept(toy: Bundle, minutes: float) -> None:
    """Every measurement takes 10 seconds; none begins after the time is up, but one is always made."""
    made = world(toy, step=10.0, together=0.001)
    found = explored(made, minutes=minutes)
    assert found.tried
    stages = 10.0 * len(made.ways)
    assert made.now <= max(60 * minutes, stages + 40.0) + 10.0


def test_parts_get_about_half_of_the_time(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Part("decoder", f"p{k}", (f"/p{k}/*",), 0.02) for k in range(50)]
    monkeypatch.setattr(_explore, "parts", lambda b, stage, most: many if stage.name == "decoder" else [])
    made = world(
        toy, step=10.0, int8={p: {"minmax": 0.001, "percentile": 0.0} for p in many}, saves=dict.fromkeys(many, 0.01)
    )
    found = explored(made, minutes=10.0)
    assert 10 < len(found.costs) < 50
    assert len(found.tried) > 10


@pytest.mark.parametrize(("minutes", "most"), [(1.0, _explore.FEW), (10.0, _explore.MANY)])
def test_a_short_search_looks_at_fewer_parts(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch, minutes: float, most: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(_explore, "parts", lambda bundle, stage, most: asked.append(most) or [])
    explored(world(toy), minutes=minutes)
    assert set(asked) == {most}


def test_the_same_figures_lead_to_the_same_trials(toy: Bundle) -> None:
    """What resuming rests on: from what was measured before, a second exploration walks the same way."""
    first, second = explored(world(toy)), explored(world(toy))
    assert [c.words() for c, _ in first.tried] == [c.words() for c, _ in second.tried]
    assert len(first.tried) > 5
    # One that is cut short has begun in the same way.
    short = explored(world(toy, step=10.0), minutes=2.5)
    assert 1 < len(short.tried) < len(first.tried)
    assert [c.words() for c, _ in short.tried] == [c.words() for c, _ in first.tried][: len(short.tried)]


def test_nothing_is_measured_twice(toy: Bundle) -> None:
    words = [choice.words() for choice, _ in explored(world(toy)).tried]
    assert len(words) == len(set(words))


def test_without_optuna_the_mend_is_named_before_anything_is_measured(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    made = world(toy)
    with pytest.raises(MissingDependency, match=r"pip install 'vivace\[search\]'"):
        explored(made)
    assert made.now == 0


# --- ranking ---


def ranked(*figures: Found, objective: str = "latency", margin: float = MARGIN) -> list[Found]:
    tried = [(Choice({"decoder": Way(NATIVE, str(k))}), one) for k, one in enumerate(figures)]
    return [one for _, one in Explored((), tried[0][0], margin, tried=tried).ranked(objective)]


def test_the_faster_comes_first() -> None:
    slow, fast = Found(0.9, 0.0, 0.0, 9.0, False), Found(0.5, 0.05, 0.0, 9.0, False)
    assert ranked(slow, fast) == [fast, slow]


def test_of_two_that_are_equally_fast_the_one_that_loses_less_comes_first() -> None:
    careless, careful = Found(0.500, 0.05, 0.0, 9.0, False), Found(0.505, 0.01, 0.0, 9.0, False)
    assert ranked(careless, careful) == [careful, careless]
    slower = replace(careful, time=0.56)
    assert ranked(careless, slower) == [careless, slower]


def test_for_size_the_smaller_comes_first_then_the_faster() -> None:
    small, big, quick = (
        Found(0.9, 0.01, 0.0, 5.1, False),
        Found(0.4, 0.0, 0.0, 9.0, False),
        Found(0.5, 0.02, 0.0, 5.0, False),
    )
    assert ranked(small, big, quick, objective="size") == [quick, small, big]


def test_sizes_that_are_nearly_the_same_are_told_apart_by_time() -> None:
    """16.4 and 16.6 MB round to different numbers, and that was once all that counted."""
    slow, fast, big = (Found(t, 0.01, 0.0, mb, False) for t, mb in ((0.7, 16.4), (0.6, 16.6), (0.5, 18.0)))
    assert ranked(slow, fast, big, objective="size") == [fast, slow, big]


def test_what_moves_or_loses_too_much_or_too_uncertainly_is_left_out() -> None:
    good = Found(0.9, 0.0, 0.0, 9.0, False)
    moved = Found(0.1, 0.0, 0.0, 9.0, True)
    lossy = Found(0.1, PLANNED * MARGIN + 0.001, 0.0, 9.0, False)
    unsure = Found(0.1, PLANNED * MARGIN - 0.001, 0.01, 9.0, False)
    assert ranked(good, moved, lossy, unsure) == [good]
    assert ranked(moved) == []


def judged(*figures: Found) -> list[str]:
    """What goes to the gate, by number in place of a layout."""
    tried = [(Choice({"decoder": Way("openvino", "bf16", str(k))}), one) for k, one in enumerate(figures)]
    exact = Choice({"decoder": Way("openvino", "bf16", "exact")})
    explored = Explored((), exact, MARGIN, tried=tried)
    return [choice.ways["decoder"].layout for choice in search._candidates(explored, "latency")]


def test_behind_the_best_come_those_that_lose_less_by_a_quarter_and_by_half_then_the_exact_one() -> None:
    losses = {0.50: 0.04, 0.60: 0.035, 0.70: 0.03, 0.80: 0.025, 0.90: 0.02, 0.95: 0.0}
    figures = [Found(time, loss, 0.0, 9.0, False) for time, loss in losses.items()]
    assert judged(*figures) == ["0", "2", "4", "exact"]
    assert judged(*reversed(figures)) == ["5", "3", "1", "exact"]


def test_nothing_is_judged_twice() -> None:
    assert judged(Found(0.5, 0.04, 0.0, 9.0, False), Found(0.6, 0.01, 0.0, 9.0, False)) == ["0", "1", "exact"]
    assert judged(Found(0.5, -0.01, 0.0, 9.0, False), Found(0.6, 0.0, 0.0, 9.0, False)) == ["0", "1", "exact"]
    assert judged() == ["exact"]


# --- the report ---


def test_everything_that_was_tried_is_told(toy: Bundle) -> None:
    found = explored(world(toy))
    chosen = best(found)
    told = as_json(found, "latency", chosen)
    assert (told["objective"], told["margin"]) == ("latency", MARGIN)
    assert {"stage": "decoder", "way": "openvino bf16", "ms": 4000.0} in told["stages"]
    assert [p["part"] for p in told["parts"]] == ["early", "middle", "middle", "late"]
    assert told["parts"][0]["ms_won"] == {str(EXACT): pytest.approx(1000.0), str(FAST): pytest.approx(1000.0)}
    assert len(told["trials"]) == len(found.tried)
    assert [t["what"] for t in told["trials"] if t["chosen"]] == [chosen.words()]
    assert not any(t["chosen"] for t in as_json(found, "latency", None)["trials"])


def test_the_front_holds_what_nothing_else_beats(toy: Bundle) -> None:
    found = explored(world(toy))
    trials = as_json(found, "latency", None)["trials"]
    figures = [(t["time"], t["loss"], t["mb"]) for t in trials]
    for trial, own in zip(trials, figures, strict=True):
        beaten = any(o != own and all(a <= b for a, b in zip(o, own, strict=True)) for o in figures)
        assert trial["front"] is not beaten
    assert 1 <= sum(t["front"] for t in trials) < len(trials)
