from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.driver import SAME, TEXTS, Meddling, audio_of, close, ends, engine, meddling, run
from vivace.core.audio import join
from vivace.core.bundle import Bundle
from vivace.core.errors import TextError, UsageError, VivaceError
from vivace.core.speech import Request, next_chunk
from vivace.core.stage import Array, Session, Stage, Tensors
from vivace.engine.engine import speak, stream

# --- one road ---


def test_a_text_is_spoken(voice: Bundle) -> None:
    with engine(voice) as e:
        audio = speak(e, Request("a", TEXTS["long"]))
    assert audio.rate == voice.sample_rate
    assert audio.seconds > 1
    assert audio.samples.dtype == np.float32
    assert np.abs(audio.samples).max() <= 1


def test_each_sentence_is_an_event_and_the_last_one_ends(voice: Bundle) -> None:
    with engine(voice) as e:
        events = [event for event in run(e, Request("a", TEXTS["long"])) if event.audio]
    assert [event.done for event in events] == [False, False, True]
    assert events[-1].reason == "stop"


def test_a_voice_that_moves_in_steps_takes_several(make_toy: Any) -> None:
    def steps(bundle: Bundle) -> int:
        with engine(bundle) as e:
            e.add(Request("a", "hello"))
            return sum(1 for _ in iter(lambda: bool(e.step()) or not e.idle, False))

    assert steps(make_toy(steps=5)) > steps(make_toy(steps=1)) >= 1


def test_times_are_there_and_in_order(voice: Bundle) -> None:
    ticks = itertools.count()
    with engine(voice, clock=lambda: float(next(ticks))) as e:
        events = run(e, Request("a", TEXTS["long"]), Request("b", TEXTS["short"]))
    for name in "ab":
        mine = [event for event in events if event.request_id == name]
        last = mine[-1].times
        assert list(last) == ["queued", "first_audio", "end"]
        assert last["queued"] < last["first_audio"] < last["end"]
        assert all(event.times["first_audio"] == last["first_audio"] for event in mine)
        assert all("end" not in event.times for event in mine[:-1])


def test_each_piece_of_a_step_is_told_with_its_rows(make_toy: Any) -> None:
    told: list[tuple[str, list[int]]] = []

    @contextmanager
    def phase(name: str, rows: Any) -> Iterator[None]:
        told.append((name, [row.total_frames for row in rows]))
        yield
        told.append((f"end of {name}", []))

    with engine(make_toy(steps=3), max_batch=2, phase=phase) as e:
        run(e, Request("a", "hello"), Request("b", "hello"))
        assert e.cache_bytes == 0  # this family keeps nothing
    begun = told[::2]
    assert [end for end, _ in told[1::2]] == [f"end of {name}" for name, _ in begun]
    moves = ["advance"] * 3
    assert [name for name, _ in begun] == ["encode", "encode", *moves, "render", "encode", "encode"]
    moved = [frames for name, frames in begun if name == "advance"]
    assert moved[0] == [0, 0]
    assert 0 < moved[1][0] < moved[2][0]
    assert len(moved[2]) == 2


def test_an_idle_engine_steps_without_events(voice: Bundle) -> None:
    with engine(voice) as e:
        assert e.idle
        assert e.step() == []


def test_max_batch_below_one_is_refused(toy: Bundle) -> None:
    with pytest.raises(UsageError, match="max_batch is 0"):
        engine(toy, 0)


# --- the same samples, whatever runs beside ---


@pytest.mark.parametrize("max_batch", [1, 2, 4])
@pytest.mark.parametrize("chunk", [0, 7])
def test_neighbours_change_nothing(voice: Bundle, max_batch: int, chunk: int) -> None:
    requests = [
        Request(name, text, seed=k, voice=("ann", "bob")[k % 2], speed=(1.0, 1.5, 0.7)[k], chunk_frames=chunk)
        for k, (name, text) in enumerate(TEXTS.items())
    ]
    with engine(voice, max_batch) as e:
        together = run(e, *requests)
        alone = [speak(e, request) for request in requests]
    assert ends(together) == dict.fromkeys(TEXTS, "stop")
    for request, audio in zip(requests, alone, strict=True):
        assert close(audio_of(together, request.id), audio)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text("abc .", min_size=1, max_size=30).filter(lambda t: t.strip(" .")), min_size=2, max_size=4),
    max_batch=st.integers(1, 4),
    chunk=st.sampled_from([0, 1, 9]),
)
def test_neighbours_change_nothing_for_any_texts(voice: Bundle, texts: list[str], max_batch: int, chunk: int) -> None:
    requests = [Request(str(k), text, seed=k, chunk_frames=chunk) for k, text in enumerate(texts)]
    with engine(voice, max_batch) as e:
        together = run(e, *requests)
        for request in requests:
            assert close(audio_of(together, request.id), speak(e, replace(request, chunk_frames=0)))


