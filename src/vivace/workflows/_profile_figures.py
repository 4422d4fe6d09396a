"""The figures of a profile that can be compared between reports."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from vivace.core.report import Better, Measurement


def measurements(details: Mapping[str, Any], threads: int) -> tuple[Measurement, ...]:
    found = []

    def add(name: str, value: float | None, unit: str, better: Better, scope: str, row: Mapping[str, Any] = {}) -> None:
        if value is not None:
            bounds = (row.get("n", 1), row.get("low"), row.get("high"))
            found.append(Measurement(name, value, unit, better, *bounds, scope))

    on = f"{threads} thread{'s' if threads > 1 else ''}"
    text = f"{details['text']['name']} text, {on}"
    for row in details["parts"]:
        add(f"time/{row['name']}", row["ms"], "ms", "down", text, row)
        add(f"share/{row['name']}", 100 * row["share"], "%", "none", text)
        add(f"ceiling_share/{row['name']}", _percent(row.get("ceiling_share")), "%", "up", text)
        add(f"macs/{row['name']}", row.get("macs_per_audio_second"), "MAC per audio second", "down", text)
    add("floor", details["whole"]["floor_ms"], "ms", "down", text)
    add("ceiling_share/whole", _percent(details["whole"]["ceiling_share"]), "%", "up", text)
    for row in details["lengths"]:
        scope = f"{row['text']} text ({row['characters']} characters), {on}"
        add("latency_p50", row["ms"], "ms", "down", scope, row)
        add("rtf", row["rtf"], "", "down", scope)
    for row in details["batches"]:
        add("throughput", row["throughput"], "audio s/s", "up", f"batch {row['batch']}, {on}")
    if decode := details["decode"]:
        add("step/start", decode["ms_at_start"], "ms", "down", text)
        add("step/growth", decode["ms_per_100_frames"], "ms per 100 frames", "down", text)
        for row in decode["batches"]:
            scope = f"{row['text']} text, batch {row['batch']}, {on}"
            add("latency_p50", row["latency_p50_ms"], "ms", "down", scope)
            add("frames", row["frames_per_second"], "frames/s", "up", scope)
            add("cache", row["cache_mb_per_text"], "MB per text", "down", scope)
            add("memory_peak", row.get("peak_mb"), "MB", "down", scope)
    for precision, rate in details["ceiling"]["gmacs"].items():
        add(f"peak/{precision}", rate, "GMAC/s", "none", on)
    add("peak/memory", details["ceiling"]["gbytes"], "GB/s", "none", on)
    add("load", statistics.median(details["load_s"]), "s", "down", on, {"n": len(details["load_s"])})
    add("memory_loaded", details["memory_mb"]["loaded"], "MB", "down", "after load")
    add("memory_peak", details["memory_mb"]["peak"], "MB", "down", f"{details['memory_mb']['characters']} characters")
    return tuple(found)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
