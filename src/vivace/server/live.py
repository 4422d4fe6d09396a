"""A WebSocket that takes text while it is being written (by a language model, say), and speaks it sentence by sentence.

The client sends JSON: `start` (model, voice, response_format, speed, seed, variant) once, `text` as it comes, `flush`
to have what is there spoken, `cancel` to silence it and forget the rest (barge-in), `end` when there is no more. It
gets JSON (`started`, `sentence`, `flushed`, `cancelled`, `done`, `error`) and binary messages, which hold the audio:
one stream until a flush, a cancel or the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.websockets import WebSocketState
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from vivace.core import registry
from vivace.core.audio import Audio
from vivace.core.errors import TextError, VivaceError
from vivace.core.speech import FIRST_CHUNK, Request
from vivace.server.encode import PCM_RATE, encoder
from vivace.server.metrics import Stopwatch
from vivace.server.service import Model, Service
from vivace.server.wire import ApiError, Format, Lenient, problem

log = logging.getLogger(__name__)
router = APIRouter()
LONGEST = 600  # characters without an end of sentence, after which a clause or a word is one
MOST_WAITING = 20_000  # characters that were not spoken yet
_BLANK_LINE = re.compile(r"\n\s*\n")


class Start(Lenient):
    type: Literal["start"]
    model: str = Field(default="tts-1", max_length=200)
    voice: str = Field(default="", max_length=200)
    response_format: Format = "pcm"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    variant: str = Field(default="", max_length=200)


class Text(BaseModel):
    type: Literal["text"]
    text: str = Field(max_length=4096)


class Word(BaseModel):
    type: Literal["flush", "cancel", "end"]


_MESSAGE: TypeAdapter[Start | Text | Word] = TypeAdapter(Annotated[Start | Text | Word, Field(discriminator="type")])


class Cutter:
    """Gives sentences as soon as they are sure to have ended: when the next one has begun, or a blank line."""

    def __init__(self) -> None:
        self._split = registry.load("text", "piper").split
        self._text = ""

    def feed(self, text: str) -> list[str]:
        *ended, rest = _BLANK_LINE.split(self._text + text)
        found = [sentence for paragraph in ended for sentence in self._split(paragraph, limit=LONGEST)]
        rest = " ".join(rest.split()) + rest[len(rest.rstrip()) :][-2:]  # a blank line may be half there
        sentences = list(self._split(rest, limit=LONGEST))
        if len(sentences) > 1:
            found += sentences[:-1]
            rest = rest[rest.rindex(sentences[-1]) :]
        self._text = rest
        return found

    def rest(self) -> list[str]:
        text, self._text = self._text, ""
        return list(self._split(text, limit=LONGEST))


async def said(service: Service, model: Model, request: Request, only: str = "") -> AsyncGenerator[Audio, None]:
    """The audio of one sentence; nothing for one that holds no speech, such as a lone bracket."""
    watch, outcome, variant = Stopwatch(service.metrics, model.name, time.perf_counter()), "cancelled", "nobody"
    told = f" {request.text!r}" if service.settings.log_text else ""
    log.info("%s: a sentence of %d characters for %s%s", request.id, len(request.text), model.name, told)
    try:
        async with contextlib.aclosing(service.speak(model, request, only=only)) as events:
            async for variant, event in events:
                if event.audio is not None:
                    watch.chunk(variant, event.audio.seconds, time.perf_counter())
                    yield event.audio
        outcome = "ok"
    except VivaceError as error:
        outcome = "refused" if isinstance(error, TextError) else "broken"
        if not any(letter.isalnum() for letter in request.text):
            return
        raise ApiError(500, str(error)) from None
    except ApiError:
        outcome = "error"
        raise
    finally:
        now = time.perf_counter()
        watch.end(outcome, now)
        log.info("%s: %s by %s, %s", request.id, outcome, variant, watch.told(now))


class Reading:
    """One client's session."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket, self._service = socket, service
        self._cutter = Cutter()
        self._waiting: asyncio.Queue[str | Word] = asyncio.Queue()
        self._unspoken = 0
        self._speaking: set[asyncio.Task[None]] = set()  # none or one
        self._start: Start | None = None
        self._model: Model | None = None
        self._voice = self._variant = ""
        self._count = 0
        self._ended = self._over = False  # the client has said all; nothing more will be spoken

    async def run(self) -> None:
        """Until the client has said `end` and all is spoken, or something is wrong."""
        hearing = asyncio.create_task(self._socket.receive_text())
        try:
            while not self._over:
                await asyncio.wait({hearing, *self._speaking}, return_when=asyncio.FIRST_COMPLETED)
                if any(task.done() for task in self._speaking):
                    for task in self._speaking:
                        task.result()  # raises what it met
                    return
                message = _MESSAGE.validate_json(hearing.result())
                hearing = asyncio.create_task(self._socket.receive_text())
                await self._take(message)
        except ValidationError as error:
            await self._tell_error(problem(list(error.errors())))
        except KeyError:  # a binary message has no text
            await self._tell_error(ApiError(400, "send JSON as text"))
        except VivaceError as error:
            await self._tell_error(ApiError(500, str(error)))
        except ApiError as error:
            await self._tell_error(error)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            await self._silence()

    async def _take(self, message: Start | Text | Word) -> None:
        """Raises ApiError."""
        if isinstance(message, Start):
            if self._start:
                raise ApiError(400, "start was sent twice")
            model = self._service.model(message.model)
            self._voice, self._variant = model.voice(message.voice), model.variant(message.variant)
            self._start, self._model = message, model
            rate = PCM_RATE if message.response_format == "pcm" else model.bundle.sample_rate
            await self._tell("started", model=model.name, sample_rate=rate, response_format=message.response_format)
            self._speaking = {asyncio.create_task(self._speak(message))}
        elif not self._start:
            raise ApiError(400, "send start first")
        elif isinstance(message, Word) and message.type == "cancel":
            await self._silence()
            await self._tell("cancelled")
            self._over = self._ended
            self._cutter, self._waiting, self._unspoken = Cutter(), asyncio.Queue(), 0
            self._speaking = {asyncio.create_task(self._speak(self._start))}
        elif self._ended:
            return  # what comes after the end is not for us
        elif isinstance(message, Text):
            if self._unspoken + len(message.text) > MOST_WAITING:
                waiting = f"more than {MOST_WAITING:,} characters are waiting to be spoken"
                raise ApiError(429, f"{waiting}; send less ahead of the audio")
            self._put(await asyncio.to_thread(self._cutter.feed, message.text))
        else:
            if self._waiting.qsize() >= MOST_WAITING:  # flushes
                raise ApiError(429, "too much is waiting to be spoken; send less ahead of the audio")
            self._put(self._cutter.rest())
            self._waiting.put_nowait(message)
            self._ended = message.type == "end"

    def _put(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self._unspoken += len(sentence)
            self._waiting.put_nowait(sentence)

    async def _speak(self, start: Start) -> None:
        """All that waits, until the end."""
        assert self._model
        opened = partial(asyncio.to_thread, encoder, start.response_format, self._model.bundle.sample_rate)
        codec = await opened()
        while True:
            sentence = await self._waiting.get()
            if isinstance(sentence, Word):
                if rest := codec.finish():
                    await self._socket.send_bytes(rest)
                await self._tell("flushed" if sentence.type == "flush" else "done")
                if sentence.type == "end":
                    return
                codec = await opened()
                continue
            await self._tell("sentence", text=sentence.strip())
            request = Request(
                uuid.uuid4().hex, sentence, voice=self._voice, speed=start.speed, seed=start.seed + self._count,
                chunk_frames=FIRST_CHUNK,
            )  # fmt: skip
            self._count += 1
            async with contextlib.aclosing(said(self._service, self._model, request, self._variant)) as pieces:
                async for audio in pieces:
                    if made := await asyncio.to_thread(codec.encode, audio):
                        await self._socket.send_bytes(made)
            self._unspoken -= len(sentence)

    async def _silence(self) -> None:
        for task in self._speaking:
            task.cancel()
        await asyncio.gather(*self._speaking, return_exceptions=True)
        self._speaking = set()

    async def _tell(self, kind: str, **more: Any) -> None:
        await self._socket.send_json({"type": kind, **more})

    async def _tell_error(self, error: ApiError) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.send_json({"type": "error", **error.body()})
            await self._socket.close(1008, error.message.encode()[:120].decode(errors="ignore"))


@router.websocket("/v1/audio/speech/live")
async def live(socket: WebSocket) -> None:
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        await Reading(socket, socket.app.state.service).run()
        if socket.application_state is WebSocketState.CONNECTED:  # not closed with an error
            await socket.close()
