"""What does not fit is refused with the numbers; what does not fit together takes turns, the oldest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from server.conftest import serving  # noqa: E402
from vivace.core.errors import UsageError  # noqa: E402
from vivace.server import budget as module  # noqa: E402
from vivace.server.budget import Budget  # noqa: E402
from vivace.server.service import Settings  # noqa: E402
from vivace.server.wire import ApiError  # noqa: E402

OWN = 100.0  # megabytes of the server


class Chain:
    def __init__(self, *megabytes: float) -> None:
        self.variants = [
            SimpleNamespace(name=f"v{k}", runner=SimpleNamespace(megabytes=m)) for k, m in enumerate(megabytes)
        ]
        self.up = False

    async def start(self) -> None:
        await asyncio.sleep(0)
        self.up = True

    async def stop(self) -> None:
        self.up = False


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "resident", lambda: OWN)


def budget(megabytes: float, **chains: Chain) -> Budget:
    return Budget(chains, megabytes)  # type: ignore[arg-type]


def test_without_a_bound_all_are_loaded() -> None:
    a, b = Chain(1000), Chain(1000)
    made = budget(0, a=a, b=b)
    asyncio.run(made.start())
    assert a.up and b.up and made.held == OWN + 2000


def test_a_variant_that_comes_up_later_counts() -> None:
    a = Chain(100, 0)
    made = budget(1000, a=a)
    asyncio.run(made.start())
    assert made.held == OWN + 100
    a.variants[1].runner.megabytes = 200.0  # it was started again
    assert made.held == OWN + 300


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match=r"a does not fit: 250 MB \(v0 150, v1 100\) and 100 MB .* 300 MB; give"):
        asyncio.run(budget(300, a=Chain(150, 100)).start())


def test_the_one_that_was_not_asked_for_longest_makes_room() -> None:
    chains = {name: Chain(100) for name in "abc"}

    async def run() -> None:
        made = budget(300, **chains)  # two of them, and the server
        await made.start()
        assert [c.up for c in chains.values()] == [False, True, True]
        for name, up in [("b", "bc"), ("a", "ab"), ("c", "ac")]:
            await made.enter(name)
            made.leave(name)
            assert "".join(n for n, c in chains.items() if c.up) == up
            assert made.held <= 300

    asyncio.run(run())


def test_a_model_that_speaks_is_not_unloaded() -> None:
    a, b = Chain(150), Chain(150)

    async def run() -> None:
        made = budget(300, a=a, b=b)
        await made.start()
        await made.enter("b")
        with pytest.raises(ApiError, match="models that are speaking") as caught:
            await made.enter("a")
        assert caught.value.status == 503 and caught.value.retry
        made.leave("b")
        await asyncio.gather(*(made.enter("a") for _ in range(5)))  # loaded once
        assert a.up and not b.up

    asyncio.run(run())


def test_models_take_turns_on_a_real_server(make_variant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    models = {name: [make_variant(name)] for name in ("one", "two")}
    with serving(Settings(models, megabytes=1e6)) as served:
        each = [model.chain.variants[0].runner.megabytes for model in served.service.models.values()]
        assert all(m > 20 for m in each)
    with serving(Settings(models, megabytes=OWN + 1.5 * max(each))) as served:

        def ask(model: str) -> Any:
            body = {"model": model, "input": "hello", "response_format": "pcm"}
            return httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=60)

        answers = [ask(model) for model in ("one", "two", "one")]
        assert [a.status_code for a in answers] == [200] * 3
        assert answers[0].content == answers[2].content
        loaded = {m["id"]: m["loaded"] for m in httpx.get(f"{served.url}/v1/models").json()["data"]}
        assert loaded == {"one": True, "two": False}
        assert httpx.get(f"{served.url}/health/ready").status_code == 200
