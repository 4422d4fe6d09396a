"""The WebSocket: sentences as they end, audio for each, barge-in, and what is no message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

websockets = pytest.importorskip("websockets")
pytest.importorskip("fastapi")
pytest.importorskip("pysbd")
httpx = pytest.importorskip("httpx")

from server.conftest import Served  # noqa: E402
from vivace.server import live as module  # noqa: E402
from vivace.server.live import LONGEST, Cutter  # noqa: E402
from vivace.server.wire import ApiError  # noqa: E402

START = {"type": "start", "model": "toy", "voice": "ann"}
SECONDS = 30.0


def session(served: Served, messages: Sequence[Any], *, pause: float = 0.0) -> tuple[list[Any], bytes]:
    """What the server said, JSON and audio, until it closed."""

    async def run() -> tuple[list[Any], bytes]:
        told, audio = [], b""
        url = served.url.replace("http", "ws") + "/v1/audio/speech/live"
        async with asyncio.timeout(SECONDS), websockets.connect(url) as socket:
            for message in messages:
                await socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
                await asyncio.sleep(pause)
            with contextlib.suppress(websockets.ConnectionClosedError):  # after an error
                async for answer in socket:
                    if isinstance(answer, bytes):
                        audio += answer
                    else:
                        told.append(json.loads(answer))
        return told, audio

    return asyncio.run(run())


def text(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


def test_sentences_are_spoken_as_they_end(served: Served) -> None:
    told, audio = session(served, [START, *text("One ", "two. Thr", "ee fo", "ur. Five"), {"type": "end"}])
    assert told[0] == {"type": "started", "model": "toy", "sample_rate": 24_000, "response_format": "pcm"}
    assert [m["text"] for m in told if m["type"] == "sentence"] == ["One two.", "Three four.", "Five"]
    assert told[-1] == {"type": "done"}
    body = {"model": "toy", "voice": "ann", "response_format": "pcm", "input": "One two."}
    first = np.frombuffer(httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=60).content, "<i2")
    said = np.frombuffer(audio, "<i2")
    assert len(said) > 2 * len(first)
    assert np.abs(said[: len(first) - 200].astype(int) - first[:-200]).max() <= 1


def test_a_flush_speaks_what_is_there(served: Served) -> None:
    told, _ = session(served, [START, *text("One two"), {"type": "flush"}, *text("three"), {"type": "end"}])
    assert [m.get("text", m["type"]) for m in told] == ["started", "One two", "flushed", "three", "done"]


def test_barge_in_silences_and_forgets(served: Served) -> None:
    long = "a long sentence of it. " * 150
    messages = [START, *text(long), {"type": "cancel"}, *text("Now this."), {"type": "end"}]
    told, _ = session(served, messages, pause=0.05)
    kinds = [m["type"] for m in told]
    after = told[kinds.index("cancelled") + 1 :]
    assert [m.get("text", m["type"]) for m in after] == ["Now this.", "done"]


def test_what_cannot_be_spoken_is_passed_over(served: Served) -> None:
    told, audio = session(served, [START, *text("...", "\n\n", "One two."), {"type": "end"}])
    assert told[-1] == {"type": "done"} and audio


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (["{"], "not valid JSON"),
        ([b"\x00"], "send JSON as text"),
        ([{"type": "dance"}], "dance"),
        ([{"type": "text", "text": "x"}], "send start first"),
        ([START, START], "twice"),
        ([{**START, "voice": "nobody"}], "known: ann, bob"),
        ([{**START, "model": "nobody"}], "known: toy, other"),
        ([{**START, "speed": 100}], "speed"),
        ([{**START, "variant": "nobody"}], "known: fast, safe"),
        ([START, *text("x" * 5000)], "text"),
        ([START, *text(*["word " * 800] * 6)], "waiting to be spoken"),
    ],
)
def test_what_is_no_message(served: Served, messages: list[Any], message: str) -> None:
    async def run() -> Any:
        url = served.url.replace("http", "ws") + "/v1/audio/speech/live"
        async with asyncio.timeout(SECONDS), websockets.connect(url) as socket:
            for each in messages:
                await socket.send(each if isinstance(each, (str, bytes)) else json.dumps(each))
            async for answer in socket:
                if isinstance(answer, str) and (told := json.loads(answer))["type"] == "error":
                    return told["error"]
        return None

    assert message in asyncio.run(run())["message"]


def test_a_variant_may_be_named_and_null_is_not_given(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    start = {**START, "voice": None, "seed": None, "variant": "safe"}
    told, audio = session(served, [start, *text("One two."), {"type": "end"}])
    assert told[-1] == {"type": "done"} and audio
    lines = [r.getMessage() for r in caplog.records if r.name == "vivace.server.live"]
    assert "a sentence of 8 characters for toy" in lines[0] and ": ok by safe, " in lines[1]
    assert not any("One" in line for line in lines)


def test_what_comes_after_the_end_is_left_out(served: Served) -> None:
    told, audio = session(served, [START, *text("One two."), {"type": "end"}, *text("late"), {"type": "end"}])
    assert [m.get("text", m["type"]) for m in told] == ["started", "One two.", "done"] and audio


def test_flushes_do_not_pile_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(SECONDS)
        yield

    monkeypatch.setattr(served.service, "speak", never)
    monkeypatch.setattr(module, "MOST_WAITING", 20)

    async def run() -> str:
        url = served.url.replace("http", "ws") + "/v1/audio/speech/live"
        async with asyncio.timeout(SECONDS), websockets.connect(url) as socket:
            with contextlib.suppress(websockets.ConnectionClosed):
                for each in [START, *text("One two."), *[{"type": "flush"}] * 30]:
                    await socket.send(json.dumps(each))
                async for _ in socket:
                    pass
            return str(socket.close_reason)

    assert "waiting to be spoken" in asyncio.run(run())


def test_a_fault_is_told_while_the_client_waits(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any, **__: Any) -> Any:
        raise ApiError(503, "all is full", code="queue_full", retry=1)
        yield

    monkeypatch.setattr(served.service, "speak", full)
    told, _ = session(served, [START, *text("One two."), {"type": "flush"}])
    assert told[-1]["type"] == "error" and told[-1]["error"]["code"] == "queue_full"


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    async def run() -> None:
        url = served.url.replace("http", "ws") + "/v1/audio/speech/live"
        async with websockets.connect(url) as socket:
            await socket.send(json.dumps(START))
            await socket.send(json.dumps(text("a long sentence of it. " * 150)[0]))
            await socket.recv()
        for _ in range(500):
            if served.service.metrics.registry.get_sample_value("vivace_live_requests") == 0:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("its requests go on")

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_sentences_do_not_depend_on_how_the_text_comes(size: int) -> None:
    whole = 'He met Dr. Smith at 3.5 km. "Why?" she asked. Nobody knew.\n\nA new paragraph\n\nThe end'
    cutter = Cutter()
    found = [s for k in range(0, len(whole), size) for s in cutter.feed(whole[k : k + size])] + cutter.rest()
    assert found == [
        "He met Dr. Smith at 3.5 km.", '"Why?" she asked.', "Nobody knew.", "A new paragraph", "The end"
    ]  # fmt: skip


def test_text_without_an_end_is_cut_at_a_word() -> None:
    cutter = Cutter()
    found = cutter.feed("word " * 500) + cutter.rest()
    assert all(len(part) <= LONGEST for part in found)
    assert " ".join(found).split() == ["word"] * 500
