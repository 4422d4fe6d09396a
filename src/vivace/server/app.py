"""The server as an ASGI application: `create_app(settings)`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from vivace import __version__
from vivace.engine.fallback import Speaker
from vivace.engine.runner import Plan
from vivace.server import listen, live, page, speech
from vivace.server.guard import Guard
from vivace.server.metrics import Metrics
from vivace.server.service import Service, Settings
from vivace.server.wire import NO_JSON, PROBLEMS, ApiError, answer, problem

log = logging.getLogger(__name__)

LOOKED_AT = ["GET", "HEAD"]  # addresses that are watched from outside


def create_app(settings: Settings, speaker: Callable[[str, Path, Plan], Speaker] | None = None) -> FastAPI:
    """Raises VivaceError if a bundle cannot be opened; its processes start with the application's lifespan. `speaker`:
    see Service."""
    service = Service(settings, speaker)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        async with running(service):
            yield

    app = FastAPIOffline(  # its interface page brings its own scripts: nothing is fetched from elsewhere
        title="Vivace", version=__version__, summary="Text to speech, as OpenAI's interface does it.", lifespan=life
    )
    app.state.service = service
    app.add_middleware(Guard, settings=settings, errors=service.metrics.errors)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Vivace-Variant", "Server-Timing"],
        )  # fmt: skip
    app.include_router(speech.router)
    app.include_router(live.router)
    app.include_router(page.router)
    app.include_router(page.assets)
    if settings.listen:
        listen.add(app, settings.listen)
    _add_lists(app, service)
    _add_health(app, service)
    _add_errors(app)
    return app


def create_listening_app(paths: Sequence[Path]) -> FastAPI:
    """Listening tests and nothing else. Raises UsageError for a file that is none."""
    app = FastAPI(title="Vivace", version=__version__, openapi_url=None)
    app.add_middleware(Guard, settings=Settings({}), errors=Metrics().errors)
    app.include_router(page.assets)
    listen.add(app, paths)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    _add_errors(app)
    return app


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """The processes behind the application, from warm to ended. Raises VivaceError if one cannot start."""
    server: asyncio.Server | None = None
    try:
        await service.start()
        if service.settings.wyoming:
            from vivace.server import wyoming

            server = await wyoming.start(service, service.settings.wyoming)
            log.info("Wyoming on %s port %d", *server.sockets[0].getsockname()[:2])
        yield
    finally:
        if server:
            server.close()
        await service.stop()


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", responses=PROBLEMS)
    async def models() -> dict[str, Any]:
        """The models, and the variants that may speak for each, best first."""
        return {"object": "list", "data": [_shown(service, name) for name in service.models]}

    @app.get("/v1/models/{name}", responses=PROBLEMS)
    async def model(name: str) -> dict[str, Any]:
        return _shown(service, service.model(name).name)

    @app.get("/v1/audio/voices", responses=PROBLEMS)
    async def voices() -> dict[str, Any]:
        """All voices, by model."""
        found = [(m, voice) for m in service.models.values() for voice in m.voices]
        return {"voices": [{"id": voice, "name": voice, "model": m.name} for m, voice in found]}


def _shown(service: Service, name: str) -> dict[str, Any]:
    model = service.models[name]
    variants = [{"name": v.name, "up": v.runner.alive, "breaker": v.breaker.state} for v in model.chain.variants]
    shown = {"id": name, "object": "model", "created": model.created, "owned_by": "vivace"}
    return {**shown, "loaded": service.budget.loaded(name), "variants": variants}


def _add_health(app: FastAPI, service: Service) -> None:
    @app.api_route("/health/live", methods=LOOKED_AT, include_in_schema=False)
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.api_route("/health/ready", methods=LOOKED_AT, include_in_schema=False)
    async def ready() -> JSONResponse:
        """200 when every model has a variant that is warm and well; `problem` says what is wrong."""
        trouble = service.trouble
        told = {"status": "not ready" if trouble else "ready"}
        if problem := "; ".join(filter(None, (trouble, service.problem))):
            told["problem"] = problem
        return JSONResponse(told, 503 if trouble else 200)

    @app.api_route("/metrics", methods=LOOKED_AT, include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:  # noqa: ARG001
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            return answer(ApiError(400, NO_JSON))
        return answer(problem(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        known = {404: f"there is no {request.url.path[:80]}", 405: f"{request.method} is not for this address"}
        found = answer(ApiError(error.status_code, known.get(error.status_code, str(error.detail))))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        return answer(ApiError(500, "an error of the server; its log has it"))
