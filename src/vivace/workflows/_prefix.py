"""What a step of a decoder costs against the frames before it: flat with a cache, a rising line without one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from vivace.workflows._stopwatch import Reading, interval

BINS = 16
RISES = 1.3  # times the first steps' time: from here on, what grows is worth naming


def by_prefix(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """ms of a step for each of at most BINS stretches of frames before it: `frames` is the middle of the steps in it,
    `steps` how many each reading has there. Median over the readings of each one's median; interval as everywhere."""
    longest = max(frames for frames, _ in readings[0].steps)
    width = -(-(longest + 1) // BINS)
    inside: dict[int, list[dict[str, list[float]]]] = {}
    for reading in readings:
        own: dict[int, dict[str, list[float]]] = {}
        for frames, seconds in reading.steps:
            found = own.setdefault(frames // width, {"frames": [], "ms": []})
            found["frames"].append(frames)
            found["ms"].append(1000 * seconds)
        for k, found in own.items():
            inside.setdefault(k, []).append(found)
    rows = []
    for _, stretch in sorted(inside.items()):
        found = interval([statistics.median(own["ms"]) for own in stretch])
        rows.append(
            {
                "frames": statistics.mean(stretch[0]["frames"]),
                "steps": len(stretch[0]["ms"]),
                "ms": found.pop("value"),
                **found,
            }
        )
    return rows


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the time of a step grows with the frames before it: the median slope between stretches (Theil 1950, Sen
    1968), which a slow moment does not bend, and the line's ends."""
    slopes = [(b["ms"] - a["ms"]) / (b["frames"] - a["frames"]) for a, b in combinations(rows, 2)]
    slope = statistics.median(slopes) if slopes else 0.0
    start = statistics.median(row["ms"] - slope * row["frames"] for row in rows)
    end = start + slope * rows[-1]["frames"]
    return {
        "ms_at_start": start,
        "ms_at_end": end,
        "frames": rows[-1]["frames"],
        "ms_per_100_frames": 100 * slope,
        "rises": end > RISES * max(start, 0.0) and len(rows) > 1,
    }


def figures(value: float) -> str:
    """Two figures or more: 12.3, 1.23, 0.12; without the sign of a zero."""
    words = f"{value:.{1 if abs(value) >= 10 else 2}f}"
    return words.lstrip("-") if float(words) == 0 else words
