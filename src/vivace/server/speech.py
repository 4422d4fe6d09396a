"""POST /v1/audio/speech: text in, audio out as it is made."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, cast
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from vivace.core.audio import Audio, join
from vivace.core.errors import TextError, UsageError
from vivace.core.speech import FIRST_CHUNK, Event
from vivace.core.speech import Request as Asked
from vivace.engine.fallback import Broken
from vivace.server.encode import MEDIA, WHOLE, Encoder, encoder, whole
from vivace.server.metrics import Stopwatch
from vivace.server.service import Service
from vivace.server.wire import PROBLEMS, ApiError, Format, Speech, parsed

Piece = tuple[str, Audio, dict[str, float]]  # the variant that made it, and when it did what

log = logging.getLogger(__name__)
router = APIRouter()

PART = 65_536  # bytes sent at once, so that a client that does not read is seen
CHEAP: tuple[Format, ...] = ("wav", "pcm")  # other encoders work in a thread, so as not to hold up others' audio
HEAD_START = 0.005  # seconds for the voice, before an encoder is opened: what is turned away by then needs none
LOOK = 0.1  # seconds between two looks whether a client that waits for audio has left
GONE = 499  # nginx's number for a client that did not wait; nobody reads it
HERE = "#/paths/~1v1~1audio~1speech/post/requestBody/content/application~1json/schema/$defs/{model}"
SCHEMA = Speech.model_json_schema(ref_template=HERE)
AUDIO = {media: {"schema": {"type": "string", "format": "binary"}} for media in (*MEDIA.values(), "text/event-stream")}


@router.post(
    "/v1/audio/speech",
    response_class=Response,
    responses={200: {"description": "Audio, as it is made.", "content": AUDIO}, **PROBLEMS},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}},
)
async def speech(request: Request) -> Response:
    """Speaks a text, as OpenAI's interface of the same name does."""
    arrived = time.perf_counter()
    # FastAPI's own way to a body takes twice as long.
    body = parsed(Speech, request.headers.get("content-type", ""), await request.body())
    service: Service = request.app.state.service
    model = service.model(body.model)
    only = model.variant(body.variant)
    at_once = body.stream_format is None and body.response_format in WHOLE
    try:
        asked = Asked(
            uuid.uuid4().hex, body.input, voice=model.voice(body.voice_id), speed=body.speed, seed=body.seed,
            chunk_frames=FIRST_CHUNK, whole=at_once,
        )  # fmt: skip
    except UsageError as error:
        raise ApiError(400, str(error)) from None
    told = f" {asked.text!r}" if service.settings.log_text else ""
    log.info("%s: %d characters for %s as %s%s", asked.id, len(asked.text), model.name, body.response_format, told)
    events = service.speak(model, asked, only=only)
    watch = Stopwatch(service.metrics, model.name, arrived)
    pieces = _pieces(events, asked, watch, request, lambda: service.stopping)
    rate = model.bundle.sample_rate
    opening = None if at_once else asyncio.create_task(_opened(body.response_format, rate))
    if opening:
        opening.add_done_callback(_seen)
    try:
        first = await _unless_gone(pieces, request)
        codec = await opening if first and opening else None
    except BaseException:
        await pieces.aclose()
        raise
    finally:
        if opening:
            opening.cancel()
    if first is None:
        return Response(status_code=GONE)
    variant, audio, times = first
    headers = {"X-Request-Id": asked.id, "X-Vivace-Variant": quote(variant), "Cache-Control": "no-store"}
    if times:  # what the engine itself took to its first audio, as W3C's Server Timing writes it
        headers["Server-Timing"] = f"engine;dur={1000 * (times['first_audio'] - times['queued']):.2f}"
    spoken = _from(audio, pieces)
    media = MEDIA[body.response_format]
    if codec is None:
        made = join([piece async for piece in spoken])
        content = await asyncio.to_thread(whole, body.response_format, made)
        headers["Content-Length"] = str(len(content))
        parts = (content[k : k + PART] for k in range(0, len(content), PART))
        return StreamingResponse(parts, media_type=media, headers=headers)
    if body.stream_format == "sse":
        return Stream(_events(spoken, body, codec), media_type="text/event-stream", headers=headers)
    return Stream(_encoded(spoken, body, codec), media_type=media, headers=headers)


class Stream(StreamingResponse):
    """Frees what speaks as soon as the client is served, has left or was cut off."""

    def __init__(self, content: AsyncGenerator[bytes | str, None], media_type: str, headers: dict[str, str]) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:  # without Starlette's second task that waits for the client to leave: _pieces looks at every event
            await self.stream_response(send)
        finally:
            await self._content.aclose()


