"""What is measured. Rounds are kept on disk as they come, so that an interrupted phase goes on where it was.

Phases that take times have all arms speak in every round, in shuffled order; memory and quality go arm by arm.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

import vivace
from _peers.arms import Arm, Process
from vivace.core import machine
from vivace.core.audio import Audio
from vivace.core.bundle import atomic_file
from vivace.workflows import texts
from vivace.workflows.clips import Clips, Store, scored

METRICS = ("predicted_mos", "dnsmos", "wer")
PHASES = ("latency", "varied", "ttfa", "load", "memory", "throughput", "quality")
WARM = 24  # texts of all lengths before the first round: OpenVINO compiles for each length that it meets
SETTLED = 0.1  # seconds of rest before looking whether anything else runs
FIRST = ", the first time"  # what Vivace keeps from one load to the next was taken away
POOL = "pool"  # the kind of arm that speaks many texts at a time
LOOK = 0.02  # seconds between two looks at the memory of a crew
WHOLE_ROUNDS = 3  # rounds of "ttfa" that play to the end, to see whether the audio would ever have to wait
Tell = Callable[[str], None]
Start = Callable[..., Process]


@dataclass(frozen=True)
class Plan:
    """How much is done: rounds of a phase, sentences, sentences of a throughput round, characters of the book."""

    rounds: int = 15
    varied: int = 90
    load_rounds: int = 9
    memory_rounds: int = 3
    throughput_rounds: int = 7
    throughput_texts: int = 40
    book: int = 20_000
    sentences: int = 100


QUICK = Plan(3, 8, 2, 1, 2, 8, 1500, 8)


class Log:
    """The rounds of a phase in a file. Rounds of another `identity` (arms, machine, texts) are not gone on with."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        self.rounds: list[dict[str, Any]] = []
        self.discarded = 0
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["identity"] == self._identity:
                self.rounds = kept["rounds"]
            else:
                self.discarded = len(kept["rounds"])

    def add(self, found: dict[str, Any]) -> None:
        self.rounds.append(found)
        atomic_file(self._path, json.dumps({"identity": self._identity, "rounds": self.rounds}).encode())


