"""Tries candidates within a time budget: stages in every way, parts in INT8 one by one, then compositions of them.

What the single measurements predict is only where the search begins: parts interact, so every composition is built and
measured. Once the predicted ones are done, Optuna's multi-objective TPE (Ozaki et al. 2022) and the neighbours of the
best so far take turns: the one looks everywhere, the other leaves nothing beside the best untried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import MissingDependency, VivaceError
from vivace.core.stage import Stage
from vivace.workflows._probe import Found, Prober, placed
from vivace.workflows._space import LAYOUTS, METHODS, NATIVE, Choice, Part, Way, entry, parts, ways
from vivace.workflows.recipe import Entry

EXACT = ("graph_cleanup", "relative_attention")  # passes that every candidate begins with
PLANNED = 0.7  # share of the margin that a candidate may use: a few sentences tell less than the verdict's many
FREE, HOPELESS = 0.1, 3.0  # shares of the margin between which another INT8 method is tried
NEAR = 1.3  # ways up to this many times slower than the best of a stage stay in the search
PARTS_SHARE, TRIALS_SHARE = 0.55, 1.0  # of the budget, until which parts and compositions are measured
FEW, MANY, SHORT_MINUTES = 4, 8, 4.0  # parts of a stage in a short search, and otherwise
EQUAL, AS_SMALL = 1.03, 1.05  # times and sizes closer than this are not told apart
SMALL = 0.02  # share of its stage's work below which a part is not worth measuring
REPEATS = 12  # proposals in a row that were measured before: the space is exhausted
STORAGE = ("weights_int8", "weights_fp16", "")


@dataclass
class PartCost:
    """What INT8 in one part costs and brings: predicted MOS lost and seconds won, by way of its stage."""

    part: Part
    method: str
    loss: float
    error: float
    won: dict[str, float] = field(default_factory=dict)


@dataclass
class Explored:
    """`tried` in the order of trying; the original is the first, `exact` a choice without any rounding."""

    before: tuple[Entry, ...]
    exact: Choice
    margin: float
    seconds: dict[str, dict[Way, float]] = field(default_factory=dict)
    costs: list[PartCost] = field(default_factory=list)
    tried: list[tuple[Choice, Found]] = field(default_factory=list)

    def ranked(self, objective: str) -> list[tuple[Choice, Found]]:
        """What stays within the planned loss and moves no sentence, best first; among the equally fast the one that
        loses least."""
        fit = [t for t in self.tried if not t[1].moved and t[1].loss + 0.5 * t[1].error <= PLANNED * self.margin]
        fastest, smallest = (min((getattr(f, name) for _, f in fit), default=1.0) for name in ("time", "mb"))

        def key(one: tuple[Choice, Found]) -> tuple[float, float, float]:
            found = one[1]
            slower = math.floor(math.log(found.time / fastest) / math.log(EQUAL))
            larger = math.floor(math.log(found.mb / smallest) / math.log(AS_SMALL))
            return (larger, slower, found.loss) if objective == "size" else (slower, found.loss, found.mb)

        return sorted(fit, key=key)


class Explorer:
    """One exploration; `margin` is the predicted MOS that may be lost. A second one beside the same store proposes the
    same from the same figures: what was measured before passes in no time, and it goes on from there."""

    def __init__(
        self,
        bundle: Bundle,
        prober: Prober,
        objective: str,
        margin: float,
        minutes: float,
        tell: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle, self._prober, self._objective = bundle, prober, objective
        self._minutes, self._tell, self._clock = minutes, tell, clock
        self._begun = clock()
        self._margin = margin
        self._padded = getattr(registry.load("families", bundle.family), "PADDED", ("",))[0]
        self._optuna = _optuna()  # known to be there before anything is measured

    def run(self) -> Explored:
        self._say("looking at the stages")
        self._fixed = {s.name for s in self._bundle.stages if self._prober.decides_length(s)}
        with ExitStack() as stack:
            self._layouts = self._built_layouts(stack)
            seconds = self._stage_ways()
            native = {name: _best(found, NATIVE) for name, found in seconds.items()}
            self.explored = Explored(self._before, Choice(native), self._margin, seconds)
            self._measure_parts(native)
            self._compose()
        return self.explored

    def _built_layouts(self, stack: ExitStack) -> dict[str, Bundle]:
        """The bundle in every layout. Sets the passes that come before all."""
        self._before: tuple[Entry, ...] = ()
        found = {"": self._bundle}
        for name in EXACT:
            try:
                found[""] = stack.enter_context(self._prober.built((*self._before, entry(name, {}, self._kind))))
            except VivaceError:  # there is nothing of the kind in this model
                continue
            self._before = (*self._before, entry(name, {}, self._kind))
        self._prober.keep(self._before, found[""])
        self._cropped = bool(self._padded) and self._can("crop_context")
        for layout, settings in LAYOUTS.items():
            self._say(f"building the {layout} layout")
            try:
                steps = (*self._before, entry("layout_conv2d", settings, self._kind))
                found[layout] = stack.enter_context(self._prober.built(steps))
            except VivaceError:  # no convolution of this model can be written so
                continue
        return found

    def _can(self, name: str) -> bool:
        """Whether a pass finds its work in this model."""
        try:
            with self._prober.built((*self._before, entry(name, {}, self._kind))):
                return True
        except VivaceError:
            return False

    @property
    def _kind(self) -> str:
        return "size" if self._objective == "size" else "speed"

    def _stage_ways(self) -> dict[str, dict[Way, float]]:
        found = {}
        for stage in self._bundle.stages:
            self._say(f"timing the ways of {stage.name}")
            usable = {
                str(way): way
                for way in ways(stage, self._objective, fixed=stage.name in self._fixed)
                if self._differs(stage, way)
            }
            variants = {key: self._variant(stage, way) for key, way in usable.items()}
            seconds = {usable[key]: s for key, s in self._prober.stage_seconds(stage.name, variants).items()}
            near = NEAR * min(seconds.values())
            always = {next(iter(seconds)), _best(seconds, NATIVE)}
            found[stage.name] = {way: s for way, s in seconds.items() if s <= near or way in always}
        return found

    def _differs(self, stage: Stage, way: Way) -> bool:
        """Whether the layout is there and has changed this stage."""
        made = self._layouts.get(way.layout)
        return made is not None and (not way.layout or _sha(made, stage) != _sha(self._layouts[""], stage))

    def _variant(self, stage: Stage, way: Way) -> tuple[Bundle, Stage]:
        made = self._layouts[way.layout]
        return made, placed(made.stage(stage.name), way.runtime, way.precision)

    def _measure_parts(self, native: dict[str, Way]) -> None:
        most = FEW if self._minutes < SHORT_MINUTES else MANY
        # Other tools' runtimes may round INT8 otherwise, and so make another duration of it.
        shut = self._fixed if self._objective == "size" else set()
        found = [p for s in self._bundle.stages if s.name not in shut for p in parts(self._layouts[""], s, most)]
        found = [p for p in found if p.share >= SMALL]
        for part in found:  # in the order of the graph: what comes early is robust more often
            for method in METHODS:
                if self._passed > PARTS_SHARE:
                    return
                self._say(f"INT8 ({method}) in {part.name}")
                cost = self._part_cost(part, method, native)
                if cost is None:
                    break
                self.explored.costs.append(cost)
                if not FREE * self._margin + cost.error < cost.loss < HOPELESS * self._margin:
                    break  # a milder method has nothing to add, or cannot help

    def _part_cost(self, part: Part, method: str, native: dict[str, Way]) -> PartCost | None:
        """None where INT8 cannot be had, or would move the sentences."""
        cost: PartCost | None = None
        stage = self._bundle.stage(part.stage)
        for way in self._contenders(part.stage):
            try:
                with self._prober.built(self._entries(Choice({**native, part.stage: way}, {part: method}))) as child:
                    if cost is None:  # the loss is the arithmetic's, hardly the runtime's: once is enough
                        loss, error, moved = self._prober.loss(child, self._margin)
                        if moved:
                            return None
                        cost = PartCost(part, method, loss, error)
                    pair = {"float": self._variant(stage, way), "int8": (child, child.stage(part.stage))}
                    seconds = self._prober.stage_seconds(part.stage, pair)
                    cost.won[str(way)] = seconds["float"] - seconds["int8"]
            except VivaceError:  # in this layout the part holds nothing that the pass can quantize
                continue
        return cost

    def _contenders(self, stage: str) -> list[Way]:
        """The best way in the native runtime, and the best of all."""
        found = self.explored.seconds[stage]
        return list(dict.fromkeys([_best(found, NATIVE), _best(found)]))

    def _entries(self, choice: Choice) -> tuple[Entry, ...]:
        return choice.entries(self._kind, self._before)

    def predicted(self) -> list[Choice]:
        """Where to begin: the best ways without INT8, then with the parts that bring most for what they cost; likewise
        the ways that are best where INT8 is."""
        e = self.explored
        fastest = {name: _best(timed) for name, timed in e.seconds.items()}
        native = Choice({name: _best(timed, NATIVE) for name, timed in e.seconds.items()})
        with_int8 = {name: min(timed, key=self._full_seconds(native, name)) for name, timed in e.seconds.items()}
        found = []
        for chosen in (fastest, with_int8, native.ways):
            for allowed in (0.0, 0.4, 0.8):
                int8: dict[Part, str] = {}
                left = allowed * PLANNED * self._margin
                useful = [c for c in e.costs if _won(c, chosen[c.part.stage]) > 0]
                for cost in sorted(useful, key=lambda c: max(c.loss, 0.001) / _won(c, chosen[c.part.stage])):
                    if cost.part not in int8 and max(cost.loss, 0.0) <= left:
                        int8[cost.part] = cost.method
                        left -= max(cost.loss, 0.0)
                storage = STORAGE[0] if self._objective == "size" else ""
                found.append(Choice(chosen, int8, storage, self._padded, self._cropped))
        return found

    def _full_seconds(self, choice: Choice, name: str) -> Callable[[Way], float]:
        return lambda way: self._seconds(self._full(choice, name, way))

    def _compose(self) -> None:
        optuna = self._optuna
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=4, multivariate=True)
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * 3)
        for choice in [self.explored.exact, *self.predicted()]:
            study.enqueue_trial(self._parameters(choice), skip_if_exists=True)
        seen: dict[str, Found | None] = {}
        repeats = 0
        while repeats < REPEATS and (self._passed < TRIALS_SHARE or not seen):
            waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
            if not waiting and (len(seen) % 2 or repeats) and (beside := self._beside_best(seen)):
                study.enqueue_trial(self._parameters(beside))
            trial = study.ask()
            choice = self._proposed(trial)
            key = choice.words()
            repeats = repeats + 1 if key in seen else 0
            if key not in seen:
                self._say(f"trial {len(seen) + 1}: {key}")
                seen[key] = self._evaluated(choice)
            found = seen[key]
            if found is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, [found.time, found.loss, found.mb])

    def _beside_best(self, seen: Container[str]) -> Choice | None:
        """Of all that differ from the best so far in one part or one stage (its way, its parts with it), and were not
        tried, the one that should be fastest; None if none should be faster and good enough, or size is what counts."""
        ranked = self.explored.ranked(self._objective)
        if not ranked or self._objective == "size":
            return None
        best, found = ranked[0]
        places = [(name, way) for name, timed in self.explored.seconds.items() for way in timed]
        beside = [replace(best, ways={**best.ways, name: way}) for name, way in places]
        beside += [self._full(best, name, way) for name, way in places]
        beside += [self._with(best, {p: m for p, m in best.int8.items() if p != part}) for part in best.int8]
        for cost in self.explored.costs:
            if cost.method in self._methods(cost.part):
                beside.append(self._with(best, {**best.int8, cost.part: cost.method}))
        allowed = PLANNED * self._margin - found.loss + self._loss(best)
        useful = [(self._seconds(c), c) for c in beside if c.words() not in seen and self._loss(c) <= allowed]
        return min((u for u in useful if u[0] < self._seconds(best)), key=_predicted, default=(0.0, None))[1]

    def _full(self, choice: Choice, name: str, way: Way) -> Choice:
        """The choice with a stage in another way, and INT8 in all of its parts that gain by it there."""
        wanted = {part: method for part, method in choice.int8.items() if part.stage != name}
        for cost in sorted(self.explored.costs, key=_lost, reverse=True):  # of two methods the milder one stays
            if cost.part.stage == name and cost.method in self._methods(cost.part) and _won(cost, way) > 0:
                wanted[cost.part] = cost.method
        return self._with(replace(choice, ways={**choice.ways, name: way}), wanted)

    def _with(self, choice: Choice, int8: Mapping[Part, str]) -> Choice:
        return replace(choice, int8={part: int8[part] for part in self._open_parts() if part in int8})

    def _loss(self, choice: Choice) -> float:
        """What the single measurements predict of INT8 in all parts together."""
        return sum(max(c.loss, 0.0) for c in self.explored.costs if choice.int8.get(c.part) == c.method)

    def _seconds(self, choice: Choice) -> float:
        """What the single measurements predict for all stages together."""
        whole = sum(self.explored.seconds[name][way] for name, way in choice.ways.items())
        costs = [c for c in self.explored.costs if choice.int8.get(c.part) == c.method]
        return whole - sum(_won(c, choice.ways[c.part.stage]) for c in costs)

    def _evaluated(self, choice: Choice) -> Found | None:
        try:
            found = self._prober.found(self._entries(choice), self._margin)
        except VivaceError:  # a combination that cannot be built or run here is none
            return None
        self.explored.tried.append((choice, found))
        return found

    def _methods(self, part: Part) -> list[str]:
        """What the search may choose for a part: methods that alone stay within the planned loss, and float."""
        return ["float"] + [
            c.method for c in self.explored.costs if c.part == part and c.loss <= PLANNED * self._margin and c.won
        ]

    def _open_parts(self) -> list[Part]:
        found = dict.fromkeys(c.part for c in self.explored.costs)
        return [p for p in found if len(self._methods(p)) > 1]

    def _parameters(self, choice: Choice) -> dict[str, Any]:
        found: dict[str, Any] = {f"way {name}": str(way) for name, way in choice.ways.items()}
        found |= {f"int8 {p.stage} {p.name}": choice.int8.get(p, "float") for p in self._open_parts()}
        return found | ({"storage": choice.storage} if self._objective == "size" else {})

    def _proposed(self, trial: Any) -> Choice:
        chosen = {}
        for name, seconds in self.explored.seconds.items():
            named = {str(way): way for way in seconds}
            chosen[name] = named[trial.suggest_categorical(f"way {name}", list(named))]
        int8 = {p: trial.suggest_categorical(f"int8 {p.stage} {p.name}", self._methods(p)) for p in self._open_parts()}
        storage = trial.suggest_categorical("storage", list(STORAGE)) if self._objective == "size" else ""
        int8 = {part: method for part, method in int8.items() if method != "float"}
        return Choice(chosen, int8, storage, self._padded, self._cropped)

    @property
    def _passed(self) -> float:
        """The share of the budget that is used."""
        return (self._clock() - self._begun) / (60 * self._minutes)

    def _say(self, message: str) -> None:
        self._tell(message, min(self._passed, 1.0))


def as_json(explored: Explored, objective: str, chosen: Choice | None) -> dict[str, Any]:
    """Everything that was tried, for the report."""
    tried = explored.tried
    return {
        "objective": objective,
        "margin": explored.margin,
        "stages": [
            {"stage": name, "way": str(way), "ms": 1000 * s}
            for name, found in explored.seconds.items()
            for way, s in sorted(found.items(), key=_second)
        ],
        "parts": [
            {
                "stage": c.part.stage,
                "part": c.part.name,
                "method": c.method,
                "predicted_mos_lost": c.loss,
                "standard_error": c.error,
                "ms_won": {way: 1000 * s for way, s in c.won.items()},
            }
            for c in explored.costs
        ],
        "trials": [
            asdict(found) | {"what": choice.words(), "front": _front(found, tried), "chosen": choice == chosen}
            for choice, found in tried
        ],
    }


def _front(found: Found, tried: Sequence[tuple[Choice, Found]]) -> bool:
    """Whether no other trial is at least as good in time, loss and size, and better in one (Pareto)."""
    own = (found.time, found.loss, found.mb)
    others = [(f.time, f.loss, f.mb) for _, f in tried]
    return not any(o != own and all(a <= b for a, b in zip(o, own, strict=True)) for o in others)


def _best(seconds: dict[Way, float], runtime: str = "") -> Way:
    """The fastest way, of that runtime if the stage can run there at all."""
    there = [way for way in seconds if way.runtime == runtime]
    return min(there or seconds, key=lambda way: seconds[way])


def _won(cost: PartCost, way: Way) -> float:
    """Seconds that INT8 brings in a stage that runs this way; of one that was not tried, those of its runtime."""
    near = (seconds for tried, seconds in cost.won.items() if tried.split()[0] == way.runtime)
    return cost.won.get(str(way), next(near, 0.0))


def _lost(cost: PartCost) -> float:
    return cost.loss


def _predicted(pair: tuple[float, Choice | None]) -> float:
    return pair[0]


def _second(pair: tuple[Way, float]) -> float:
    return pair[1]


def _sha(bundle: Bundle, stage: Stage) -> str:
    return bundle.files[bundle.stage(stage.name).file]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingDependency("optuna", "search") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
