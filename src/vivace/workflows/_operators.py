"""Where a stage's time goes, operator by operator, from the trace of the runtime that serves it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, Tensors
from vivace.engine.engine import Engine
from vivace.workflows._macs import KERNEL, Work
from vivace.workflows._stopwatch import read_all

TOP = 10
TRACED_RUNS = 3
TOKEN = re.compile(r"_token_\d+$")  # what ONNX Runtime appends when it changes a node's layout
CONTAINERS = ("If", "Loop", "Scan")  # their time is that of the nodes inside, which are in the trace themselves


def trace(
    bundle: Bundle,
    threads: int,
    text: str,
    work: Mapping[str, Mapping[str, Work]],
    renamed: Mapping[str, str],
    every: Mapping[str, int] = {},
    runs: int = TRACED_RUNS,
) -> dict[str, Any]:
    """The operator view of each stage whose runtime writes a trace. Of a stage named in `every` only the middle one of
    so many runs is traced, the others go through a session without a trace: runtimes bound the length of one."""
    raw: dict[str, Any] = {}
    sampled: dict[str, _Sampled] = {}

    def wrap(stage: Stage, session: Session) -> Session:
        raw[stage.name] = session
        if every.get(stage.name, 1) == 1:
            return session
        runtime = registry.load("runtimes", stage.runtime)
        plain = runtime.open(stage, bundle.file(stage.file), RuntimeOptions(threads=threads))
        sampled[stage.name] = _Sampled(plain, session, every[stage.name])
        return sampled[stage.name]

    with tempfile.TemporaryDirectory(prefix="vivace-trace-") as folder:
        options = RuntimeOptions(threads=threads, trace=folder)
        with Engine(bundle, options, wrap=wrap) as engine:
            for _ in range(1 + runs):
                for one in sampled.values():
                    one.runs = one.traced = 0
                read_all(engine, [Request("traced", text, seed=1)])
            views = {}
            for name, session in raw.items():
                events = session.trace() if hasattr(session, "trace") else []
                if events:
                    calls = sum(event["name"] == "model_run" for event in events) // (1 + runs)
                    scale = sampled[name].scale if name in sampled else 1.0
                    views[name] = view(events, runs / scale, calls, work.get(name, {}), renamed)
    return views


class _Sampled:
    """Runs the middle one of each `every` inputs through the traced session, the others through the plain one."""

    def __init__(self, plain: Session, traced: Session, every: int) -> None:
        self._plain, self._traced, self._every = plain, traced, every
        self.runs = self.traced = 0  # of this reading

    @property
    def scale(self) -> float:
        return self.runs / max(1, self.traced)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        now = self.runs % self._every == self._every // 2
        self.runs += 1
        self.traced += now
        return (self._traced if now else self._plain).run(inputs)

    def close(self) -> None:
        self._plain.close()
        self._traced.close()


def view(
    events: Sequence[Mapping[str, Any]],
    runs: float,
    warm_up: int,
    work: Mapping[str, Work],
    renamed: Mapping[str, str],
) -> dict[str, Any]:
    """Time by operator type and of the TOP slowest nodes, in ms for one run of the text.

    `events` cover `warm_up` session runs, which are left out, and then those of `runs` readings of the text
    (a fraction where only some of the session's runs were traced).
    `work` is what one reading computes, by node name; `renamed` maps names in the trace to those.
    """
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    begun = starts[warm_up] if warm_up < len(starts) else float("inf")
    types: dict[str, dict[str, Any]] = {}
    nodes: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["cat"] != "Node" or not event["name"].endswith(KERNEL) or event["ts"] < begun:
            continue
        op = event["args"]["op_name"]
        if op in CONTAINERS:
            continue
        name = event["name"].removesuffix(KERNEL)
        name = renamed.get(name, name)
        bare = TOKEN.sub("", name)
        name = bare if bare in work else name
        ms = event["dur"] / 1000 / runs
        kind = types.setdefault(op, {"op": op, "ms": 0.0, "calls": 0.0})
        node = nodes.setdefault(name, {"node": name, "op": op, "ms": 0.0})
        kind["ms"] += ms
        kind["calls"] += 1 / runs
        node["ms"] += ms
    total = sum(kind["ms"] for kind in types.values())
    for entry in (*types.values(), *nodes.values()):
        entry["share"] = entry["ms"] / total if total else 0.0
    slowest = sorted(nodes.values(), key=lambda node: -node["ms"])[:TOP]
    for node in slowest:
        macs = work[node["node"]].total_macs if node["node"] in work else None
        node["macs"] = macs
        node["gmacs_per_s"] = macs / node["ms"] / 1e6 if macs and node["ms"] else None
    return {"ms": total, "types": sorted(types.values(), key=lambda kind: -kind["ms"]), "nodes": slowest}