class Bench:
    """The phases over some arms, in a work folder. `start` makes the process of an arm."""

    def __init__(self, arms: Sequence[Arm], work: Path, plan: Plan, tell: Tell, start: Start = Process) -> None:
        self.arms, self.work, self.plan, self._tell, self._start = list(arms), work, plan, tell, start

    def run(self, phase: str) -> dict[str, Any]:
        """The phase's results as plain data; what is on disk already is not measured again."""
        result: dict[str, Any] = getattr(self, phase)()
        return result

    @property
    def lean(self) -> list[Arm]:
        """The arms at one thread, and the tools that have no thread option."""
        return [arm for arm in self.arms if arm.threads <= 1]

    def latency(self) -> dict[str, Any]:
        said = texts.latency()

        def once(k: int, running: Sequence[Process], dice: random.Random) -> dict[str, Any]:
            return {name: self._each(running, dice, text, seed=k) for name, text in said.items()}

        return {"texts": said, "rounds": self._interleaved("latency", self.arms, self.plan.rounds, once, said)}

    def varied(self) -> dict[str, Any]:
        """Every sentence is spoken once: what a tool learns of a shape, it cannot use again."""
        said = varied_sentences(self.plan.varied)

        def once(k: int, running: Sequence[Process], dice: random.Random) -> dict[str, Any]:
            return {"varied": self._each(running, dice, said[k], seed=k)}

        return {"texts": said, "rounds": self._interleaved("varied", self.arms, len(said), once, said)}

    def ttfa(self) -> dict[str, Any]:
        said = {"sentence": texts.latency()["long"], "paragraph": paragraph(1000)}

        def once(k: int, running: Sequence[Process], dice: random.Random) -> dict[str, Any]:
            how = {"seed": k, "stream": True, "early": k >= WHOLE_ROUNDS}
            return {name: self._each(running, dice, text, **how) for name, text in said.items()}

        return {"texts": said, "rounds": self._interleaved("ttfa", self.arms, self.plan.rounds, once, said)}

    def load(self) -> dict[str, Any]:
        """Fresh processes, the files in the page cache from the round that warms up. Vivace keeps graphs that it
        prepared; so it also loads with nothing kept, as the first time on a machine."""
        short = texts.latency()["short"]

        def loaded(arm: Arm, cache: str) -> dict[str, Any]:
            with self._start(arm, cache) as process:
                spoken = process.speak(short, rested=False)
                return process.loaded | {"ready_s": process.ready, "first_s": spoken["seconds"]}

        def once(dice: random.Random) -> dict[str, Any]:
            found = {}
            for arm in dice.sample(self.lean, len(self.lean)):
                found[arm.key] = loaded(arm, "")
                if arm.ours:
                    with tempfile.TemporaryDirectory() as empty:
                        found[arm.key + FIRST] = loaded(arm, empty)
            return {"load": found}

        log = self._log("load", self.lean, short)
        for k in range(len(log.rounds), self.plan.load_rounds):
            if k == 0:
                once(random.Random("warm"))
            log.add({"busy": busy()} | once(random.Random(f"load {k}")))
            self._tell(f"load: round {k + 1}/{self.plan.load_rounds}")
        return {"rounds": log.rounds[: self.plan.load_rounds]}

    def memory(self) -> dict[str, Any]:
        long, book = texts.latency()["long"], paragraph(self.plan.book)
        found: dict[str, Any] = {}
        for arm in self.lean:
            sentence = self._alone("memory", arm, self.plan.memory_rounds, long)
            whole = self._alone("memory-book", arm, 1, book)
            found[arm.key] = {"long": sentence, "book": whole}
        return {"texts": {"long": len(long), "book": len(book)}, "arms": found}

    def throughput(self) -> dict[str, Any]:
        """All cores busy: as many processes as cores, each of one thread; a tool without a thread option also alone,
        and Vivace also as a pool. Then the memory of each crew, while no other is there to share pages with it."""
        setups = crews(self.lean, machine.cores())
        said = texts.evaluation()
        log = self._log("throughput", [arm for crew in setups.values() for arm in crew], said)
        count = self.plan.throughput_rounds
        if len(log.rounds) < count:
            with ExitStack() as stack:
                running = {name: self._crew(stack, crew) for name, crew in setups.items()}
                for k in range(len(log.rounds), count):
                    dice = random.Random(f"throughput {k}")
                    batch = dice.sample(said, self.plan.throughput_texts)
                    rest = busy()
                    rates = {name: feed(running[name], batch) for name in dice.sample(list(running), len(running))}
                    log.add({"busy": rest, "throughput": rates})
                    self._tell(f"throughput: round {k + 1}/{count}")
        memory = {name: self._held(name, crew) for name, crew in setups.items()}
        arms = {name: crew[0].key for name, crew in setups.items()}
        return {"rounds": log.rounds[:count], "crews": arms, "memory": memory}

    def _crew(self, stack: ExitStack, crew: Sequence[Arm]) -> list[Process]:
        running = [stack.enter_context(self._start(arm)) for arm in crew]
        for process in running:
            if process.arm.kind == POOL:
                process.ask("speak_all", texts=texts.calibration()[-WARM:] * machine.cores())
            else:
                warm(process)
        return running

    def _held(self, name: str, crew: Sequence[Arm]) -> list[float]:
        """The most memory that all processes of a crew held together, in MB, while it spoke; a fresh crew each time."""
        said = texts.evaluation()
        log = self._log(f"throughput-memory-{slug(name)}", crew, said)
        for k in range(len(log.rounds), self.plan.memory_rounds):
            with ExitStack() as stack:
                running = self._crew(stack, crew)
                batch = random.Random(f"throughput {k}").sample(said, self.plan.throughput_texts)
                log.add({"most_mb": most_held(running, partial(feed, running, batch))})
            self._tell(f"throughput: memory of {name} {k + 1}/{self.plan.memory_rounds}")
        return [r["most_mb"] for r in log.rounds[: self.plan.memory_rounds]]

    def quality(self) -> dict[str, Any]:
        """Scores of one speech of each sentence by each arm; every tool draws its own noise."""
        said = texts.evaluation(self.plan.sentences)
        store, found = Store(self.work / "scores"), {}
        for arm in (a for a in self.lean if a.threads):
            folder = self.work / "clips" / slug(arm.key + arm.identity)
            folder.mkdir(parents=True, exist_ok=True)
            files = [folder / f"{k}.npy" for k in range(len(said))]
            rate = self._record(arm, said, files)
            audio = tuple(Audio(np.load(file), rate) for file in files)
            keys = tuple(f"{arm.key} {arm.identity} {k} {text}" for k, text in enumerate(said))
            found[arm.key] = scored(Clips(tuple(said), audio, keys), METRICS, store=store)
            self._tell(f"quality: {arm.key} scored")
        return {"texts": said, "scores": found}

    def _record(self, arm: Arm, said: Sequence[str], files: Sequence[Path]) -> int:
        """Speaks what is not on disk yet; returns the sample rate."""
        log = self._log(f"quality-{slug(arm.key)}", [arm], said)
        missing = [k for k, file in enumerate(files) if k >= len(log.rounds) or not file.is_file()]
        if missing:
            with self._start(arm) as process:
                for k in missing:
                    told = process.speak(said[k], rested=False, seed=k, out=str(files[k]))
                    if k >= len(log.rounds):
                        log.add(told)
            self._tell(f"quality: {arm.key} spoken")
        return int(log.rounds[0]["rate"])

    def _each(
        self, running: Sequence[Process], dice: random.Random, text: str, **how: Any
    ) -> dict[str, dict[str, float]]:
        return {p.arm.key: p.speak(text, **how) for p in dice.sample(list(running), len(running))}

    def _interleaved(
        self,
        phase: str,
        arms: Sequence[Arm],
        count: int,
        once: Callable[[int, Sequence[Process], random.Random], dict[str, Any]],
        said: object,
    ) -> list[dict[str, Any]]:
        log = self._log(phase, arms, said)
        if len(log.rounds) < count:
            with ExitStack() as stack:
                running = [stack.enter_context(self._start(arm)) for arm in arms]
                for process in running:
                    warm(process, stream=phase == "ttfa")
                for k in range(len(log.rounds), count):
                    log.add({"busy": busy()} | once(k, running, random.Random(f"{phase} {k}")))
                    self._tell(f"{phase}: round {k + 1}/{count}")
        return log.rounds[:count]

    def _alone(self, phase: str, arm: Arm, count: int, text: str) -> list[dict[str, Any]]:
        """Memory of fresh processes: after load, and the most while one text was spoken."""
        log = self._log(f"{phase}-{slug(arm.key)}", [arm], text)
        for k in range(len(log.rounds), count):
            with self._start(arm) as process:
                loaded = process.ask("memory")["now_mb"]
                told = process.speak(text, rested=False, seed=k)
                log.add({"loaded_mb": loaded, "peak_mb": process.ask("memory")["peak_mb"]} | told)
            self._tell(f"{phase}: {arm.key} {k + 1}/{count}")
        return log.rounds[:count]

    def _log(self, phase: str, arms: Sequence[Arm], said: object) -> Log:
        facts = machine.describe()
        identity = {
            "arms": [asdict(arm) for arm in arms],
            "machine": {key: facts[key] for key in ("cpu", "flags", "cores", "packages")},
            "texts": digest(json.dumps(said)),
        }
        log = Log(self.work / f"{phase}.json", identity)
        if log.discarded:
            self._tell(f"{phase}: {log.discarded} rounds of other arms, texts or another machine are measured anew")
        return log


