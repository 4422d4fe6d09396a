"""The comparison with the peers: its protocol, its rounds, its figures and its page, on arms that only pretend."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import peers_cpu
from _peers import figures, page, phases
from _peers.arms import Arm, ArmError
from vivace.core import machine
from vivace.workflows import texts

ARMS = [
    Arm("Vivace: fast", "vivace", "v", 1, "1", ours=True),
    Arm("Vivace: fast", "vivace", "v", 2, "1", ours=True),
    Arm("plain ORT", "plain", "o", 1, "2"),
    Arm("plain ORT", "plain", "o", 2, "2"),
    Arm("piper-tts, 1 thread (session replaced)", "piper", "o", 1, "2"),
    Arm("piper-tts, own settings", "piper", "o", 0, "2"),
    Arm("sherpa-onnx", "sherpa", "o", 1, "2"),
    Arm("sherpa-onnx", "sherpa", "o", 2, "2"),
    Arm("sherpa-onnx with small", "sherpa", "s", 1, "3", original="sherpa-onnx @1"),
]
PLAN = replace(phases.QUICK, rounds=4, varied=5, sentences=3, throughput_texts=6)


class Fake:
    """A process that makes a second of audio of ten letters, at the pace its arm is given."""

    pace: ClassVar[dict[str, float]] = {}
    said: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []
    left: int = 10**9  # speeches until the machine fails

    def __init__(self, arm: Arm, cache: str = "") -> None:
        self.arm = arm
        self.ready = (5.0 if cache else 0.5) * self.speed
        self.loaded = {"import_s": 0.1, "load_s": 0.3 * self.speed, "version": "1"}
        self.closed = False
        self.held: Iterator[float] | None = None

    @property
    def speed(self) -> float:
        return self.pace.get(self.arm.key, 1.0)

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    @property
    def proportional_mb(self) -> float:
        return next(self.held) if self.held else 50.0 * self.speed

    def ask(self, what: str, **how: Any) -> dict[str, float]:
        if what == "speak_all":
            assert self.arm.kind == "pool"
            return {"audio": sum(self.speak(text)["audio"] for text in how["texts"])}
        assert what == "memory"
        return {"now_mb": 100.0 * self.speed, "peak_mb": 200.0 * self.speed}

    def speak(self, text: str, *, rested: bool = True, **how: Any) -> dict[str, Any]:
        if Fake.left == 0:
            raise KeyboardInterrupt
        Fake.left -= 1
        Fake.said.append((self.arm.key, text, how))
        audio = len(text) / 10
        if how.get("out"):
            np.save(how["out"], np.zeros(int(audio * 100), np.float32))
        took = audio * self.speed / 10
        told = {"seconds": took, "audio": audio, "first": took / 2, "first_audio": 0.5, "rate": 100}
        return told | {"gapless": None if how.get("early") else took / 2, "chunks": 2}


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(phases, "busy", lambda: 0.01)
    monkeypatch.setattr(phases.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(Fake, "pace", {})
    monkeypatch.setattr(Fake, "said", [])
    monkeypatch.setattr(Fake, "left", 10**9)

    def scored(clips: Any, metrics: tuple[str, ...], store: Any) -> dict[str, list[float]]:
        return {name: [1.0 + k / 10 for k in range(len(clips.texts))] for name in metrics}

    monkeypatch.setattr(phases, "scored", scored)
    yield


def bench(work: Path, plan: phases.Plan = PLAN, arms: list[Arm] = ARMS) -> phases.Bench:
    return phases.Bench(arms, work, plan, lambda message: None, Fake)


def everything(work: Path) -> dict[str, dict[str, Any]]:
    return {phase: bench(work).run(phase) for phase in phases.PHASES}


# --- rounds ---


def test_every_arm_speaks_every_text_in_every_round_in_an_order_that_changes(tmp_path: Path) -> None:
    found = bench(tmp_path).latency()
    assert len(found["rounds"]) == PLAN.rounds
    orders = set()
    for r in found["rounds"]:
        for text in texts.latency():
            assert set(r[text]) == {arm.key for arm in ARMS}
            orders.add(tuple(r[text]))
    assert len(orders) > 6
    seeds = {(text, how["seed"]) for _, text, how in Fake.said if text in texts.latency().values()}
    assert len(seeds) == 3 * PLAN.rounds


def test_an_interrupted_phase_goes_on_where_it_was(tmp_path: Path) -> None:
    Fake.left = phases.WARM * len(ARMS) + 2 * 3 * len(ARMS) + 5  # warm-up, two rounds, and a part of the third
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path).latency()
    first = json.loads((tmp_path / "latency.json").read_text(encoding="utf-8"))["rounds"]
    assert len(first) == 2
    Fake.left = 10**9
    Fake.said.clear()
    again = bench(tmp_path).latency()["rounds"]
    assert again[:2] == first and len(again) == PLAN.rounds
    spoken = [text for _, text, _ in Fake.said if text in texts.latency().values()]
    assert len(spoken) == 3 * len(ARMS) * (PLAN.rounds - 2)
    Fake.said.clear()
    assert bench(tmp_path).latency()["rounds"] == again
    assert Fake.said == []


def test_rounds_of_other_arms_are_not_gone_on_with(tmp_path: Path) -> None:
    bench(tmp_path).latency()
    told: list[str] = []
    changed = [replace(ARMS[0], identity="new"), *ARMS[1:]]
    Fake.pace = {ARMS[0].key: 3.0}
    found = phases.Bench(changed, tmp_path, PLAN, told.append, Fake).latency()
    assert "4 rounds of other arms" in told[0]
    assert {r["short"][ARMS[0].key]["seconds"] for r in found["rounds"]} == {1.3 * 3.0 / 10}


def test_more_rounds_are_added_to_those_on_disk(tmp_path: Path) -> None:
    few = bench(tmp_path).latency()["rounds"]
    more = bench(tmp_path, replace(PLAN, rounds=6)).latency()["rounds"]
    assert more[:4] == few and len(more) == 6
    assert bench(tmp_path).latency()["rounds"] == few


def test_varied_sentences_are_spoken_once_and_never_to_warm_up(tmp_path: Path) -> None:
    bench(tmp_path).varied()
    for arm in ARMS:
        said = [text for key, text, _ in Fake.said if key == arm.key]
        assert len(said) == len(set(said)) == phases.WARM + PLAN.varied
        assert len({len(text) for text in said}) > 3
    assert not set(phases.varied_sentences(150)) & set(texts.calibration()[-phases.WARM :])


def test_first_audio_is_streamed_and_later_rounds_stop_early(tmp_path: Path) -> None:
    found = bench(tmp_path).ttfa()
    assert all(how["stream"] for _, _, how in Fake.said)
    assert [r["sentence"][ARMS[0].key]["gapless"] is None for r in found["rounds"]] == [False] * 3 + [True]


@pytest.mark.parametrize("size", [300, 1000, 20_000])
def test_a_paragraph_is_as_long_as_asked_and_begins_as_told(size: int) -> None:
    text = phases.paragraph(size)
    assert size - 300 < len(text) <= size
    assert text.startswith(phases.first_sentence())


def test_load_and_memory_take_fresh_processes_of_the_lean_arms(tmp_path: Path) -> None:
    made: list[Fake] = []

    def start(arm: Arm, cache: str = "") -> Fake:
        made.append(Fake(arm, cache))
        return made[-1]

    each = phases.Bench(ARMS, tmp_path, PLAN, lambda message: None, start)  # type: ignore[arg-type]
    loads = each.load()["rounds"]
    lean = [arm.key for arm in ARMS if arm.threads < 2]
    first = "Vivace: fast @1, the first time"
    assert len(made) == (len(lean) + 1) * (1 + PLAN.load_rounds)
    assert all(process.closed for process in made)
    assert sorted(loads[0]["load"]) == sorted([*lean, first])
    assert loads[0]["load"][first]["ready_s"] == 10 * loads[0]["load"]["Vivace: fast @1"]["ready_s"]
    made.clear()
    memory = each.memory()
    assert len(made) == len(lean) * (PLAN.memory_rounds + 1)
    assert memory["arms"][lean[0]]["long"][0]["peak_mb"] == 200.0


def test_a_crew_speaks_every_text_once() -> None:
    batch = texts.evaluation(20)
    told = phases.feed([Fake(ARMS[0]), Fake(ARMS[0])], batch)  # type: ignore[list-item]
    assert sorted(text for _, text, _ in Fake.said) == sorted(batch)
    assert told["audio"] == pytest.approx(sum(len(text) for text in batch) / 10)


def test_a_pool_is_given_all_texts_at_once() -> None:
    batch = texts.evaluation(20)
    told = phases.feed([Fake(replace(ARMS[0], kind="pool"))], batch)  # type: ignore[list-item]
    assert [text for _, text, _ in Fake.said] == sorted(batch, key=len, reverse=True)
    assert told["audio"] == pytest.approx(sum(len(text) for text in batch) / 10)


def test_crews_fill_the_cores() -> None:
    found = phases.crews([ARMS[0], ARMS[2], ARMS[5]], 2)
    assert {name: [arm.kind for arm in crew] for name, crew in found.items()} == {
        "Vivace: fast, 1 process, pool of 2": ["pool"],
        "Vivace: fast, 2 processes": ["vivace"] * 2,
        "plain ORT, 2 processes": ["plain"] * 2,
        "piper-tts, own settings, 1 process": ["piper"],
        "piper-tts, own settings, 2 processes": ["piper"] * 2,
    }


def test_the_memory_of_a_crew_is_the_most_that_its_processes_held_together() -> None:
    crew = [Fake(ARMS[2]), Fake(ARMS[2])]
    seen = threading.Event()

    def last() -> Iterator[float]:
        yield from [1.0, 6.0, 1.0]
        seen.set()
        while True:
            yield 2.0

    crew[0].held, crew[1].held = itertools.chain([1.0, 5.0, 9.0], itertools.repeat(2.0)), last()
    assert phases.most_held(crew, lambda: seen.wait(10)) == 11.0  # type: ignore[arg-type]


def test_a_fault_of_a_crew_is_not_swallowed() -> None:
    def fail() -> None:
        raise ArmError("gone")

    with pytest.raises(ArmError, match="gone"):
        phases.most_held([Fake(ARMS[2])], fail)  # type: ignore[list-item]


def test_every_crew_is_warm_and_its_memory_taken_alone(tmp_path: Path) -> None:
    living: set[int] = set()
    alone: list[int] = []

    class Living(Fake):
        def __init__(self, arm: Arm, cache: str = "") -> None:
            super().__init__(arm, cache)
            living.add(id(self))

        def __exit__(self, *_: object) -> None:
            living.discard(id(self))

        @property
        def proportional_mb(self) -> float:
            alone.append(len(living))
            return 50.0 * len(self.arm.kind)

    each = phases.Bench(ARMS, tmp_path, PLAN, lambda message: None, Living)  # type: ignore[arg-type]
    found = each.throughput()
    assert found["crews"]["Vivace: fast, 1 process, pool of 2"] == ARMS[0].key
    assert found["memory"]["Vivace: fast, 1 process, pool of 2"] == [200.0] * PLAN.memory_rounds
    assert found["memory"]["plain ORT, 2 processes"] == [500.0] * PLAN.memory_rounds
    assert set(alone) == {1, 2} and not living
    warming = [text for _, text, _ in Fake.said if text in texts.calibration()]
    workers = 6 * 2 + 2 + 1  # six crews of two processes, a pool of two, and piper-tts alone
    assert len(warming) == phases.WARM * workers * (1 + PLAN.memory_rounds)
    Fake.said.clear()
    assert each.throughput() == found and Fake.said == []


def test_clips_are_spoken_once_and_scored_by_arm(tmp_path: Path) -> None:
    found = bench(tmp_path).quality()
    assert "piper-tts, own settings @0" not in found["scores"]  # the sound of its one-thread arm
    assert len(found["scores"]) == 5
    Fake.said.clear()
    next((tmp_path / "clips").rglob("1.npy")).unlink()
    assert bench(tmp_path).quality() == found
    assert len(Fake.said) == 1


# --- figures ---


def field() -> figures.Field:
    return figures.Field(ARMS, 2)


def test_who_is_stated_against_whom() -> None:
    assert {title: arm.key for title, arm in field().yardsticks(1).items()} == {
        "times plain ORT (1 thread)": "plain ORT @1",
        "times piper-tts (1 thread)": "piper-tts, 1 thread (session replaced) @1",
        "times piper-tts (own settings)": "piper-tts, own settings @0",
    }
    assert [arm.key for arm in field().yardsticks(2).values()] == ["plain ORT @2", "piper-tts, own settings @0"]
    assert [a.key for a in field().rivals(ARMS[1])] == ["plain ORT @2", "piper-tts, own settings @0", "sherpa-onnx @2"]
    assert "sherpa-onnx with small @1" not in {a.key for a in field().rivals(ARMS[0])}


def test_ratios_say_how_many_times_faster(tmp_path: Path) -> None:
    Fake.pace = {ARMS[0].key: 0.5, "sherpa-onnx with small @1": 0.8, "sherpa-onnx @1": 1.6}
    found = bench(tmp_path).latency()
    rows = {row["key"]: row for row in figures.latency(field(), found, list(texts.latency()))}
    against = rows[ARMS[0].key]["times"]["times plain ORT (1 thread)"]
    assert against["all"]["value"] == pytest.approx(2.0) == against["short"]["value"]
    assert rows[ARMS[0].key]["rtf"]["long"] == pytest.approx(0.05)
    (dropin,) = figures.dropins(field(), found, list(texts.latency()))
    assert dropin["all"]["value"] == pytest.approx(2.0)


def test_throughput_is_stated_against_the_best_peer_with_its_own_file() -> None:
    def round_(**seconds: float) -> dict[str, Any]:
        return {"throughput": {name: {"seconds": s, "audio": 10.0} for name, s in seconds.items()}}

    found = {
        "crews": {"v": ARMS[0].key, "ort": "plain ORT @1", "own": "piper-tts, own settings @0", "file": ARMS[8].key},
        "rounds": [round_(v=1.0, ort=2.0, own=4.0, file=0.5)] * 3,
        "memory": {"v": [90.0, 100.0, 130.0], "ort": [200.0], "own": [300.0], "file": [150.0]},
    }
    rows = {row["crew"]: row for row in figures.throughput(field(), found)}
    assert {row["best_peer"] for row in rows.values()} == {"ort"}
    assert rows["v"]["rate"]["value"] == 10.0
    assert rows["v"]["times_best_peer"]["value"] == 2.0
    assert rows["v"]["most_mb"]["value"] == 100.0


def verdicts(work: Path) -> list[dict[str, Any]]:
    return figures.verdicts(field(), everything(work))


def test_a_faster_peer_is_named_and_a_slower_one_is_not(tmp_path: Path) -> None:
    Fake.pace = {"plain ORT @1": 0.5, "sherpa-onnx @1": 2.0}
    rows = [r for r in verdicts(tmp_path) if r["arm"] == ARMS[0].key and "latency" in r["measure"]]
    by_peer = {peer: {r["better"] for r in rows if r["peer"] == peer} for peer in {r["peer"] for r in rows}}
    assert by_peer["plain ORT @1"] == {"peer"}
    assert by_peer["sherpa-onnx @1"] == {"vivace"}
    assert by_peer["piper-tts, 1 thread (session replaced) @1"] == {""}
    assert {r["gain"]["value"] for r in rows if r["peer"] == "plain ORT @1"} == {2.0}


def test_every_phase_is_compared(tmp_path: Path) -> None:
    measures = {r["measure"].split(",")[0] for r in verdicts(tmp_path)}
    speed = {"latency", "first audio", "gap-free start", "load", "throughput"}
    assert measures == speed | {"peak memory", "memory", "quality"}


@pytest.mark.parametrize(("peer", "better"), [(0.5, "peer"), (0.995, ""), (1.0, ""), (2.0, "vivace")])
def test_memory_that_was_taken_once_must_differ_clearly(tmp_path: Path, peer: float, better: str) -> None:
    Fake.pace = {"plain ORT @1": peer}
    rows = [r for r in verdicts(tmp_path) if r["measure"] == "peak memory, book" and r["peer"] == "plain ORT @1"]
    assert [r["better"] for r in rows] == [better]


@pytest.mark.parametrize(("metric", "shift", "better"), [("wer", 0.1, "vivace"), ("dnsmos", 0.1, "peer")])
def test_quality_knows_which_way_is_better(tmp_path: Path, metric: str, shift: float, better: str) -> None:
    results = everything(tmp_path)
    said = results["quality"]["texts"]
    scores = results["quality"]["scores"]
    scores["sherpa-onnx @1"][metric] = [x + shift for x in scores["sherpa-onnx @1"][metric]]
    rows = [r for r in figures.verdicts(field(), results) if r["measure"] == f"quality, {metric}"]
    assert {r["better"] for r in rows if r["peer"] == "sherpa-onnx @1"} == {better}
    assert {r["better"] for r in rows if r["peer"] == "plain ORT @1"} == {""}
    assert len(said) == PLAN.sentences


# --- the page, and the whole command ---


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs the command on fake arms; returns the page."""
    monkeypatch.setattr(peers_cpu, "all_arms", lambda bundles, dropins, work: ARMS)
    monkeypatch.setattr(peers_cpu, "Bench", partial(phases.Bench, start=Fake))
    monkeypatch.setattr(peers_cpu, "PAGES", tmp_path / "docs")

    def run(*words: str) -> str:
        assert peers_cpu.main(["--quick", "--work", str(tmp_path / "work"), *words]) == 0
        return (tmp_path / "work" / "peers_cpu.md").read_text(encoding="utf-8")

    return run


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_holds_every_section_and_its_picture(command: Callable[..., str], tmp_path: Path) -> None:
    text = command()
    assert text.count("\n## ") == 10
    assert (tmp_path / "work" / "peers_cpu.png").stat().st_size > 10_000
    rows = [line for line in section(text, "Throughput, all cores busy").splitlines() if "Vivace" in line]
    assert [(row.split(" | ")[0], row.split(" | ")[-1]) for row in rows[-2:]] == [
        ("| Vivace: fast, 1 process, pool of 2", "50 |"),
        ("| Vivace: fast, 2 processes", "100 |"),
    ]
    data = json.loads((tmp_path / "work" / "peers_cpu.json").read_text(encoding="utf-8"))
    assert data["raw"]["throughput"]["memory"]["Vivace: fast, 2 processes"] == [100.0]
    assert data["figures"]["latency"] and data["raw"]["varied"]["rounds"]
    assert not (tmp_path / "docs").exists()  # what was only tried is no measurement


