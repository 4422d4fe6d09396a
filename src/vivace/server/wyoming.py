"""The Wyoming protocol, which Home Assistant speaks (https://github.com/rhasspy/wyoming): whole texts, and texts that
come in pieces. It knows no keys: for networks that are trusted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import uuid
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker
from wyoming.server import AsyncEventHandler
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from vivace import __version__
from vivace.core.errors import VivaceError
from vivace.core.speech import FIRST_CHUNK, Request
from vivace.server.live import Cutter, said
from vivace.server.service import Model, Service
from vivace.server.wire import ApiError

BY = Attribution("Vivace", "")
WIDTH, CHANNELS = 2, 1
MOST = 1 << 20  # bytes of a message
MOST_CHARACTERS = 20_000  # of a text that comes whole, or of a piece
log = logging.getLogger(__name__)


async def start(service: Service, listening: socket.socket) -> asyncio.Server:
    """The handlers share the service with HTTP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, EOFError):  # a client that leaves
                await Handler(reader, writer, service).run()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.info("a client that speaks no Wyoming: %r", error)

    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: asyncio.StreamReaderProtocol(_Reader(limit=MOST), serve), sock=listening)


class _Reader(asyncio.StreamReader):
    """Messages say themselves how long they are: this one believes no more than MOST."""

    async def readexactly(self, n: int) -> bytes:
        if n > MOST:
            raise ValueError(f"a message of {n:,} bytes")
        return await super().readexactly(n)


class Handler(AsyncEventHandler):
    """One client. A `synthesize` between start and stop is for clients that cannot stream: it is left out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service) -> None:
        super().__init__(reader, writer)
        self._service = service
        self._cutter: Cutter | None = None
        self._voice: SynthesizeVoice | None = None
        self._open = False

    async def handle_event(self, event: Event) -> bool:
        try:
            await self._handle(event)
        except (ApiError, VivaceError, KeyError) as error:
            self._cutter = None
            message = f"{event.type} without {error}" if isinstance(error, KeyError) else str(error)
            await self.write_event(Error(message, "tts").event())
            await self._stop()  # clients wait for it
        return True

    async def _handle(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write_event(_info(self._service).event())
        elif SynthesizeStart.is_type(event.type):
            self._cutter, self._voice = Cutter(), SynthesizeStart.from_event(event).voice
        elif SynthesizeChunk.is_type(event.type) and self._cutter:
            piece = _bounded(SynthesizeChunk.from_event(event).text)
            for sentence in await asyncio.to_thread(self._cutter.feed, piece):
                await self._speak(sentence, self._voice)
        elif SynthesizeStop.is_type(event.type) and self._cutter:
            for sentence in self._cutter.rest():
                await self._speak(sentence, self._voice)
            self._cutter = None
            await self._stop()
            await self.write_event(SynthesizeStopped().event())
        elif Synthesize.is_type(event.type) and not self._cutter:
            asked = Synthesize.from_event(event)
            await self._speak(_bounded(asked.text), asked.voice)
            await self._stop()

    async def _speak(self, text: str, voice: SynthesizeVoice | None) -> None:
        model, speaker = self._found(voice)
        request = Request(uuid.uuid4().hex, text, voice=speaker, chunk_frames=FIRST_CHUNK)
        rate = model.bundle.sample_rate
        if not self._open:
            await self.write_event(AudioStart(rate, WIDTH, CHANNELS).event())
            self._open = True
        async with contextlib.aclosing(said(self._service, model, request)) as pieces:
            async for audio in pieces:
                await self.write_event(AudioChunk(rate, WIDTH, CHANNELS, audio.pcm16()).event())

    async def _stop(self) -> None:
        if self._open:
            await self.write_event(AudioStop().event())
        self._open = False

    def _found(self, voice: SynthesizeVoice | None) -> tuple[Model, str]:
        models = self._service.models
        if voice is None or voice.name is None:
            return next(iter(models.values())), ""
        model = self._service.model(voice.name)
        return model, model.voice(voice.speaker or "")


def _bounded(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise ApiError(400, f"the text has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}")
    return text


def _info(service: Service) -> Info:
    def voice(model: Model) -> TtsVoice:
        speakers = [TtsVoiceSpeaker(name) for name in model.bundle.voices] or None
        language = str(model.bundle.defaults.get("language", "en")).replace("_", "-")
        known: dict[str, Any] = {"attribution": BY, "installed": True, "description": model.name, "version": None}
        return TtsVoice(name=model.name, languages=[language], speakers=speakers, **known)

    program = TtsProgram(
        name="vivace", attribution=BY, installed=True, description="Vivace", version=__version__,
        voices=[voice(model) for model in service.models.values()], supports_synthesize_streaming=True,
    )  # fmt: skip
    return Info(tts=[program])
