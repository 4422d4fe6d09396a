"""The load benchmark on a toy voice: its client sees what is there, and its page says it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

import load
from server.conftest import serving
from vivace.core.bundle import open_bundle
from vivace.server.service import Settings

TEXTS = ["one two three."] * 6


@pytest.mark.parametrize("body", [b"4\r\nabcd\r\n", b"8\r\nabcd", b""])
def test_an_answer_that_breaks_off_is_no_good_one(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        writer.close()

    async def run() -> load.Said:
        server = await asyncio.start_server(answer, "127.0.0.1")
        monkeypatch.setattr(load, "PORT", server.sockets[0].getsockname()[1])
        async with server:
            return await load.ask("hello")

    assert asyncio.run(run()).status == load.CUT


def test_a_client_sees_times_audio_and_refusals(
    make_variant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_variant("one")
    with serving(Settings({"voice": [folder]}, queue=2)) as served:
        monkeypatch.setattr(load, "PORT", int(served.url.rpartition(":")[2]))
        said = asyncio.run(load.ask("one two three."))
        assert said.status == 200 and 0 < said.first <= said.whole and said.audio > 0.2
        found = load.closed(TEXTS, 2)
        assert found["statuses"] == {"200": 6} and found["ttfa_ms"]["p50"] <= found["whole_ms"]["p95"]
        full = load.closed(["a long text. " * 200] * 12, 12)
        assert set(full["statuses"]) == {"200", "503"} and sum(full["statuses"].values()) == 12
        one = load.closed(TEXTS, 3, one_by_one=True)
        beside = partial(load.in_turn, open_bundle(folder), TEXTS)
        sixteen = beside(lambda: found | {"clients": 16}, 3)
        single = load.added([load.overhead(open_bundle(folder), "one two.", 3) for _ in range(2)])
    with serving(Settings({"voice": [folder]})) as served:  # five at once, however long they take
        monkeypatch.setattr(load, "PORT", int(served.url.rpartition(":")[2]))
        figures = {
            "machine": {"cpu": "a CPU", "cores": 2}, "bundle": "0123456789abcdef", "name": "toy",
            "overhead": single, "loads": [sixteen],
            "naive": beside(lambda: one), "behind": load.behind("a long text. " * 100, "one.", 1),
            "open": beside(partial(load.opened, TEXTS, 50.0)), "above": beside(lambda: full),
        }  # fmt: skip
    assert len(sixteen["shares"]) == 3 and sixteen["shares"] == sorted(sixteen["shares"])
    assert sixteen["speech_per_second"] / sixteen["alone"] == sixteen["shares"][1]
    assert single["added_ms"]["low"] > 0 and single["added_ms"]["n"] == 6
    page = load.page(figures)
    assert "(median of 6 requests; 95% interval " in page
    assert f"3 times: the server carries {sixteen['shares'][1]:.0%} (median;" in page
    assert "| 16 | 6 | 6 x 200 |" in page and "x 503" in page and "| 50.0 a second, at random |" in page


def test_a_listener_who_has_to_wait_is_counted() -> None:
    said = [load.Said(200, 0.1, 1.0, 2.0, waited) for waited in (0.0, 0.01, 0.5)]
    assert load.summary([*said, load.Said(503, 0, 0, 0, 0)], 2.0) == {
        "n": 4, "statuses": {"200": 3, "503": 1}, "underruns": 1, "speech_per_second": 3.0, "seconds_each": 2.0,
        "ttfa_ms": {"p50": 100.0, "p95": 100.0, "p99": 100.0},
        "whole_ms": {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0},
    }  # fmt: skip


def test_the_overhead_is_that_of_all_rounds_and_told_by_block() -> None:
    blocks = [
        [{"server": 10.0 + ms, "within": 10.0, "alone": 9.0, "woken": 0.1} for ms in took]
        for took in ((3.0, 4.0, 5.0), (9.0, 9.5, 8.0), (3.5, 3.0, 4.5))
    ]
    found = load.added(blocks)
    assert found["added_ms"] == {"value": 4.5, "low": 3.0, "high": 9.0, "n": 9}
    assert found["pairs_ms"]["value"] == 5.5 and found["blocks_ms"] == [4.0, 9.0, 3.5]
    assert found["server_ms"] == 14.5 and found["within_ms"] == 10.0 and found["woken_ms"] == 0.1