async def _pieces(
    spoken: AsyncGenerator[tuple[str, Event], None],
    asked: Asked,
    watch: Stopwatch,
    request: Request,
    stopping: Callable[[], bool],
) -> AsyncGenerator[Piece, None]:
    """The audio of a request. Stops where the client has left (or was cut off: the server is `stopping`); raises
    ApiError."""
    outcome, why, sounded = "cancelled", "", False
    try:
        async with contextlib.aclosing(spoken) as events:
            async for variant, event in events:
                if sounded and _left(request):  # until then _unless_gone looks
                    return
                if event.audio is not None:
                    sounded = True
                    watch.chunk(variant, event.audio.seconds, time.perf_counter())
                    yield variant, event.audio, event.times
                if event.done:
                    ended = "ok" if event.reason == "stop" else event.reason
                    log.info("%s: %s by %s, %s", asked.id, ended, variant, watch.told(time.perf_counter()))
        outcome = "ok"
    except TextError as error:
        outcome = "refused"  # the error may hold some of the text
        raise ApiError(400, str(error), param="input") from None
    except ApiError as error:
        outcome, why = "rejected" if error.code == "queue_full" else "broken" if sounded else "error", str(error)
        raise
    except Broken as error:
        outcome, why = "broken", str(error)
        raise
    except Exception as error:
        outcome, why = "broken" if sounded else "error", type(error).__name__  # what it says may hold the text
        raise
    finally:
        now = time.perf_counter()
        if outcome == "cancelled" and stopping():
            outcome, why = "broken", "the server ends"
        watch.end(outcome, now)
        if outcome != "ok":
            log.info("%s: %s after %s%s", asked.id, outcome, watch.told(now), f": {why}" if why else "")


async def _unless_gone(pieces: AsyncGenerator[Piece, None], request: Request) -> Piece | None:
    """The first piece; None if the client leaves before it is there."""

    async def next_piece() -> Piece | None:
        return await anext(pieces, None)

    first = asyncio.create_task(next_piece())
    try:
        while not (await asyncio.wait({first}, timeout=LOOK))[0]:
            if _left(request):
                return None
        if first.result() is None:
            raise ApiError(500, "the voice made no audio")
        return first.result()
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait({first})
        _seen(first)


def _left(request: Request) -> bool:
    """Whether the client has left. One step of what would wait for its next word: Starlette's own look cancels a scope
    of anyio's, at each event, which was a tenth of the server's work."""
    look = cast(Coroutine[Any, Any, Message], request.receive())
    try:
        look.send(None)
    except StopIteration as said:
        return bool(said.value["type"] == "http.disconnect")
    finally:
        look.close()
    return False


def _seen(task: asyncio.Task[Any]) -> None:
    """What went wrong in a task that nobody waits for any more, since its client has left, is no news."""
    if not task.cancelled():
        task.exception()


async def _opened(form: Format, rate: int) -> Encoder:
    """While the voice is at work."""
    await asyncio.sleep(HEAD_START)
    return encoder(form, rate) if form in CHEAP else await asyncio.to_thread(encoder, form, rate)


async def _from(first: Audio, rest: AsyncGenerator[Piece, None]) -> AsyncGenerator[Audio, None]:
    try:
        yield first
        async for _, audio, _ in rest:
            yield audio
    finally:
        await rest.aclose()


async def _encoded(audio: AsyncGenerator[Audio, None], body: Speech, codec: Encoder) -> AsyncGenerator[bytes, None]:
    cheap = body.response_format in CHEAP
    async with contextlib.aclosing(audio) as pieces:
        async for piece in pieces:
            made = codec.encode(piece) if cheap else await asyncio.to_thread(codec.encode, piece)
            if made:
                yield made
    if rest := codec.finish():
        yield rest


async def _events(audio: AsyncGenerator[Audio, None], body: Speech, codec: Encoder) -> AsyncGenerator[str, None]:
    """speech.audio.delta for each piece, speech.audio.done at the end; tokens are counted as characters and chunks of
    50 ms, since there are no others."""
    seconds = 0.0

    async def counted() -> AsyncGenerator[Audio, None]:
        nonlocal seconds
        async with contextlib.aclosing(audio) as pieces:
            async for piece in pieces:
                seconds += piece.seconds
                yield piece

    try:
        async with contextlib.aclosing(_encoded(counted(), body, codec)) as pieces:
            async for made in pieces:
                yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(made).decode()})
    except (Broken, ApiError) as error:
        told = error if isinstance(error, ApiError) else ApiError(500, str(error), code="broken")
        yield _event(told.body() | {"type": "error"})
        return
    usage = {"input_tokens": len(body.input), "output_tokens": round(20 * seconds)}
    usage["total_tokens"] = sum(usage.values())
    yield _event({"type": "speech.audio.done", "usage": usage})


def _event(body: dict[str, object]) -> str:
    return f"data: {json.dumps(body)}\n\n"
