"""Wyoming, by its own client: what there is, whole texts, and texts that come in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wyoming")
pytest.importorskip("fastapi")
pytest.importorskip("pysbd")

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from server.conftest import serving
from vivace.core.bundle import open_bundle
from vivace.core.speech import Request
from vivace.engine.engine import Engine, speak
from vivace.server.process import bind
from vivace.server.service import Settings


@pytest.fixture(scope="module")
def folder(make_variant: Callable[..., Path]) -> Path:
    return make_variant("one", voices=["ann", "bob"])


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    listening = bind("127.0.0.1", 0)
    with serving(Settings({"toy": [folder]}, wyoming=listening)):
        yield listening.getsockname()[1]


def asked(port: int, *events: Any, until: Callable[[str], bool]) -> list[Event]:
    """What the server answers."""

    async def run() -> list[Event]:
        found = []
        async with asyncio.timeout(30), AsyncTcpClient("127.0.0.1", port) as client:
            for event in events:
                await client.write_event(event.event() if hasattr(event, "event") else event)
            while (event := await client.read_event()) is not None:
                found.append(event)
                if until(event.type):
                    break
        return found

    return asyncio.run(run())


def samples(events: list[Event]) -> np.ndarray:
    chunks = [AudioChunk.from_event(e) for e in events if AudioChunk.is_type(e.type)]
    assert {(c.rate, c.width, c.channels) for c in chunks} == {(8000, 2, 1)}
    return np.concatenate([np.frombuffer(c.audio, "<i2") for c in chunks])


def test_what_there_is(port: int) -> None:
    info = Info.from_event(asked(port, Describe(), until=Info.is_type)[-1])
    [program] = info.tts
    assert program.name == "vivace" and program.installed and program.supports_synthesize_streaming
    [voice] = program.voices
    assert voice.name == "toy" and [s.name for s in voice.speakers or []] == ["ann", "bob"]


def test_a_whole_text(folder: Path, port: int) -> None:
    text = "One sentence. And another."
    voice = SynthesizeVoice(name="toy", speaker="bob")
    events = asked(port, Synthesize(text, voice), until=AudioStop.is_type)
    assert AudioStart.is_type(events[0].type)
    with Engine(open_bundle(folder)) as engine:
        said = speak(engine, Request("a", text, voice="bob"))
    assert np.array_equal(samples(events), np.frombuffer(said.pcm16(), "<i2"))


def test_a_text_in_pieces(port: int) -> None:
    pieces = [SynthesizeChunk(text) for text in ("One sen", "tence. And an", "other. ", "Third")]
    compatible = Synthesize("One sentence. And another. Third")  # for servers that cannot stream
    events = asked(port, SynthesizeStart(), *pieces, compatible, SynthesizeStop(), until=SynthesizeStopped.is_type)
    kinds = [event.type for event in events]
    assert kinds.count("audio-start") == kinds.count("audio-stop") == 1 and kinds[-2] == "audio-stop"
    assert len(samples(events)) > 0


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Synthesize("hello", SynthesizeVoice(name="nobody")), "known: toy"),
        (Synthesize("hello", SynthesizeVoice(name="toy", speaker="nobody")), "known: ann, bob"),
        (Event("synthesize", {}), "without 'text'"),
    ],
)
def test_what_cannot_be_is_said(port: int, event: Any, message: str) -> None:
    error = Error.from_event(asked(port, event, until=Error.is_type)[-1])
    assert message in error.text


def test_an_error_ends_what_was_begun(port: int) -> None:
    """Clients wait for the end of the audio."""
    events = asked(port, Synthesize("x" * 20_001), until=Error.is_type)
    assert "20,001 characters" in Error.from_event(events[-1]).text
    events = asked(port, SynthesizeStart(), SynthesizeChunk("x" * 20_001), until=Error.is_type)
    assert "20,001 characters" in Error.from_event(events[-1]).text
    pieces = [
        SynthesizeStart(SynthesizeVoice(name="toy")),
        SynthesizeChunk("One two. Three"),
        Event("synthesize-chunk", {}),
    ]
    kinds = [event.type for event in asked(port, *pieces, until=AudioStop.is_type)]
    assert kinds[0] == "audio-start" and kinds[-2:] == ["error", "audio-stop"]


def test_a_message_that_says_it_is_huge_is_not_believed(port: int) -> None:
    async def run() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'{"type": "describe", "payload_length": 50000000000}\n')
        return await asyncio.wait_for(reader.read(), 10)

    assert asyncio.run(run()) == b""


def test_a_client_that_talks_nonsense_or_leaves(port: int) -> None:
    async def nonsense() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await writer.drain()
        writer.close()

    asyncio.run(nonsense())
    assert samples(asked(port, Synthesize("hello"), until=AudioStop.is_type)).size
