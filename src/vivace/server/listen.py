"""Listening tests over HTTP: a listener's link opens a page, asks for its clips and sends its answers.

Links are signed (see vivace.listening.links) and travel as `Authorization: Bearer TOKEN`. What a page is told names no
system. Every answer is on disk before it is confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from vivace.core.errors import UsageError
from vivace.listening.links import LinkRefused
from vivace.listening.results import results
from vivace.listening.store import OWNER, Closed, Store, trials_of
from vivace.server.page import HEADERS, PAGES, page
from vivace.server.wire import ApiError

router = APIRouter(include_in_schema=False)
Tests = dict[str, Store]


class Rating(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    trial: int = Field(ge=0, le=100_000)
    answer: int = Field(ge=-10, le=10)


class Comment(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    comment: str = Field(min_length=1, max_length=2000)


def tests_of(paths: Sequence[Path], clock: Callable[[], float] = time.time) -> Tests:
    """The tests by their ids. Raises UsageError for a file that is none."""
    stores = [Store(path, clock=clock) for path in paths]
    found = {store.id: store for store in stores}
    if len(found) < len(stores):
        raise UsageError("the same listening test is named twice")
    return found


def add(app: FastAPI, paths: Sequence[Path]) -> None:
    app.state.listening = tests_of(paths)
    app.include_router(router)


def _bearer(request: Request) -> tuple[Store, str]:
    """The test that a token names, and the token; nothing is believed yet. Raises ApiError."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    tests: Tests = request.app.state.listening
    parts = token.strip().split(".")
    test = tests.get(parts[1].partition("-")[0]) if scheme.lower() == "bearer" and len(parts) > 1 else None
    if test is None:
        raise ApiError(403, "this link is for no test here; open it again as it was sent", code="link_refused")
    return test, token.strip()


def _listener(request: Request) -> tuple[Store, int]:
    store, token = _bearer(request)
    try:
        return store, store.listener(token)
    except LinkRefused as error:
        raise ApiError(403, str(error), code="link_refused") from None


Listener = Annotated[tuple[Store, int], Depends(_listener)]


@router.get("/listen")
def start() -> Response:
    return page(PAGES["/listen"])


@router.get("/listen/results")
def read() -> Response:
    return page(PAGES["/listen/results"])


@router.get("/listen/api/test")
def test(listener: Listener) -> dict[str, Any]:
    """What this listener is asked, and what they have answered already."""
    store, who = listener
    return {"title": store.design.title, "kind": store.design.kind, "trials": trials_of(store.answers(who))}


@router.get("/listen/api/clip/{trial}/{side}")
def clip(trial: int, side: int, listener: Listener) -> Response:
    store, who = listener
    if side not in (0, 1):
        raise ApiError(404, "there is no such clip")
    data = _allowed(lambda: store.clip(who, min(trial, 10**6), side))
    return Response(data, media_type="audio/flac", headers=HEADERS | {"Cache-Control": "no-store"})


@router.post("/listen/api/rating")
def rate(rating: Rating, listener: Listener) -> dict[str, Any]:
    """The last answer to a trial counts, once."""
    store, who = listener
    _allowed(lambda: store.answer(who, rating.trial, rating.answer))
    return {"kept": rating.trial}


@router.post("/listen/api/comment")
def comment(said: Comment, listener: Listener) -> dict[str, Any]:
    store, who = listener
    _allowed(lambda: store.comment(who, said.comment))
    return {"kept": True}


@router.get("/listen/api/results")
def found(request: Request) -> dict[str, Any]:
    store, token = _bearer(request)
    try:
        store.admit(token, OWNER)
    except LinkRefused as error:
        raise ApiError(403, str(error), code="link_refused") from None
    return results(store).plain()


def _allowed(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except Closed as error:
        raise ApiError(404, str(error)) from None
