"""The memory that the server may hold: models are loaded when they are asked for; where they do not fit together, the
one that was not asked for longest makes room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from vivace.core.errors import UsageError
from vivace.core.machine import resident
from vivace.engine.fallback import Chain
from vivace.engine.runner import Died
from vivace.server.wire import ApiError

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Place:
    name: str
    chain: Chain
    loaded: bool = False
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    loading: asyncio.Task[None] | None = None

    @property
    def megabytes(self) -> float:
        """What its processes hold at most, as measured when they warmed up; 0 while that is not known. A variant that
        did not come up at first may come up later."""
        return sum(variant.runner.megabytes for variant in self.chain.variants)


class Budget:
    """`megabytes` (10^6 bytes) for this process and those of all variants; 0 is any amount."""

    def __init__(self, chains: Mapping[str, Chain], megabytes: float = 0.0) -> None:
        self._places = {name: _Place(name, chain) for name, chain in chains.items()}
        self._megabytes = megabytes
        self._loading = asyncio.Lock()

    @property
    def held(self) -> float:
        """Megabytes now, by what was measured."""
        return resident() + sum(place.megabytes for place in self._places.values() if place.loaded)

    def loaded(self, name: str) -> bool:
        return self._places[name].loaded

    async def start(self) -> None:
        """Loads every model, so that its need is known, one after another where memory is bounded; keeps what fits.
        Raises UsageError with the numbers if one does not fit alone, Died if one cannot be loaded."""
        if not self._megabytes:
            await asyncio.gather(*(self._load(place) for place in self._places.values()))
            return
        for name, place in self._places.items():
            await self._load(place)
            own = resident()
            if own + place.megabytes > self._megabytes:
                parts = ", ".join(f"{v.name} {v.runner.megabytes:.0f}" for v in place.chain.variants)
                raise UsageError(
                    f"{name} does not fit: {place.megabytes:.0f} MB ({parts}) and {own:.0f} MB for the server are more "
                    f"than {self._megabytes:.0f} MB; give --memory more, or fewer variants"
                )
            await self._make_room(0.0, keep=place)

    async def stop(self) -> None:
        loading = [place.loading for place in self._places.values() if place.loading]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        await asyncio.gather(*(place.chain.stop() for place in self._places.values()), return_exceptions=True)

    async def enter(self, name: str) -> None:
        """The model is loaded when this returns, and stays so until `leave`. Raises ApiError if others that are
        speaking hold its memory."""
        place = self._places[name]
        place.users += 1
        place.used = time.monotonic()
        try:
            if not place.loaded:
                # A task of its own: who asked may leave, what has begun goes on.
                place.loading = place.loading or asyncio.create_task(self._bring(place))
                await asyncio.shield(place.loading)
        except BaseException as error:
            place.users -= 1
            if isinstance(error, Died):
                raise ApiError(503, "the model cannot be loaded now; try again", code="unavailable", retry=5) from error
            raise

    def leave(self, name: str) -> None:
        self._places[name].users -= 1
        self._places[name].used = time.monotonic()

    async def _bring(self, place: _Place) -> None:
        try:
            async with self._loading:
                await self._make_room(place.megabytes, keep=place)
                await self._load(place)
        finally:
            place.loading = None

    async def _load(self, place: _Place) -> None:
        await place.chain.start()
        place.loaded = True

    async def _make_room(self, need: float, keep: _Place | None) -> None:
        while self._megabytes and self.held + need > self._megabytes:
            idle = [p for p in self._places.values() if p.loaded and not p.users and p is not keep]
            if not idle:
                if any(p.users for p in self._places.values() if p is not keep):
                    raise ApiError(503, "the memory is taken by models that are speaking; try again", retry=2)
                return
            oldest = min(idle, key=lambda p: p.used)
            oldest.loaded = False
            await oldest.chain.stop()
            log.info("unloaded %s: %.0f MB", oldest.name, oldest.megabytes)
