"""The server as a process: takes its ports, loads, speaks until it is told to stop, and ends what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from vivace.core.errors import MissingDependency, UsageError, VivaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vivace.server.replicas import Scale
    from vivace.server.service import Settings

log = logging.getLogger(__name__)


def serve(
    settings: Settings, host: str = "127.0.0.1", port: int = 8000, wyoming: int | None = None,
    scale: Scale | None = None, ray: str = "", ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serves until SIGINT or SIGTERM; a SIGINT after that ends it at once. For the main thread: it handles signals.
    `ready` is called with its address when it answers.

    With `scale`, replicas on Ray speak: on the one at the address `ray`, or on one of our own.

    Raises UsageError for a port that cannot be had, before anything is loaded; VivaceError for a model that cannot;
    MissingDependency without the extra `serve`, or `ray`.
    """
    try:
        import uvicorn

        from vivace.server.app import create_app, running
        from vivace.server.cluster import cluster
    except ImportError as error:
        raise MissingDependency(error.name or "fastapi", "serve") from None
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bind(host, port))
        if wyoming is not None:
            settings = replace(settings, wyoming=bind(host, wyoming))
        speaker = None
        if scale:
            log.info("starting Ray")
            beneath = stack.enter_context(cluster(scale, settings, ray))
            speaker = beneath.speaker
        app = create_app(settings, speaker)
        service = app.state.service
        if scale:
            stack.callback(beneath.watch(service).set)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=math.ceil(settings.grace), timeout_keep_alive=15, ws_max_size=65_536,
        )  # fmt: skip

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
                log.info("ready on %s: %s", url, ", ".join(settings.models))
                if ready:
                    ready(url)

            async def shutdown(self, sockets: Any = None) -> None:
                service.stopping = True  # nothing new, by any door, from now on
                await super().shutdown(sockets)
                if self.force_exit:
                    service.grace = 0.0

        async def speak() -> None:
            # By hand, not as the application's lifespan: what goes wrong is then one line, not uvicorn's traceback.
            async with running(service):
                for name in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what it was stopped by
                    signal.signal(name, signal.SIG_IGN)
                await Server(config).serve([listening])

        for name, paths in settings.models.items():
            log.info("loading %s: %s", name, ", ".join(path.name for path in paths))
        logging.getLogger("uvicorn.error").addFilter(_one_line)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGTERM, _terminated)
        try:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:  # uvloop, where it is
                runner.run(speak())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve_listening(tests: Sequence[Path], host: str = "127.0.0.1", port: int = 8000) -> None:
    """Lets listeners in until SIGINT or SIGTERM. Raises UsageError for a port that cannot be had or a file that is no
    listening test, MissingDependency without the extra `serve`."""
    try:
        import uvicorn

        from vivace.server.app import create_listening_app
    except ImportError as error:
        raise MissingDependency(error.name or "fastapi", "serve") from None
    app = create_listening_app(tests)
    with bind(host, port) as listening:
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=15)
        log.info("listeners are welcome on http://%s:%d", host, listening.getsockname()[1])
        uvicorn.Server(config).run([listening])


def bind(host: str, port: int) -> socket.socket:
    """A socket that nobody else listens on; nobody is answered yet. Raises UsageError."""
    if not 0 <= port < 65_536:
        raise UsageError(f"port {port} is none; it must lie between 0 and 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # those of a server that has just ended
        made.bind(address)
    except OSError as error:
        raise UsageError(f"{host} port {port} cannot be had: {error.strerror or error}; choose another") from None
    return made


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)  # so that the processes it has begun end with it


def _one_line(record: logging.LogRecord) -> bool:
    """A request that is cut off, because its variant died or the server ends, is told in a line."""
    from vivace.server.wire import ApiError

    error = record.exc_info[1] if record.exc_info else None
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if error and isinstance(error.__cause__, ApiError):  # Starlette has no answer left to put it into
        error = error.__cause__
    if isinstance(error, VivaceError | ApiError | asyncio.CancelledError):
        record.msg, record.args = "a request was cut off: %s", (str(error) or "the server ends",)
        record.exc_info = record.exc_text = None
    return True
