"""The chain: what fails is left for the next, what dies comes back, and the text's own faults are nobody's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core.audio import Audio
from vivace.core.errors import TextError
from vivace.core.speech import Event, Request
from vivace.engine import fallback
from vivace.engine.fallback import FAILURES, REST, Breaker, Broken, Chain, Faulty, Unavailable, Variant, Watch
from vivace.engine.runner import Died

RATE = 8000
SOUND = 0.5 * np.sin(np.arange(RATE // 2)).astype(np.float32)  # half a second


def piece(samples: Any = SOUND, *, done: bool = False) -> Event:
    return Event("r", Audio(np.asarray(samples, np.float32), RATE), done, "stop" if done else None)


class Fake:
    """A runner whose `script` is what each request gets: events, or an error that is raised."""

    def __init__(self, *script: Any, up: bool = True) -> None:
        self.script, self.alive = script, up
        self.died = self.lost = lambda: None
        self.asked = self.starts = self.closed = 0
        self.refuses = 0  # starts that fail
        self.pending = 0
        self.heard = float("-inf")

    async def start(self) -> None:
        self.starts += 1
        if self.refuses:
            self.refuses -= 1
            raise Died("a stage file is damaged")
        self.alive = True

    async def stop(self) -> None:
        self.alive = False

    async def speak(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked += 1
        try:
            for each in self.script:
                if isinstance(each, BaseException):
                    raise each
                if isinstance(each, float):
                    await asyncio.sleep(each)
                    continue
                yield each
        finally:
            self.closed += 1


def chain(*runners: Fake, **settings: Any) -> Chain:
    return Chain([Variant(f"v{k}", r) for k, r in enumerate(runners)], **settings)  # type: ignore[arg-type]


def spoken(c: Chain, text: str = "hello there") -> list[tuple[str, Event]]:
    async def run() -> list[tuple[str, Event]]:
        return [each async for each in c.speak(Request("r", text))]

    return asyncio.run(run())


GOOD = (piece(), piece(done=True))
NOTHING = Event("r", done=True, reason="error", error="out of memory", blame="model")
FAULTS = {
    "an error": NOTHING,
    "a fault": Faulty("no speech"),
    "silence": piece(np.zeros(2 * RATE)),
    "clipping": piece(np.ones(RATE)),
    "a runaway": piece(np.tile(SOUND, 100)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_any_audio_is_mended_by_the_next(fault: str) -> None:
    told: list[tuple[str, str]] = []
    first, second = Fake(FAULTS[fault]), Fake(*GOOD)
    found = spoken(chain(first, second, told=lambda *what: told.append(what)))
    assert [name for name, _ in found] == ["v1", "v1"]
    assert [name for name, _ in told] == ["v0"]
    assert first.asked == first.closed == 1


def test_silence_at_the_beginning_is_held_back_until_there_is_sound() -> None:
    quiet = piece(np.zeros(RATE // 2))
    found = spoken(chain(Fake(quiet, *GOOD)))
    assert [len(event.audio.samples) for _, event in found if event.audio] == [RATE // 2] * 3
    assert [name for name, _ in spoken(chain(Fake(quiet, quiet, quiet), Fake(*GOOD)))] == ["v1", "v1"]


def test_silence_that_ends_is_silence() -> None:
    assert [n for n, _ in spoken(chain(Fake(piece(np.zeros(800), done=True)), Fake(*GOOD)))] == ["v1", "v1"]


def test_an_end_without_audio_is_silence() -> None:
    end = Event("r", done=True, reason="stop")
    assert [n for n, _ in spoken(chain(Fake(end), Fake(*GOOD)))] == ["v1", "v1"]
    assert [n for n, _ in spoken(chain(Fake(piece(np.zeros(800)), end), Fake(*GOOD)))] == ["v1", "v1"]


def test_after_audio_has_gone_out_nothing_is_said_twice() -> None:
    second = Fake(*GOOD)
    c = chain(Fake(piece(), NOTHING), second)
    with pytest.raises(Broken, match="v0 failed while it spoke: out of memory"):
        spoken(c)
    assert second.asked == 0


def test_what_is_wanted_whole_is_mended_to_the_end() -> None:
    async def run() -> list[str]:
        c = chain(Fake(piece(), NOTHING), Fake(*GOOD))
        return [name async for name, _ in c.speak(Request("r", "hello", whole=True))]

    assert asyncio.run(run()) == ["v1", "v1"]


def test_a_text_that_cannot_be_spoken_is_no_fault_of_a_variant() -> None:
    first, second = Fake(Event("r", done=True, reason="error", error="nothing", blame="request")), Fake(*GOOD)
    c = chain(first, second)
    for _ in range(FAILURES + 1):
        with pytest.raises(TextError, match="nothing"):
            spoken(c)
    assert second.asked == 0 and c.variants[0].breaker.state == "closed"


def test_what_every_variant_fails_may_be_the_text() -> None:
    told: list[str] = []
    c = chain(Fake(NOTHING), Fake(NOTHING), told=lambda variant, reason: told.append(variant))
    for _ in range(FAILURES - 1):
        with pytest.raises(TextError, match="this text: v0: out of memory; v1: out of memory"):
            spoken(c)
    assert told == []
    with pytest.raises(Unavailable, match="v0: out of memory; v1: out of memory"):  # so many texts in a row are not
        spoken(c)
    assert told == ["v0", "v1"]


def test_a_variant_alone_answers_for_its_faults() -> None:
    with pytest.raises(Unavailable, match="v0: out of memory"):
        spoken(chain(Fake(NOTHING)))


def test_a_variant_that_is_too_slow_is_left() -> None:
    first = Fake(0.5, *GOOD)
    assert {name for name, _ in spoken(chain(first, Fake(*GOOD), patience=0.05))} == {"v1"}
    assert first.closed == 1
    slow_later = Fake(piece(), 0.1, piece(done=True))
    assert {name for name, _ in spoken(chain(slow_later, Fake(*GOOD), patience=0.05))} == {"v0"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_tries_again_and_closes() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        assert breaker.state == "closed" and breaker.allows()
        breaker.failed()
    assert breaker.state == "open" and not breaker.allows()
    clock.now += REST
    assert breaker.state == "half-open" and breaker.allows()
    assert not breaker.allows()  # one trial at a time
    breaker.failed()
    clock.now += REST
    assert breaker.state == "open"  # its rest has doubled
    clock.now += REST
    assert breaker.allows()
    breaker.undecided()
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state == "closed"
    breaker.failed(at_once=True)
    assert breaker.state == "open"


def test_failures_that_come_together_count_once() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(20):
        breaker.failed()
    clock.now += REST
    assert breaker.allows()


def test_a_trial_is_decided_by_its_first_sound() -> None:
    """Its listener may take as long as it likes: others are not kept waiting."""
    first = Fake(*GOOD)

    async def run() -> None:
        c = chain(first)
        breaker = c.variants[0].breaker
        breaker._clock = clock = Clock()
        breaker.failed(at_once=True)
        clock.now += REST
        events = c.speak(Request("r", "hello"))
        await anext(events)
        assert breaker.state == "closed"
        await events.aclose()

    asyncio.run(run())


def test_a_replica_that_dies_in_a_trial_does_not_end_all_trials() -> None:
    first = Fake(Died("its replica is gone"))  # others live: no failure of the variant
    c = chain(first, Fake(*GOOD))
    breaker = c.variants[0].breaker
    breaker._clock = clock = Clock()
    breaker.failed(at_once=True)
    clock.now += REST
    spoken(c)
    assert breaker.state == "half-open"
    first.script = GOOD
    assert {name for name, _ in spoken(c)} == {"v0"}
    assert breaker.state == "closed"


def test_a_busy_variant_is_left_and_not_blamed() -> None:
    first = Fake(0.5, *GOOD)
    first.heard = float("inf")  # it speaks, to others
    c = chain(first, Fake(*GOOD), patience=0.02)
    for _ in range(FAILURES + 1):
        assert {name for name, _ in spoken(c)} == {"v1"}
    assert c.variants[0].breaker.state == "closed"


def test_a_late_word_of_a_dead_process_does_not_end_the_new_one() -> None:
    first = Fake(Died("gone"))  # alive: it has been replaced
    c = chain(first, Fake(*GOOD))
    spoken(c)
    assert first.starts == 0 and c.variants[0].breaker.state == "closed"


def test_a_death_is_one_failure_however_many_hear_of_it() -> None:
    told: list[str] = []
    runner = Fake(Died("gone"), up=True)
    runner.refuses = 1

    async def run() -> None:
        c = chain(runner, Fake(*GOOD), told=lambda variant, reason: told.append(variant))
        runner.alive = False
        runner.died()
        c._fail(c.variants[0], Died("gone"))
        assert told == ["v0"]
        await c.stop()

    asyncio.run(run())


def test_a_resting_variant_is_not_asked() -> None:
    first, second = Fake(NOTHING), Fake(*GOOD)
    c = chain(first, second)
    for _ in range(FAILURES + 2):
        spoken(c)
    assert (first.asked, second.asked) == (FAILURES, FAILURES + 2)


def test_why_nobody_can_speak_is_told() -> None:
    first, second = Fake(NOTHING), Fake(NOTHING)
    first.refuses = 1

    async def run() -> None:
        c = chain(first, second)
        assert c.ready and c.trouble == ""
        first.alive = False
        first.died()
        assert c.variants[0].trouble == "no process of v0 is left, it is started again" and not c.trouble
        while not first.starts:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(FAILURES):
            c.variants[1].breaker.failed()
        assert c.trouble == "v0: a stage file is damaged, it is started again; v1: it rests after failures"
        assert not c.ready
        await c.stop()

    asyncio.run(run())


def test_what_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "REST", 0.01)
    first = Fake(*GOOD)
    first.refuses = 2

    async def run() -> None:
        c = chain(first, Fake(*GOOD))
        first.alive = False
        first.died()
        assert c.ready and not c.trouble and c.variants[0].breaker.state == "open"
        for _ in range(200):
            await asyncio.sleep(0.01)
            if first.alive:
                break
        assert first.alive and first.starts == 3 and c.variants[0].breaker.state == "closed"
        await c.stop()
        assert not c.ready

    asyncio.run(run())


def test_a_chain_starts_if_one_variant_does() -> None:
    async def run(refuses: int) -> Chain:
        broken = Fake(*GOOD, up=False)
        broken.refuses = 1000
        other = Fake(*GOOD, up=False)
        other.refuses = refuses
        c = chain(broken, other)
        try:
            await c.start()
            assert c.ready
        finally:
            await c.stop()
        return c

    asyncio.run(run(0))
    with pytest.raises(Died, match="a stage file is damaged; a stage file is damaged"):
        asyncio.run(run(1000))


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_long_speech_of_a_long_text_is_no_runaway(speed: float) -> None:
    watch = Watch(Request("r", "x" * 100, speed=speed))
    for _ in range(int(0.2 * 100 / speed)):
        watch.see(piece(np.tile(SOUND, 2)))
    with pytest.raises(Faulty, match="runaway"):
        watch.see(piece(np.tile(SOUND, 1000)))


def test_under_pressure_the_fastest_speaks_first() -> None:
    first, second = Fake(*GOOD), Fake(*GOOD)
    c = chain(first, second, pressure=3, fastest=1)
    for first.pending, who in [(0, "v0"), (2, "v0"), (3, "v1"), (0, "v0")]:
        assert {name for name, _ in spoken(c)} == {who}
    first.pending, second.script = 3, (NOTHING,)
    assert {name for name, _ in spoken(c)} == {"v0"}


def test_leaving_early_closes_what_spoke(make_toy: Callable[..., Any], tmp_path: Path) -> None:
    first = Fake(piece(), 5.0, piece(done=True))

    async def run() -> None:
        c = chain(first)
        events = c.speak(Request("r", "hello"))
        await anext(events)
        await events.aclose()
        assert first.closed == 1 and c.variants[0].breaker.state == "closed"

    asyncio.run(run())
