"""Lists, health, metrics; keys, limits and queues; clients that leave and processes that die."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from server.conftest import Served, ask, metric, serving, until  # noqa: E402
from vivace.core.audio import Audio  # noqa: E402
from vivace.core.errors import UsageError  # noqa: E402
from vivace.core.speech import Event, Request  # noqa: E402
from vivace.engine.fallback import Chain  # noqa: E402
from vivace.server import encode, process, speech  # noqa: E402
from vivace.server.app import create_app  # noqa: E402
from vivace.server.service import Service, Settings  # noqa: E402
from vivace.server.wire import ApiError  # noqa: E402

LONG = "a long text. " * 300
Make = Callable[..., Path]


def test_lists(served: Served) -> None:
    models = httpx.get(f"{served.url}/v1/models").json()
    assert models["object"] == "list" and [m["id"] for m in models["data"]] == ["toy", "other"]
    assert [v["name"] for v in models["data"][0]["variants"]] == ["fast", "safe"]
    assert httpx.get(f"{served.url}/v1/models/toy").json() == models["data"][0]
    assert httpx.get(f"{served.url}/v1/models/nobody").status_code == 404
    voices = httpx.get(f"{served.url}/v1/audio/voices").json()["voices"]
    assert [v["id"] for v in voices if v["model"] == "toy"] == ["ann", "bob"]


def test_health_and_the_interface(served: Served) -> None:
    assert httpx.get(f"{served.url}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{served.url}/health/ready").json() == {"status": "ready"}
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/audio/speech", "/v1/models", "/v1/models/{name}", "/v1/audio/voices", "/v1/evidence"}


def test_the_interfaces_page_fetches_nothing_from_elsewhere(served: Served) -> None:
    page = httpx.get(f"{served.url}/docs").text
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", page):
        assert address.startswith("/") and httpx.get(f"{served.url}{address}").status_code == 200
    assert "http" not in page.replace(served.url, "")


def test_an_address_that_is_not_there(served: Served) -> None:
    for method, path, status in [("GET", "/nothing", 404), ("GET", "/v1/audio/speech", 405), ("GET", "/v1/x/y", 404)]:
        answer = httpx.request(method, served.url + path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_metrics_count_what_was_spoken(served: Served) -> None:
    before = metric(served, "vivace_requests_total", model="toy", outcome="ok")
    ask(served)
    until(lambda: metric(served, "vivace_requests_total", model="toy", outcome="ok") == before + 1)
    page = httpx.get(f"{served.url}/metrics").text
    for name in ("vivace_ttfa_seconds_bucket", "vivace_rtf_sum", "vivace_audio_seconds_total", "vivace_live_requests"):
        assert name in page
    assert 'vivace_breaker_state{model="toy",variant="fast"} 0.0' in page
    assert metric(served, "vivace_variant_memory_bytes", model="toy", variant="fast") > 1e7


def test_the_log_says_how_a_request_ended_and_not_its_text(
    make_variant: Make, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Settings({"toy": [make_variant("one")]})) as served, caplog.at_level("INFO"):
        body = {"model": "toy", "input": LONG, "response_format": "pcm"}
        with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body, timeout=60) as answer:
            next(answer.iter_raw())
        until(lambda: metric(served, "vivace_live_requests") == 0)
        with monkeypatch.context() as full:
            full.setattr(served.service, "_live", 64)
            assert ask(served, "secret").status_code == 503
        assert ask(served, "%%%").status_code == 400
    said = " ".join(record.getMessage() for record in caplog.records)
    assert ": rejected after" in said and "as many requests as --queue allows" in said
    assert ": cancelled after" in said and ": refused after" in said
    assert "secret" not in said and "%%%" not in said


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/metrics"])
def test_who_looks_whether_it_is_there(served: Served, path: str) -> None:
    answer = httpx.head(served.url + path)
    assert answer.status_code == 200 and not answer.content


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    body = {"model": "toy", "input": LONG, "response_format": "pcm"}
    with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body, timeout=60) as answer:
        next(answer.iter_raw())
    until(lambda: metric(served, "vivace_live_requests") == 0)
    assert ask(served).status_code == 200


def test_a_client_that_leaves_before_any_audio_frees_its_place(served: Served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        body = {"model": "toy", "input": LONG, "response_format": "wav"}
        httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=httpx.Timeout(60, read=0.05))
    until(lambda: metric(served, "vivace_live_requests") == 0)


def test_a_full_queue_sends_away_and_loses_nothing(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, queue=4)) as served:

        async def all_at_once() -> list[Any]:
            async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=40)) as client:
                body = {"model": "toy", "input": LONG, "response_format": "pcm"}
                return await asyncio.gather(
                    *(client.post(f"{served.url}/v1/audio/speech", json=body) for _ in range(40))
                )

        answers = asyncio.run(all_at_once())
        good = [a for a in answers if a.status_code == 200]
        full = [a for a in answers if a.status_code == 503]
        assert len(good) >= 4 and len(good) + len(full) == 40 and full
        assert len({a.content for a in good}) == 1
        assert all(int(a.headers["Retry-After"]) >= 1 for a in full)
        assert full[0].json()["error"]["code"] == "queue_full"
        assert ask(served).status_code == 200


def test_what_is_turned_away_opens_no_encoder(make_variant: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def noting(form: Any, rate: int) -> Any:
        opened.append(form)
        return encode.encoder(form, rate)

    monkeypatch.setattr(speech, "encoder", noting)
    with serving(Settings({"toy": [make_variant("one")]}, queue=1, cores=1)) as served:
        client = threading.Thread(target=ask, args=(served, "a long text. " * 315))
        client.start()
        until(lambda: opened == ["pcm"])
        monkeypatch.setattr(speech, "HEAD_START", 60.0)
        assert [ask(served, response_format="mp3").status_code for _ in range(2)] == [503] * 2
        client.join()
        monkeypatch.setattr(speech, "HEAD_START", 0.0)
        assert ask(served, response_format="wav").status_code == 200  # made as one file
    assert opened == ["pcm"]


def test_an_encoder_that_fails_frees_its_place(make_variant: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(form: Any, rate: int) -> Any:
        raise MemoryError(form, rate)

    monkeypatch.setattr(speech, "encoder", failing)
    with serving(Settings({"toy": [make_variant("one")]})) as served:
        assert ask(served, LONG).status_code == 500
        until(lambda: metric(served, "vivace_live_requests") == 0)


def test_metrics_say_who_speaks_and_who_waits(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, cores=1)) as served:
        one = {"model": "toy", "variant": "one"}
        clients = [threading.Thread(target=ask, args=(served, LONG)) for _ in range(12)]
        for thread in clients:
            thread.start()
        until(lambda: metric(served, "vivace_variant_queue", **one) > 2)
        assert metric(served, "vivace_variant_slots", **one) == 1 >= metric(served, "vivace_variant_batch", **one)
        for thread in clients:
            thread.join()
        until(
            lambda: metric(served, "vivace_variant_batch", **one) == metric(served, "vivace_variant_queue", **one) == 0
        )


def test_a_deadline_ends_what_waits(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("slow")]}, deadline=0.02, cores=1)) as served:
        found = ask(served, LONG, response_format="wav")
        assert found.status_code == 504 and found.json()["error"]["code"] == "deadline"
        assert int(found.headers["Retry-After"]) >= 1
        until(lambda: metric(served, "vivace_live_requests") == 0)


def test_a_deadline_is_of_waiting_not_of_a_long_text(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    rests = [0.6, 0.6, 0.6, 0.6]

    async def speak(*_: Any, **__: Any) -> Any:
        for rest in rests:
            await asyncio.sleep(rest)
            yield "fast", Event("a", Audio(np.ones(9, np.float32), 9))

    async def heard() -> int:
        return len([event async for event in service.speak(service.models["toy"], Request("a", "a text"))])

    monkeypatch.setattr(Chain, "speak", speak)
    service = Service(replace(served.service.settings, deadline=1.2))
    monkeypatch.setattr(service, "budget", served.service.budget)
    assert asyncio.run(heard()) == 4
    rests[2] = 5.0
    with pytest.raises(ApiError, match=r"no audio for 1\.2 s"):
        asyncio.run(heard())


def test_a_stream_that_is_cut_is_one_line_in_the_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def speak(*_: Any, **__: Any) -> Any:
        yield "fast", Event("a", Audio(np.ones(9, np.float32), 9))
        raise ApiError(504, "there was no audio for 3 s", code="deadline")

    monkeypatch.setattr(served.service, "speak", speak)
    uvicorns = logging.getLogger("uvicorn.error")
    uvicorns.addFilter(process._one_line)
    caplog.set_level(logging.INFO)
    before = metric(served, "vivace_requests_total", model="toy", outcome="broken")
    with pytest.raises(httpx.RemoteProtocolError):
        ask(served)
    until(lambda: any("cut off" in r.getMessage() for r in caplog.records))
    uvicorns.removeFilter(process._one_line)
    assert [r.getMessage() for r in caplog.records if r.name == "uvicorn.error"] == [
        "a request was cut off: there was no audio for 3 s"
    ]
    assert not any(r.exc_info for r in caplog.records)
    assert metric(served, "vivace_requests_total", model="toy", outcome="broken") == before + 1


def test_refusals_are_counted_and_logged_without_the_text(make_variant: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(Settings({"toy": [make_variant("one")]}, keys=("first",))) as served:
        key = {"Authorization": "Bearer first"}
        assert ask(served).status_code == 401
        assert ask(served, model="nobody\n", headers=key).status_code == 404
        assert ask(served, "secret", speed=100, headers=key).status_code == 400
        assert ask(served, "secret " * 1000, headers=key).status_code == 400
        assert ask(served, headers=key).status_code == 200
        counts = {status: metric(served, "vivace_http_errors_total", status=status) for status in ("401", "404", "400")}
    assert counts == {"401": 1, "404": 1, "400": 2}
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("answered ")]
    assert [line[:12] for line in told] == ["answered 401", "answered 404", "answered 400", "answered 400"]
    assert "API key" in told[0] and "speed" in told[2] and not any("secret" in line or "\n" in line for line in told)
    assert any(re.search(r": ok by one, \d", r.getMessage()) for r in caplog.records)


def test_keys(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, keys=("first", "second"))) as served:
        for headers, status in [
            ({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Bearer second"}, 200),
            ({"Authorization": "Bearer"}, 401), ({"Authorization": "second"}, 401),
            ({"Authorization": "bearer first"}, 200),
        ]:  # fmt: skip
            answer = ask(served, headers=headers)
            assert answer.status_code == status
            if status == 401:
                assert answer.json()["error"]["type"] == "authentication_error"
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert httpx.get(f"{served.url}/v1/models").status_code == 401
        assert httpx.get(f"{served.url}/health/ready").status_code == 200


def test_the_rate_of_a_client(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, per_minute=3)) as served:
        answers = [ask(served) for _ in range(5)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
        assert answers[-1].json()["error"]["type"] == "rate_limit_error"


def test_bodies_too_large_or_too_slow(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, body_seconds=0.5)) as served:
        large = httpx.post(f"{served.url}/v1/audio/speech", content=b"x" * 50_000_000, timeout=60)
        assert large.status_code == 413 and large.json()["error"]["code"] == "body_too_large"

        def parts() -> Any:
            for _ in range(600):
                yield b"x" * 1000

        assert httpx.post(f"{served.url}/v1/audio/speech", content=parts(), timeout=60).status_code == 413
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as slow:
            slow.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert b" 408 " in slow.recv(1000).splitlines()[0]
        assert ask(served).status_code == 200


def test_a_client_that_does_not_read_is_cut_off(make_variant: Make) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, stall_seconds=0.5)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        body = json.dumps(
            {"model": "toy", "input": "long words. " * 340, "response_format": "pcm", "speed": 0.25}
        ).encode()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((host, int(port)))
            head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            slow.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: metric(served, "vivace_live_requests") == 1)
            until(lambda: metric(served, "vivace_live_requests") == 0)
        assert metric(served, "vivace_requests_total", model="toy", outcome="ok") == 0
        assert ask(served).status_code == 200


def test_web_pages_may_call_only_if_allowed(make_variant: Make, served: Served) -> None:
    origin = {"Origin": "https://page.example"}
    assert "access-control-allow-origin" not in httpx.get(f"{served.url}/v1/models", headers=origin).headers
    with serving(Settings({"toy": [make_variant("one")]}, origins=("https://page.example",))) as open_to:
        answer = httpx.get(f"{open_to.url}/v1/models", headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"


@pytest.mark.parametrize(("origin", "welcome"), [("https://page.example", True), ("https://other.example", False)])
def test_web_sockets_too(make_variant: Make, origin: str, welcome: bool) -> None:
    websockets = pytest.importorskip("websockets")

    async def run(url: str, **more: Any) -> str:
        async with websockets.connect(f"{url}/v1/audio/speech/live", **more) as socket:
            await socket.send('{"type": "start"}')
            return json.loads(await socket.recv())["type"]

    with serving(Settings({"toy": [make_variant("one")]}, origins=("https://page.example",))) as served:
        url = served.url.replace("http", "ws")
        assert asyncio.run(run(url)) == "started"
        assert asyncio.run(run(url, origin=served.url)) == "started"
        if welcome:
            assert asyncio.run(run(url, origin=origin)) == "started"
        else:
            with pytest.raises(websockets.InvalidStatus):
                asyncio.run(run(url, origin=origin))


def test_what_cannot_be_served_is_said_at_once(make_variant: Make) -> None:
    with pytest.raises(UsageError, match="no model"):
        create_app(Settings({}))
    other = make_variant("two", voices=["ann", "bob"])
    with pytest.raises(UsageError, match="other voices or another sample rate"):
        create_app(Settings({"toy": [make_variant("one"), other]}))
    with pytest.raises(UsageError, match="same name"):
        create_app(Settings({"toy": [make_variant("one"), make_variant("one")]}))