def test_phases_that_were_not_run_are_left_out(command: Callable[..., str]) -> None:
    text = command("--only", "latency")
    assert "## Latency\n" in text and "## Memory" not in text
    assert "## Memory" in (text := command("--only", "memory")) and "## Latency\n" in text


def test_the_page_says_where_a_peer_is_better_from_figures(command: Callable[..., str]) -> None:
    Fake.pace = {"sherpa-onnx @2": 0.25}
    told = section(command("--only", "latency"), "Where a peer is better")
    assert "9 comparisons: Vivace: fast, 1 thread is better in 0, a peer in 0, no clear difference in 9." in told
    assert "9 comparisons: Vivace: fast, 2 threads is better in 0, a peer in 3, no clear difference in 6." in told
    rows = [line for line in told.splitlines() if line.startswith("| latency")]
    assert len(rows) == 3
    assert rows[0] == "| latency, short text | sherpa-onnx, 2 threads | 32.5 ms | 130.0 ms | 4.00 |"


def test_a_busy_machine_is_told(
    command: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "1.0% of the machine was at work" in command("--only", "latency")
    assert "not to be published" not in capsys.readouterr().err
    monkeypatch.setattr(phases, "busy", lambda: 0.5)
    command("--only", "varied")
    assert "not to be published" in capsys.readouterr().err


def test_a_page_does_not_mix_arms(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    command("--only", "memory")
    monkeypatch.setattr(peers_cpu, "all_arms", lambda *_: [replace(ARMS[0], identity="new"), *ARMS[1:]])
    assert "## Memory" not in command("--only", "latency")


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in [
        (["--only", "latency,speed"], "speed: the phases are latency, varied"),
        (["--bundle", "x=/nowhere/at/all"], "must be NAME=PATH"),
        (["--dropin", "file.onnx"], "must be NAME=PATH"),
        (["--dropin", "small="], "must be NAME=PATH"),
    ]:
        with pytest.raises(SystemExit):
            peers_cpu.main(words)
        assert told in capsys.readouterr().err


def test_intervals_are_written_as_they_are() -> None:
    assert page.interval({"value": 1.234, "low": None, "high": None, "n": 1}, 1) == "1.2"
    assert page.ms({"value": 0.0123, "low": 0.012, "high": 0.0131, "n": 5}) == "12.3 [12.0, 13.1]"


def test_first_audio_alone_makes_a_page_without_a_picture(tmp_path: Path) -> None:
    field, found = figures.Field(ARMS, 2), {"created": "2026-11-23T00:00:00+00:00"}
    page.plot(tmp_path / "peers_cpu.png", field, found)
    text = page.page("peers_cpu", field, found, machine.describe(), [])
    assert not list(tmp_path.iterdir()) and ".png" not in text