def crews(lean: Sequence[Arm], cores: int) -> dict[str, list[Arm]]:
    """Who works together when all cores are busy, by label."""
    found = {}
    for arm in lean:
        if arm.ours:
            found[f"{arm.name}, 1 process, pool of {cores}"] = [replace(arm, kind=POOL)]
        if arm.threads == 0:
            found[f"{arm.name}, 1 process"] = [arm]
        found[f"{arm.name}, {cores} processes"] = [arm] * cores
    return found


def feed(crew: Sequence[Process], batch: Sequence[str]) -> dict[str, float]:
    """Seconds until the crew has spoken all texts, each taken by whoever is free, the longest first."""
    time.sleep(0.2)
    longest_first = sorted(batch, key=len, reverse=True)
    waiting: SimpleQueue[str] = SimpleQueue()
    for text in longest_first:
        waiting.put(text)

    def work(process: Process) -> float:
        if process.arm.kind == POOL:
            return float(process.ask("speak_all", texts=longest_first)["audio"])
        audio = 0.0
        while True:
            try:
                text = waiting.get_nowait()
            except Empty:
                return audio
            audio += process.speak(text, rested=False)["audio"]

    with ThreadPoolExecutor(len(crew)) as pool:
        begun = time.perf_counter()
        audio = sum(pool.map(work, crew))
        return {"seconds": time.perf_counter() - begun, "audio": audio}


