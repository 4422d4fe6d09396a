"""Where a stage's time goes, operator by operator, from ONNX Runtime's own trace."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vivace.workflows._macs import KERNEL, Work

TOP = 10
TOKEN = re.compile(r"_token_\d+$")  # what ONNX Runtime appends when it changes a node's layout
CONTAINERS = ("If", "Loop", "Scan")  # their time is that of the nodes inside, which are in the trace themselves


def view(
    events: Sequence[Mapping[str, Any]],
    runs: int,
    warm_up: int,
    work: Mapping[str, Work],
    renamed: Mapping[str, str],
) -> dict[str, Any]:
    """Time by operator type and of the TOP slowest nodes, in ms for one run of the text.

    `events` cover `warm_up` session runs, which are left out, and then those of `runs` readings of the text.
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