def test_seed_voice_speed_and_noise_matter(voice: Bundle) -> None:
    base = Request("a", TEXTS["middle"], seed=1)
    with engine(voice) as e:
        plain = speak(e, base)
        assert close(plain, speak(e, base))
        for change in ({"seed": 2}, {"voice": "bob"}, {"speed": 2.0}, {"noise_scale": 0.0}):
            assert not close(plain, speak(e, replace(base, **change))), change
        assert speak(e, replace(base, speed=2.0)).seconds < 0.7 * plain.seconds
        silent = replace(base, noise_scale=0.0)
        assert close(speak(e, silent), speak(e, replace(silent, seed=2)))


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 50, 10_000])
def test_streamed_is_whole(voice: Bundle, chunk: int) -> None:
    request = Request("a", TEXTS["long"], seed=3)
    with engine(voice) as e:
        whole = speak(e, request)
        pieces = [event.audio for event in stream(e, replace(request, chunk_frames=chunk)) if event.audio]
    assert close(join(pieces), whole)
    given = 0
    for piece in (len(piece.samples) // voice.defaults["hop"] for piece in pieces):
        assert piece <= next_chunk(chunk, given)
        given += piece


def test_chunks_grow_and_a_later_sentence_goes_on_growing(voice: Bundle) -> None:
    hop = voice.defaults["hop"]
    with engine(voice) as e:
        first = len(speak(e, Request("a", "x" * 20 + ".")).samples) // hop
        events = list(stream(e, Request("a", "x" * 20 + ". " + "y" * 100, chunk_frames=8)))
        sizes = [len(event.audio.samples) // hop for event in events if event.audio]
    assert sizes[:3] == [8, 16, 32]
    ended = next(k for k in range(len(sizes)) if sum(sizes[: k + 1]) == first)
    assert sizes[ended + 1] == next_chunk(8, first) > 32


def test_a_text_is_read_as_it_is_spoken(voice: Bundle) -> None:
    """When the first sentence is heard, no more than the one after it has been read."""
    with engine(voice) as e:
        read: list[int] = []
        sentence = next(iter(e._model.encode(Request("a", "hello"))))

        def encode(request: Request) -> Iterator[Array]:
            for k in range(100):
                read.append(k)
                yield sentence

        e._model.encode = encode  # type: ignore[method-assign]
        next(stream(e, Request("a", "any text")))
        assert read == [0, 1]


@pytest.mark.parametrize("chunk", [0, 8])
def test_what_cannot_be_read_later_ends_the_request_behind_what_was_said(voice: Bundle, chunk: int) -> None:
    with engine(voice, 2) as e:
        hello = speak(e, Request("a", "hello"))
        other = speak(e, Request("b", TEXTS["long"]))
        sentence = next(iter(e._model.encode(Request("a", "hello"))))
        true = e._model.encode

        def encode(request: Request) -> Iterator[Array]:
            if request.id == "b":
                yield from true(request)
                return
            yield sentence
            raise TextError("the second sentence holds too much")

        e._model.encode = encode  # type: ignore[method-assign]
        events = run(e, Request("a", "any", chunk_frames=chunk), Request("b", TEXTS["long"]))
    assert ends(events) == {"a": "error", "b": "stop"}
    assert close(audio_of(events, "a"), hello)
    assert close(audio_of(events, "b"), other)
    assert [event.error for event in events if event.error] == ["the second sentence holds too much"]


def test_finished_audio_is_not_kept(voice: Bundle) -> None:
    """What the engine holds between two steps does not grow with what was said."""
    with engine(voice) as e:
        e.add(Request("a", "hello there. " * 20))
        held = []
        while not e.idle:
            e.step()
            held.append(len(pickle.dumps([s.row for s in e._live.values()])))
    assert max(held[5:-1]) < 1.2 * max(held[:5])


def test_streaming_a_voice_that_moves_in_steps_begins_before_it_is_done(make_toy: Any) -> None:
    with engine(make_toy(steps=50)) as e:
        e.add(Request("a", "x" * 200, chunk_frames=10))
        steps = 0
        while not any(event.audio for event in e.step()):
            steps += 1
        assert steps < 10


# --- limits ---


@pytest.mark.parametrize("chunk", [0, 4])
@pytest.mark.parametrize("seconds", [0.00001, 0.1, 0.35, 1.0])
def test_max_seconds_cuts_and_says_so(voice: Bundle, seconds: float, chunk: int) -> None:
    request = Request("a", TEXTS["long"], seed=3, chunk_frames=chunk)
    with engine(voice) as e:
        whole = speak(e, request)
        events = run(e, replace(request, max_seconds=seconds))
    assert ends(events) == {"a": "length"}
    cut = audio_of(events, "a")
    assert len(cut.samples) == int(seconds * voice.sample_rate)
    assert np.abs(cut.samples - whole.samples[: len(cut.samples)]).max(initial=0) <= SAME


def test_max_seconds_of_the_exact_length_is_no_cut(voice: Bundle) -> None:
    with engine(voice) as e:
        whole = speak(e, Request("a", "hello"))
        assert ends(run(e, Request("a", "hello", max_seconds=whole.seconds + 1e-9))) == {"a": "stop"}


def test_a_voice_that_never_stops_is_stopped(make_toy: Any) -> None:
    """Not only its audio is bounded, its steps are too."""
    runs = 0

    def count(_: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        nonlocal runs
        runs += 1
        return outputs

    with engine(make_toy(steps=1000), wrap=meddling("frames", count)) as e:
        assert ends(run(e, Request("a", "x" * 400, max_seconds=0.2))) == {"a": "length"}
    assert runs < 30  # at 100 frames a second and one frame a step; the whole text is over 1,600


# --- ids and cancelling ---


def test_a_duplicate_id_is_refused_until_its_end_is_told(voice: Bundle) -> None:
    with engine(voice) as e:
        e.add(Request("a", "hello"))
        with pytest.raises(UsageError, match="'a' is in use"):
            e.add(Request("a", "world"))
        e.cancel("a")
        with pytest.raises(UsageError, match="'a' is in use"):
            e.add(Request("a", "world"))
        assert ends(e.step()) == {"a": "cancelled"}
        assert ends(run(e, Request("a", "world"))) == {"a": "stop"}
        assert ends(run(e, Request("a", "again"))) == {"a": "stop"}


def test_cancel_before_the_first_step(voice: Bundle) -> None:
    with engine(voice) as e:
        e.add(Request("a", "hello"))
        e.cancel("a")
        assert not e.idle
        events = e.step()
        assert ends(events) == {"a": "cancelled"}
        assert events[0].audio is None
        assert list(events[0].times) == ["queued", "end"]
        assert e.idle


def test_cancel_while_speaking_leaves_the_neighbour_alone(voice: Bundle) -> None:
    other = Request("b", TEXTS["middle"], seed=1)
    with engine(voice, 2) as e:
        alone = speak(e, other)
        e.add(Request("a", TEXTS["long"], chunk_frames=2))
        e.add(other)
        events = e.step()
        e.cancel("a")
        events += run(e)
    assert ends(events) == {"a": "cancelled", "b": "stop"}
    assert close(audio_of(events, "b"), alone)


def test_cancelling_twice_or_an_unknown_id_is_no_error(voice: Bundle) -> None:
    with engine(voice) as e:
        e.add(Request("a", "hello"))
        e.cancel("a")
        e.cancel("a")
        e.cancel("nobody")
        assert ends(run(e)) == {"a": "cancelled"}


def test_leaving_a_stream_early_cancels_and_frees_its_id(voice: Bundle) -> None:
    request = Request("a", TEXTS["long"], chunk_frames=2)
    with engine(voice) as e:
        whole = speak(e, request)
        for event in stream(e, request):
            assert event.audio
            break
        assert e.idle
        assert close(speak(e, request), whole)


def test_an_error_in_the_middle_of_a_stream_frees_its_id(voice: Bundle) -> None:
    with engine(voice) as e:
        with pytest.raises(VivaceError):
            speak(e, Request("a", "!!!"))
        assert speak(e, Request("a", "hello")).seconds > 0


# --- opening and closing ---


def closing(closed: list[str]) -> Any:
    class Noting:
        def __init__(self, stage: Stage, session: Session) -> None:
            self.stage, self.session = stage, session

        def run(self, inputs: Tensors) -> dict[str, Array]:
            return self.session.run(inputs)

        def close(self) -> None:
            closed.append(self.stage.name)
            self.session.close()

    return Noting


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_every_session_is_closed_once(toy: Bundle, error: type[BaseException] | None) -> None:
    closed: list[str] = []
    try:
        with engine(toy, wrap=closing(closed)) as e:
            e.add(Request("a", "hello"))
            if error:
                raise error
    except (KeyboardInterrupt, RuntimeError):
        pass
    e.close()
    assert closed == ["text", "frames", "decoder"]


def test_ctrl_c_inside_a_stage_is_not_a_fault_of_the_request(toy: Bundle) -> None:
    closed: list[str] = []

    def interrupt(_: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        raise KeyboardInterrupt

    def wrap(stage: Stage, session: Session) -> Session:
        return closing(closed)(stage, Meddling(session, interrupt) if stage.name == "decoder" else session)

    with pytest.raises(KeyboardInterrupt), engine(toy, wrap=wrap) as e:
        speak(e, Request("a", "hello"))
    assert closed == ["text", "frames", "decoder"]


def test_a_stage_that_cannot_be_loaded_closes_those_before_it(toy: Bundle) -> None:
    closed: list[str] = []
    broken = replace(toy, stages=(*toy.stages[:2], replace(toy.stages[2], runtime="no_such_runtime")))
    with pytest.raises(UsageError, match="unknown runtime"):
        engine(broken, wrap=closing(closed))
    assert closed == ["text", "frames"]


def test_wrap_sees_every_stage_and_its_runs(toy: Bundle) -> None:
    seen: list[str] = []

    def wrap(stage: Stage, session: Session) -> Session:
        return Meddling(session, lambda inputs, outputs: seen.append(stage.name) or outputs)

    with engine(toy, wrap=wrap) as e:
        speak(e, Request("a", "hello"))
    assert seen == ["text", "frames", "decoder"]
