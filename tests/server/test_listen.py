"""Listening tests over HTTP: what a listener may, and what nobody may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

from listening.panel import Clock, make  # noqa: E402
from vivace.core.errors import UsageError  # noqa: E402
from vivace.listening.design import Design  # noqa: E402
from vivace.listening.results import results  # noqa: E402
from vivace.listening.store import LISTENER, OWNER, Store  # noqa: E402
from vivace.server.app import create_app, create_listening_app  # noqa: E402
from vivace.server.service import Settings  # noqa: E402


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[TestClient, Store, Clock]]:
    store, clock = make(tmp_path, Design("preference", "which", 0.1), texts=6)
    app = create_listening_app([store.path])
    app.state.listening = {store.id: store}  # with the clock that the test holds
    with TestClient(app) as client:
        yield client, store, clock


def link(store: Store, days: float = 1, role: str = LISTENER, who: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {store.token(role, who or str(store.invite()), days)}"}


def test_a_whole_test_that_stops_half_way_and_goes_on(door: Any) -> None:
    client, store, clock = door
    mine = link(store)
    trials = client.get("/listen/api/test", headers=mine).json()["trials"]
    assert trials == [{"clips": 2, "answer": None}] * 12
    for k in range(5):
        for side in (0, 1):
            clip = client.get(f"/listen/api/clip/{k}/{side}", headers=mine)
            assert clip.status_code == 200 and clip.headers["content-type"] == "audio/flac"
            assert clip.headers["cache-control"] == "no-store" and "content-disposition" not in clip.headers
        clock.now += 9
        assert client.post("/listen/api/rating", json={"trial": k, "answer": 0}, headers=mine).json() == {"kept": k}
    again = TestClient(create_listening_app([store.path]))
    again.app.state.listening = {store.id: store}  # type: ignore[attr-defined]
    found = [t["answer"] for t in again.get("/listen/api/test", headers=mine).json()["trials"]]
    assert found == [0] * 5 + [None] * 7


def test_nothing_that_a_listener_gets_names_a_system(door: Any) -> None:
    client, store, _ = door
    mine = link(store)
    answer = client.get("/listen/api/test", headers=mine)
    told = answer.text + str(answer.headers) + str(client.get("/listen/api/clip/0/0", headers=mine).headers)
    assert "old" not in told.replace("threshold", "") and "new" not in told and "digest" not in told


def test_the_same_clip_rated_twice_counts_once_and_the_last_answer_holds(door: Any) -> None:
    client, store, _ = door
    mine = link(store)
    for answer in (-1, 1, 0):
        assert client.post("/listen/api/rating", json={"trial": 3, "answer": answer}, headers=mine).status_code == 200
    assert [a.answer for a in store.answers() if a.answer is not None] == [0]


@pytest.mark.parametrize("path", ["test", "clip/0/0", "rating", "comment"])
def test_forged_foreign_and_expired_links(door: Any, path: str) -> None:
    client, store, clock = door
    good = link(store)["Authorization"]
    other_role = link(store, role=OWNER, who="all")["Authorization"]
    nobody = f"Bearer {store.token(LISTENER, '99', 1)}"
    longer = ".".join([*good.split(".")[:2], "9999999999", good.split(".")[3]])
    cases = [
        None,
        "",
        "Bearer",
        "Bearer x",
        good[:-3] + "AAA",
        longer,
        other_role,
        nobody,
        good.replace("-1", "-2"),
        "é",
    ]

    def call(token: str | None) -> Any:
        headers = {} if token is None else {"Authorization": token.encode()}
        body = {"rating": {"trial": 0, "answer": 0}, "comment": {"comment": "x"}}.get(path)
        address = f"/listen/api/{path}"
        return client.post(address, json=body, headers=headers) if body else client.get(address, headers=headers)

    for token in cases:
        answer = call(token)
        assert answer.status_code == 403, token
        assert answer.json()["error"]["code"] == "link_refused"
    assert call(good).status_code == 200
    clock.now += 86_401
    assert call(good).status_code == 403 and "expired" in call(good).json()["error"]["message"]
    assert sum(a.answer is not None for a in store.answers()) == (path == "rating")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"trial": 0, "answer": 2}, 404),
        ({"trial": 12, "answer": 0}, 404),
        ({"trial": -1, "answer": 0}, 400),
        ({"trial": 0, "answer": 0.5}, 400),
        ({"trial": 0, "answer": True}, 400),
        ({"trial": "0", "answer": 0}, 400),
        ({"trial": 0, "answer": 0, "listener": 2}, 400),
        ({"trial": 10**30, "answer": 0}, 400),
        ([], 400),
        ({}, 400),
    ],
)
def test_ratings_that_are_none(door: Any, body: Any, status: int) -> None:
    client, store, _ = door
    assert client.post("/listen/api/rating", json=body, headers=link(store)).status_code == status
    assert all(a.answer is None for a in store.answers())


def test_comments_stay_text_and_short(door: Any) -> None:
    client, store, _ = door
    mine, bad = link(store), "<img src=x onerror=alert(1)>"
    assert client.post("/listen/api/comment", json={"comment": bad}, headers=mine).status_code == 200
    for comment in ("", "x" * 2001, None, ["x"]):
        assert client.post("/listen/api/comment", json={"comment": comment}, headers=mine).status_code == 400
    large = client.post("/listen/api/comment", content=b"x" * 300_000, headers=mine)
    assert large.status_code == 413
    owner = link(store, role=OWNER, who="all")
    assert client.get("/listen/api/results", headers=owner).json()["comments"] == [[1, bad]]


def test_results_are_for_those_who_were_given_the_link(door: Any) -> None:
    client, store, _ = door
    assert client.get("/listen/api/results", headers=link(store)).status_code == 403
    assert client.get("/listen/api/results").status_code == 403
    found = client.get("/listen/api/results", headers=link(store, role=OWNER, who="all")).json()
    assert found["ratings"] == results(store).ratings == 0 and found["comparisons"][0]["difference"] is None


def test_clips_that_are_not_there(door: Any) -> None:
    client, store, _ = door
    mine = link(store)
    for path in ("12/0", "0/2", "99999999999999999999/0", "-1/0", "x/0", "0/..%2F..%2Ft"):
        assert client.get(f"/listen/api/clip/{path}", headers=mine).status_code in (400, 404), path


def test_beside_voices_listeners_need_no_key_and_no_rate(make_variant: Callable[..., Path], tmp_path: Path) -> None:
    store, _ = make(tmp_path, Design("acr", "which", 0.2), texts=4)
    store = Store(store.path)
    settings = Settings({"toy": [make_variant("one")]}, keys=("key",), per_minute=1, listen=(store.path,))
    client = TestClient(create_app(settings))  # no lifespan: no voice is needed
    mine = link(store)
    assert [client.get("/listen/api/test", headers=mine).status_code for _ in range(4)] == [200] * 4
    assert client.get("/v1/models").status_code == 401
    with pytest.raises(UsageError, match="named twice"):
        create_listening_app([store.path, store.path])
