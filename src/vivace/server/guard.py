"""What stands before every request: keys, the rate of a client, the size of a body and how long it may take to come."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections import OrderedDict

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.server.service import Settings
from vivace.server.wire import ApiError, answer

log = logging.getLogger(__name__)
LISTENERS = "/listen/api/"
MOST_CLIENTS = 10_000  # whose rate is remembered


class Guard:
    """ASGI middleware for all below /v1, and for what listeners send: they bring signed links instead of keys."""

    def __init__(self, app: ASGIApp, settings: Settings, errors: Counter) -> None:
        """`errors` counts all answers that are none, by their status."""
        self._app, self._settings, self._errors = app, settings, errors
        self._keys = [key.encode() for key in settings.keys]
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when that was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not scope["path"].startswith(("/v1/", LISTENERS)):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._errors.labels(str(message["status"])).inc()
            await send(message)

        try:
            if scope["type"] == "websocket":
                self._check_origin(headers)
            if not scope["path"].startswith(LISTENERS):
                self._count(self._client(scope, headers))
            if scope["type"] == "http":
                receive = await self._whole_body(headers, receive)
        except ApiError as error:
            if scope["type"] == "websocket":
                log.info("a WebSocket was refused: %s", error.message)
                self._errors.labels(str(error.status)).inc()
                await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
                return
            await answer(error)(scope, receive, counted)
            return
        stall = self._settings.stall_seconds

        async def patient(message: Message) -> None:
            async with asyncio.timeout(stall):
                await counted(message)

        try:
            await self._app(scope, receive, patient)
        except TimeoutError:
            log.info("a client did not read for %g s and was cut off", stall)

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Browsers let every page open WebSockets, whatever CORS says. Raises ApiError for pages of others."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = headers.get(b"host", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != own and origin not in self._settings.origins:
            raise ApiError(403, "web pages of this origin may not call; allow it with --origin")

    def _client(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """Its key, or its address where no keys are asked for. Raises ApiError."""
        if not self._keys:
            return str((scope.get("client") or ("", 0))[0])
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        given = given.strip() if scheme.lower() == b"bearer" else b""
        matches = [hmac.compare_digest(given, key) for key in self._keys]  # all of them: time tells nothing
        if not any(matches):
            raise ApiError(
                401, "missing or wrong API key; send it as Authorization: Bearer KEY", code="invalid_api_key"
            )
        return f"key {matches.index(True)}"

    def _count(self, client: str) -> None:
        """A token bucket that holds a minute's requests."""
        rate = self._settings.per_minute / 60
        if not rate:
            return
        now, most = time.monotonic(), max(1.0, self._settings.per_minute)
        left, then = self._buckets.pop(client, (most, now))
        left = min(most, left + rate * (now - then))
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = math.ceil((1 - left) / rate)
            raise ApiError(429, f"more than {most:g} requests a minute", code="rate_limit_exceeded", retry=wait)

    async def _whole_body(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """Reads the body, within its limits. Raises ApiError."""
        most = self._settings.body_bytes
        too_large = ApiError(413, f"the body is larger than {most:,} bytes", code="body_too_large")
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > most:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        parts.append(b"")
                        break
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = bool(message.get("more_body"))
                    if size > most:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, "the body took too long to come", code="timeout") from None
        whole: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def again() -> Message:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()

        return again
