"""Memory over many requests: what is asked, what is counted, and the page, on the toy voice."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import growth
from vivace.core.errors import VivaceError
from vivace.core.speech import Event, Request


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "WARM", 4)
    monkeypatch.setattr(growth, "EVERY", 2)
    monkeypatch.setattr(growth, "paragraph", lambda size: "A text of some words. " * (1 + size // 400))


def few(count: int) -> Iterator[Request]:
    return (Request(f"{k}", "Some words.", seed=k, chunk_frames=k % 2 * 16) for k in range(count))


def test_requests_differ_in_seed_and_every_text_is_asked_for_whole_and_streamed() -> None:
    asked = list(growth.requests(2000))
    assert len({request.seed for request in asked}) == len({request.id for request in asked}) == 2000
    ways = {(request.text, request.chunk_frames) for request in asked}
    assert len(ways) == 2 * len({request.text for request in asked})
    assert 0.45 < Counter(request.chunk_frames > 0 for request in asked)[True] / 2000 < 0.55
    assert len({len(request.text) for request in asked[:100]}) > 20


@pytest.mark.parametrize("mode", growth.MODES)
def test_every_request_ends_once_and_memory_is_looked_at_after_the_warm_up(
    make_toy: Callable[..., Any], mode: str
) -> None:
    ends = list(growth.ended(make_toy(seed=3), mode, few(20)))
    assert sorted(int(event.request_id) for event in ends) == list(range(20))
    samples = list(growth.sampled(mode, iter(ends)))
    assert [k for k, _ in samples] == list(range(0, 17, 2))
    assert all(held > 10 for _, held in samples)


@pytest.mark.parametrize("mode", growth.MODES)
def test_a_request_that_fails_ends_the_measurement(make_toy: Callable[..., Any], mode: str) -> None:
    asked = iter([Request("a", "")])
    with pytest.raises((AssertionError, VivaceError), match="no letter or digit"):
        list(growth.sampled(mode, growth.ended(make_toy(seed=3), mode, asked)))


def test_a_request_that_was_cut_is_no_request() -> None:
    with pytest.raises(AssertionError):
        list(growth.sampled("engine", iter([Event("a", done=True, reason="length")])))


def runs(slope: float = 0.5, book: float = 110.0) -> list[dict[str, Any]]:
    peak = {"characters": 258, "audio, s": 13.0, "after load": 50.0}
    grown = {"samples": [(10 * k, 200 + 10 * k * slope) for k in range(101)]}
    found = [{"name": "engine", **grown}, {"name": "pool", "samples": [(10 * k, 300.0) for k in range(101)]}]
    for more in (0.0, 2.0, -1.0):
        for name in growth.PEAKS:
            most = book if name.startswith("book") else 100.0
            found.append({"name": name, **peak, "peak": most + more})
    return found


def test_growth_is_told_in_medians_and_as_a_slope() -> None:
    found = growth.figures(runs())
    engine, pool = found["modes"].values()
    assert engine["slope per 1,000 requests"] == pytest.approx(500)
    assert engine["growth"] == pytest.approx(400)  # from the middle of the first fifth to that of the last
    assert engine["most"] == 700
    assert pool["growth"] == 0 and pool["slope per 1,000 requests"] == pytest.approx(0, abs=1e-6)
    assert found["ratios"] == {"whole": pytest.approx(1.1), "streamed": pytest.approx(1.1)}
    assert found["peaks"]["long, whole"] | {"processes": 3, "peak": 100.0} == found["peaks"]["long, whole"]


def test_the_command_goes_on_where_it_was_and_writes_its_page(
    make_toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, begun = runs(), []

    def child(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if len(begun) == 5:
            begun.append("")
            raise KeyboardInterrupt
        begun.append(command[-1])
        run = next(r for r in told if r["name"] == command[-1])
        return subprocess.CompletedProcess(command, 0, "noise\n" + json.dumps(run))

    monkeypatch.setattr(growth.subprocess, "run", child)
    words = [str(make_toy(seed=3).path), "--page", str(tmp_path / "p" / "growth.md"), "--work", str(tmp_path / "w")]
    with pytest.raises(KeyboardInterrupt):
        growth.main(words)
    assert growth.main(words) == 0
    assert [name for name in begun if name] == [*growth.MODES, *growth.PEAKS * 3]
    text = (tmp_path / "p" / "growth.md").read_text(encoding="utf-8")
    assert "| one Engine | 101 | 250.0 | 650.0 | 400.0 | 500.0 | 700.0 |" in text
    assert "| book, whole | 3 | 258 | 13.0 | 50.0 | 110.0 |" in text
    assert "1.10 (whole) and 1.10 (streamed) times" in text
    data = json.loads((tmp_path / "p" / "growth.json").read_text(encoding="utf-8"))
    assert len(data["raw"]) == 14 and data["machine"]["cores"] and data["modes"]["one Engine"]["growth"] == 400
    assert growth.main([*words, "--requests", "7"]) == 0  # other samples, not those on disk
    assert len([name for name in begun if name]) == 28


@pytest.mark.parametrize("name", growth.PEAKS)
def test_a_peak_is_the_most_of_this_process(make_toy: Callable[..., Any], name: str) -> None:
    told = growth.run(make_toy(seed=3), name, 0)
    assert 10 < told["after load"] <= told["peak"]
    assert told["audio, s"] > 0 and (told["characters"] > 1000) == name.startswith("book")


def test_a_child_tells_its_samples_in_a_line(make_toy: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert growth.main([str(make_toy(seed=3).path), "--child", "engine", "--requests", "4"]) == 0
    assert [k for k, _ in json.loads(capsys.readouterr().out)["samples"]] == [0, 2, 4]
