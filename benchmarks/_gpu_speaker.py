"""Continuous batching on a GPU: rows at positions of their own in one step, which is a CUDA graph for each size.

Slots in use are the first ones; a row that leaves gives its slot to the last. The host learns of stops one turn late,
so that the GPU never waits for it; what a row made behind its stop is cut off.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from _gpu_network import Network

BUCKETS = (1, 4, 16, 32, 64, 128, 256)  # rows that a graph is made for
TURN = 4  # steps between two looks at who joins and leaves: one graph
ROOM = 128  # positions by which what a step attends to grows
CHUNK, OVERLAP = 64, 3  # frames that the vocoder makes at once, and what it sees beside them
VOCODER_FRAMES = 4096  # at once, of all rows: bounds its memory
NEVER = 2**30


@dataclass(eq=False)
class Row:
    tokens: list[int]
    limit: int  # frames
    made: int = 0
    known: int = 0  # frames that no stop lies before
    ends: int = 0
    rendered: int = 0
    pieces: list[Tensor] = field(default_factory=list)
    frames: Tensor | None = None  # [frames, mels], if they are kept
    joined: float = 0.0  # seconds on the clock
    ended: float = 0.0
    spoken: Any = None  # the event after the last sample has reached the host

    def samples(self) -> Tensor:
        return torch.cat(self.pieces)


class Speaker:
    """`slots` rows at most, each of `frames` at most. `beside`: the vocoder has a stream of its own and speaks chunks;
    else it speaks a whole row when its frames are there."""

    def __init__(
        self, net: Network, slots: int, frames: int, tokens: int, *, graphs: bool, beside: bool, chunk: int = CHUNK,
        keep: bool = False,
    ):  # fmt: skip
        self.chunk = chunk
        self.net, self.slots, self.beside, self.keep = net, next(b for b in BUCKETS if b >= slots), beside, keep
        self.cuda, s = net.device == "cuda", net.s
        self.room = -(-(frames + 3 * TURN) // ROOM) * ROOM  # a row is seen to have ended up to two turns late
        self.text_room = -(-tokens // 16) * 16  # what kernels of attention take without a copy

        def zeros(*size: int, dtype: torch.dtype = net.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=net.device)

        self.cache = zeros(s.decoder_layers, self.slots, self.room, 2 * s.width)
        self.cross = zeros(s.decoder_layers, self.slots, self.text_room, 2 * s.width)
        self.token_bias = zeros(self.slots, 1, 1, self.text_room)
        self.frames = zeros(self.slots, self.room, s.mels, dtype=torch.float32)
        self.before = zeros(self.slots, s.mels, dtype=torch.float32)
        self.place = zeros(self.slots, dtype=torch.int64)
        self.stops = zeros(self.slots, dtype=torch.int64)  # the frames of a row that has ended by itself, else NEVER
        self.every = torch.arange(self.slots, device=net.device)
        ahead = torch.ones(self.room, self.room, device=net.device, dtype=torch.bool).triu(1)
        self.bias = zeros(self.room, self.room).masked_fill_(ahead, float("-inf"))
        self.own = torch.cuda.Stream() if self.cuda and beside else None
        self.rows: list[Row] = []
        self._speaking: list[Row] = []
        self._asked: tuple[list[tuple[Row, int]], Tensor, Any] | None = None
        self.graphs = self._captured() if graphs else {}

    def _captured(self) -> dict[tuple[int, int], Any]:
        made, pool, aside = {}, torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        for bucket in (b for b in BUCKETS if b <= self.slots):
            for room in range(ROOM, self.room + 1, ROOM):
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):  # libraries and compilers get ready outside the capture
                    self._turn(bucket, room)
                torch.cuda.current_stream().wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    self._turn(bucket, room)
                made[bucket, room] = graph
        return made

    def speak(self, requests: Iterable[Row], concurrency: int) -> list[Row]:
        """Each ends with its samples on the host. At most `concurrency` are in the making at once."""
        waiting, ended = list(requests), []
        waiting.reverse()
        while waiting or self.rows:
            new = [waiting.pop() for _ in range(min(len(waiting), concurrency - len(self.rows)))]
            if new:
                self._read(new)
            bucket = next(b for b in BUCKETS if b >= len(self.rows))
            room = -(-(max(row.made for row in self.rows) + TURN) // ROOM) * ROOM
            if (bucket, room) in self.graphs:
                self.graphs[bucket, room].replay()
            else:
                self._turn(bucket, room)
            for row in self.rows:
                row.made += TURN
            self._look()
            if any(row.made >= row.ends for row in self.rows):
                self._look()  # at this turn: it may hold a stop before the limit
            over = {row for row in self.rows if row.made >= row.ends}
            self._render(over)
            for slot in reversed([k for k, row in enumerate(self.rows) if row in over]):
                self._leave(slot)
            ended += self._spoken(wait=False)
        return ended + self._spoken(wait=True)

    def _read(self, new: list[Row]) -> None:
        first, last = len(self.rows), len(self.rows) + len(new)
        ids = torch.zeros(len(new), self.text_room, dtype=torch.int64, pin_memory=self.cuda)
        shut = torch.full((len(new), 1, 1, self.text_room), float("-inf"), dtype=self.net.dtype, pin_memory=self.cuda)
        for k, row in enumerate(new):
            row.joined, row.ends = time.perf_counter(), row.limit
            ids[k, : len(row.tokens)] = torch.tensor(row.tokens)
            shut[k, ..., : len(row.tokens)] = 0
        self.token_bias[first:last].copy_(shut, non_blocking=True)
        ids = ids.to(self.net.device, non_blocking=True)
        self.cross[:, first:last] = self.net.encode(ids, self.token_bias[first:last])
        self.before[first:last] = 0
        self.place[first:last] = 0
        self.stops[first:last] = NEVER
        self.rows += new

    def _turn(self, bucket: int, room: int) -> None:
        """TURN steps of the first `bucket` slots. Rows that have left move on unseen, inside their room."""
        net, rows, place = self.net, self.every[:bucket], self.place[:bucket]
        for _ in range(TURN):
            at = place.clamp(max=room - 1)

            def own(k: int, kv: Tensor, at: Tensor = at) -> Tensor:
                self.cache[k].index_put_((rows, at), kv[:, 0])
                return self.cache[k, :bucket, :room]

            bias = self.bias[:, :room][at][:, None, None]
            x = net.step(self.before[:bucket], at, own, self.cross[:, :bucket], self.token_bias[:bucket], bias)
            frame, stop = net.out(x)
            self.before[:bucket] = frame
            self.frames.index_put_((rows, at), frame)
            place += 1
            ends = place.masked_fill(stop[:, 0] <= 0, NEVER)
            torch.minimum(self.stops[:bucket], ends, out=self.stops[:bucket])

    def _look(self) -> None:
        """Takes in what was asked for last, and asks for the stops of now."""
        if self._asked is not None:
            asked, found, event = self._asked
            if event is not None:
                event.synchronize()
            for (row, made), stop in zip(asked, found.tolist(), strict=True):
                row.ends, row.known = min(row.ends, stop), made
        host = torch.empty(len(self.rows), dtype=torch.int64, pin_memory=self.cuda)
        host.copy_(self.stops[: len(self.rows)], non_blocking=True)
        self._asked = ([(row, row.made) for row in self.rows], host, self._event())

    def _event(self) -> Any:
        if not self.cuda:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _render(self, over: set[Row]) -> None:
        """Speaks what is due, rows with windows of the same kind together."""
        due: dict[tuple[int, int, int], list[tuple[int, Row, int]]] = {}
        for slot, row in enumerate(self.rows):
            stop = row.rendered + self.chunk
            if row in over:
                stop = row.ends
            elif not self.beside or row.known < stop + OVERLAP:
                continue
            left, right = min(OVERLAP, row.rendered), min(OVERLAP, (row.ends if row in over else NEVER) - stop)
            due.setdefault((left, stop - row.rendered, right), []).append((slot, row, stop))
        for (left, count, right), group in due.items():
            most = max(1, VOCODER_FRAMES // (left + count + right))
            for start in range(0, len(group), most):
                self._sound(group[start : start + most], left, right)

    def _sound(self, group: list[tuple[int, Row, int]], left: int, right: int) -> None:
        windows = [self.frames[slot, row.rendered - left : stop + right] for slot, row, stop in group]
        latent = torch.stack(windows).transpose(1, 2)  # a copy: the slots move on
        if self.own is not None:
            self.own.wait_stream(torch.cuda.current_stream())
            latent.record_stream(self.own)
        with torch.cuda.stream(self.own) if self.own is not None else nullcontext():
            made, hop = self.net.vocoder(latent), self.net.s.hop
            inner = made[:, left * hop : made.shape[1] - right * hop].contiguous()
            host = torch.empty(inner.shape, pin_memory=self.cuda)
            host.copy_(inner, non_blocking=True)
            spoken = self._event()
        for (_, row, stop), samples in zip(group, host, strict=True):
            row.pieces.append(samples)
            row.rendered, row.spoken = stop, spoken

    def _leave(self, slot: int) -> None:
        row, last = self.rows[slot], len(self.rows) - 1
        if self.keep:
            row.frames = self.frames[slot, : row.ends].clone()
        if slot < last:
            for array in (self.frames, self.before, self.place, self.stops, self.token_bias):
                array[slot] = array[last]
            for array in (self.cache, self.cross):
                array[:, slot] = array[:, last]
            self.rows[slot] = self.rows[last]
        self.rows.pop()
        self._speaking.append(row)

    def _spoken(self, *, wait: bool) -> list[Row]:
        """The rows that have been spoken to the end."""
        ended, still = [], []
        for row in self._speaking:
            if row.spoken is not None and wait:
                row.spoken.synchronize()
            if row.spoken is None or row.spoken.query():
                row.ended = time.perf_counter()
                ended.append(row)
            else:
                still.append(row)
        self._speaking = still
        return ended
