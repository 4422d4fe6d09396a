"""How close a stage comes to the machine's ceiling (roofline model, Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivace.workflows._ceiling import Ceiling
from vivace.workflows._macs import Work


def assess(ms: float, whole_ms: float, work: Work, ceiling: Ceiling) -> dict[str, Any]:
    """The roofline figures of a part that takes `ms` of `whole_ms` and does `work`.

    `floor_ms` is the time that the limiting roof alone would need, `ceiling_share` that divided by the measured time.
    `gain_at_ceiling` and `gain_if_free` say how many times faster the whole would be if the part ran at its roof,
    or took no time at all (Amdahl); `gain_in_int8` if its arithmetic ran at the int8 roof and all else of it took as
    long as now. None where a precision has no measured roof.
    """
    memory_ms = work.total_bytes / ceiling.gbytes / 1e6
    known = all(precision in ceiling.gmacs for precision in work.macs)
    compute_ms = sum(n / ceiling.gmacs[p] for p, n in work.macs.items()) / 1e6 if known else None
    # Bytes are counted as if no cache held them; where they would take longer than the whole part took, one did.
    cached = memory_ms > ms
    floor = None if compute_ms is None else compute_ms if cached else max(compute_ms, memory_ms)
    result: dict[str, Any] = {
        "macs": work.total_macs,
        "macs_by_precision": dict(work.macs),
        "weight_bytes": work.weight_bytes,
        "activation_bytes": work.activation_bytes,
        "uncounted": sorted(work.uncounted),
        "gmacs_per_s": work.total_macs / ms / 1e6,
        "intensity": work.total_macs / work.total_bytes if work.total_bytes else None,
        "roof_gmacs_per_s": work.total_macs / compute_ms / 1e6 if compute_ms else None,
        "compute_share": None if compute_ms is None else compute_ms / ms,
        "memory_share": memory_ms / ms,
        "cached": cached,
        "bound": None if compute_ms is None else "memory" if memory_ms > compute_ms and not cached else "compute",
        "floor_ms": floor,
        "ceiling_share": None if floor is None else floor / ms,
        "gain_at_ceiling": None if floor is None else _gain(ms, whole_ms, min(floor, ms)),
        "gain_if_free": _gain(ms, whole_ms, 0.0),
    }
    floats = any(precision != "int8" for precision in work.macs)
    if compute_ms and floats and "int8" in ceiling.gmacs:
        int8_ms = work.total_macs / ceiling.gmacs["int8"] / 1e6
        result["gain_in_int8"] = _gain(ms, whole_ms, max(ms - compute_ms, 0.0) + int8_ms)
    return result


def whole(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The floor of a voice: what all of its stages would need at their roofs, each in the precision that it runs in.

    `ceiling_share` is the floor over the time of all parts; `gain_at_ceiling` says how many times faster the whole
    would be if every stage ran at its roof and what is no stage took as long as now. None where a stage has no floor.
    """
    ms = sum(part["ms"] for part in parts)
    ran = [part for part in parts if part["kind"] == "stage" and part["ms"] > 0]
    if any(part.get("floor_ms") is None for part in ran):
        return {"ms": ms, "floor_ms": None, "ceiling_share": None, "gain_at_ceiling": None}
    floor = sum(min(part["floor_ms"], part["ms"]) for part in ran)
    gain = _gain(sum(part["ms"] for part in ran), ms, floor)
    return {"ms": ms, "floor_ms": floor, "ceiling_share": floor / ms, "gain_at_ceiling": gain}


def _gain(ms: float, whole_ms: float, then_ms: float) -> float | None:
    rest = whole_ms - ms + then_ms
    return whole_ms / rest if rest > 0 else None