def most_held(crew: Sequence[Process], work: Callable[[], object]) -> float:
    """The most that the processes held together in MB, looked at many times while `work` goes on."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as beside:
        working = beside.submit(work)
        working.add_done_callback(lambda _: done.set())
        most = sum(process.proportional_mb for process in crew)
        while not done.wait(LOOK):
            most = max(most, sum(process.proportional_mb for process in crew))
        working.result()
    return most


def warm(process: Process, *, stream: bool = False) -> None:
    for k, text in enumerate(texts.calibration()[-WARM:]):
        process.speak(text, rested=False, seed=k, stream=stream)


def varied_sentences(count: int) -> list[str]:
    """Sentences of mixed length of which none is a warm-up text."""
    known = texts.evaluation() + texts.calibration()[:-WARM]
    return random.Random(0).sample(known, count)


def first_sentence() -> str:
    """Of a paragraph: one of average length, since tools that give audio sentence by sentence owe their first to it."""
    return next(text for text in texts.evaluation() if 85 <= len(text) <= 100)


def paragraph(characters: int) -> str:
    """Evaluation sentences up to that length in all, over and over if needed."""
    known = texts.evaluation()
    text = first_sentence()
    k = known.index(text) + 1
    while len(text) + 1 + len(known[k % len(known)]) <= characters:
        text += " " + known[k % len(known)]
        k += 1
    return text


def busy(seconds: float = 0.3) -> float:
    """How much of this machine is at work while all arms rest: 0 to 1."""
    time.sleep(SETTLED)
    before = _ticks()
    time.sleep(seconds)
    idle, total = (after - b for after, b in zip(_ticks(), before, strict=True))
    return 1 - idle / total if total else 0.0


def _ticks() -> tuple[int, int]:
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    ticks = [int(word) for word in words]
    return ticks[3] + ticks[4], sum(ticks)


def source_digest() -> str:
    """What speaks in Vivace's arms: rounds taken with other code are not gone on with."""
    source = Path(vivace.__file__).parent
    files = sorted(
        f for part in ("core", "engine", "families", "runtimes", "text") for f in (source / part).glob("*.py")
    )
    return digest("".join(f.read_text(encoding="utf-8") for f in files))


def slug(name: str) -> str:
    """A file name for a label, short and its own."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] + "-" + digest(name)[:6]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
