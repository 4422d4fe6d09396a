from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.driver import TEXTS, audio_of, close, ends, engine, meddling, run
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError, VivaceError
from vivace.core.speech import Request
from vivace.core.stage import Array, Tensors
from vivace.engine.engine import speak, stream


def test_text_that_cannot_be_spoken_ends_in_an_error(voice: Bundle) -> None:
    with engine(voice, 2) as e:
        events = run(e, Request("bad", "!!!"), Request("good", "hello"))
    assert ends(events) == {"bad": "error", "good": "stop"}
    assert next(event.error for event in events if event.request_id == "bad").startswith("the text holds no")


def test_a_front_end_that_finds_nothing_is_an_error(toy: Bundle) -> None:
    with engine(toy) as e:
        e._model.encode = lambda request: []  # type: ignore[method-assign]
        with pytest.raises(VivaceError, match="nothing that can be spoken"):
            speak(e, Request("a", "hello"))


def test_streaming_beside_another_request_yields_its_own_events_only(voice: Bundle) -> None:
    with engine(voice) as e:
        alone = speak(e, Request("a", TEXTS["long"]))
        e.add(Request("other", TEXTS["middle"]))
        events = list(stream(e, Request("a", TEXTS["long"])))
    assert {event.request_id for event in events} == {"a"}
    assert close(audio_of(events, "a"), alone)


def test_an_unknown_voice_ends_in_an_error(voice: Bundle) -> None:
    with engine(voice) as e, pytest.raises(VivaceError, match="unknown voice 'carl'; known: ann, bob"):
        speak(e, Request("a", "hello", voice="carl"))


def poisoned(inputs: Tensors) -> bool:
    """Whether the letter q (id 16) is in the batch."""
    return bool((inputs["input"] == 16).any())


ERRORS = [ModelError("broken"), MemoryError(), RuntimeError("a bug"), IndexError("another bug")]


@pytest.mark.parametrize("max_batch", [1, 2, 4])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_failing_row_ends_alone_in_its_first_step(voice: Bundle, max_batch: int, error: Exception) -> None:
    def fail(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        if poisoned(inputs):
            raise error
        return outputs

    requests = [Request(name, text, seed=5) for name, text in [("a", "hello"), ("b", "q"), ("c", "world. again.")]]
    with engine(voice, max_batch) as e:
        alone = {r.id: speak(e, r) for r in requests}
    with engine(voice, max_batch, wrap=meddling("text", fail)) as e:
        events = run(e, *requests)
    assert ends(events) == {"a": "stop", "b": "error", "c": "stop"}
    for name in "ac":
        assert close(audio_of(events, name), alone[name])


@pytest.mark.parametrize("max_batch", [1, 2, 4])
@pytest.mark.parametrize("stage", ["frames", "decoder"])
@pytest.mark.parametrize("chunk", [0, 9])
@pytest.mark.parametrize("turn", range(1, 12, 2))
def test_after_a_passing_fault_the_neighbours_lose_nothing(
    voice: Bundle, max_batch: int, stage: str, chunk: int, turn: int
) -> None:
    """One run of one stage fails: at most one request ends, and all others have the samples they always have."""
    runs = 0

    def fail_once(_: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        nonlocal runs
        runs += 1
        if runs == turn:
            raise ModelError("a passing fault")
        return outputs

    requests = [Request(name, text, seed=k, chunk_frames=chunk) for k, (name, text) in enumerate(TEXTS.items())]
    with engine(voice) as e:
        alone = {r.id: speak(e, r) for r in requests}
    with engine(voice, max_batch, wrap=meddling(stage, fail_once)) as e:
        events = run(e, *requests)
    ended = ends(events)
    assert set(ended) == set(TEXTS)
    assert list(ended.values()).count("error") <= 1
    for name, reason in ended.items():
        if reason == "stop":
            assert close(audio_of(events, name), alone[name])


def test_samples_that_are_not_numbers_end_one_row(voice: Bundle) -> None:
    def nan_row(inputs: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        bad = (inputs["input"] == 16).any(axis=1)
        return {**outputs, "hidden": np.where(bad[:, None, None], np.float32("nan"), outputs["hidden"])}

    with engine(voice, 3, wrap=meddling("text", nan_row)) as e:
        requests = [Request("a", "hello"), Request("b", "q"), Request("c", "world")]
        alone = {r.id: speak(e, r) for r in requests if r.id != "b"}
        events = run(e, *requests)
    assert ends(events) == {"a": "stop", "b": "error", "c": "stop"}
    assert [event.error for event in events if event.request_id == "b"] == [
        "the model made samples that are not numbers"
    ]
    assert not [event for event in events if event.request_id == "b" and event.audio]
    for name in "ac":
        assert close(audio_of(events, name), alone[name])


def test_a_bug_is_named_and_its_traceback_logged(toy: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    def bug(_: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        raise IndexError("list index out of range")

    with engine(toy, wrap=meddling("text", bug)) as e, pytest.raises(VivaceError, match="IndexError: list index"):
        speak(e, Request("a", "hello"))
    assert "Traceback" in caplog.text


def test_a_user_error_is_not_logged(toy: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with engine(toy) as e, pytest.raises(VivaceError):
        speak(e, Request("a", "!!!"))
    assert caplog.text == ""


def test_a_voice_that_makes_no_audio_is_an_error(toy: Bundle) -> None:
    def nothing(_: Tensors, outputs: dict[str, Array]) -> Mapping[str, Array]:
        return {**outputs, "frames": outputs["frames"][:, :, :0]}

    bundle = replace(toy, defaults={**toy.defaults, "steps": 1})
    with engine(bundle, wrap=meddling("frames", nothing)) as e:
        family = e._model
        advance = family.advance

        def done(rows: Any) -> None:
            advance(rows)
            for row in rows:
                row.done = True

        family.advance = done  # type: ignore[method-assign]
        with pytest.raises(ModelError, match="made no audio"):
            speak(e, Request("a", "hello"))
