"""Ranges of activations from real inputs, by streaming: rows may differ in length, and none is kept.

The first run over the rows finds each tensor's minimum and maximum, the second fills a histogram between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.core.errors import ModelError, UsageError
from vivace.core.stage import Array

BINS = 8192
LEVELS = 128  # of a signed 8-bit number, one side
METHODS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of equal bins between the smallest and the largest value that a tensor took."""

    low: float
    high: float
    counts: Array

    @property
    def centers(self) -> Array:
        width = (self.high - self.low) / len(self.counts)
        return self.low + (np.arange(len(self.counts)) + 0.5) * width


def ranges(
    model: Any,
    tensors: Sequence[str],
    rows: Iterable[Mapping[str, Array]],
    method: str,
    percentile: float,
    threads: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, tuple[float, float]]:
    """(low, high) of each tensor over all rows, low <= 0 <= high, by one of `METHODS`.

    Raises UsageError without rows; ModelError if the stage cannot run on them or yields values that are not finite.
    """
    rows = list(rows)
    if not rows:
        raise UsageError("calibration needs at least one text")
    run = _runner(model, tensors, threads)
    steps = len(rows) * (1 if method == "minmax" else 2)
    low = dict.fromkeys(tensors, 0.0)
    high = dict.fromkeys(tensors, 0.0)
    for done, row in enumerate(rows, 1):
        for name, value in run(row).items():
            if not np.isfinite(value).all():
                raise ModelError(f"the tensor {name} holds values that are not finite; it cannot be quantized")
            low[name] = min(low[name], float(value.min(initial=0.0)))
            high[name] = max(high[name], float(value.max(initial=0.0)))
        progress(done / steps)
    if method == "minmax":
        return {name: (low[name], high[name]) for name in tensors}
    counts = {name: np.zeros(BINS) for name in tensors}
    for done, row in enumerate(rows, len(rows) + 1):
        for name, value in run(row).items():
            if high[name] > low[name]:
                counts[name] += np.histogram(value, BINS, (low[name], high[name]))[0]
        progress(done / steps)
    found = {name: Histogram(low[name], high[name], counts[name]) for name in tensors}
    if method == "percentile":
        return {name: by_percentile(h, percentile) for name, h in found.items()}
    return {name: by_entropy(h) for name, h in found.items()}


def by_percentile(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """The range that holds `percentile` per cent of the values, the rest cut off evenly at both ends."""
    total = histogram.counts.sum()
    if not total:
        return histogram.low, histogram.high
    share = np.cumsum(histogram.counts) / total
    tail = (1 - percentile / 100) / 2
    width = (histogram.high - histogram.low) / len(histogram.counts)
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1 - tail, side="left"))
    low = histogram.low + first * width
    high = histogram.low + (min(last, len(share) - 1) + 1) * width
    return min(low, 0.0), max(high, 0.0)


def by_entropy(histogram: Histogram) -> tuple[float, float]:
    """The clipping threshold on |x| whose 128-level form has the least Kullback-Leibler divergence from the original
    (Migacz, 8-bit inference with TensorRT, 2017)."""
    size = max(-histogram.low, histogram.high)
    if not histogram.counts.sum() or size <= 0:
        return histogram.low, histogram.high
    bins = 2048
    counts = np.histogram(np.abs(histogram.centers), bins, (0.0, size), weights=histogram.counts)[0]
    divergence = {}
    for kept in range(LEVELS, bins + 1, 16):
        clipped = counts[:kept].copy()
        clipped[-1] += counts[kept:].sum()
        edges = np.linspace(0, kept, LEVELS + 1).round().astype(int)[:-1]
        filled = counts[:kept] > 0
        used = np.add.reduceat(filled.astype(float), edges)
        mean = np.add.reduceat(counts[:kept], edges) / np.maximum(used, 1)
        coarse = np.repeat(mean, np.diff([*edges, kept])) * filled
        if not coarse.sum():
            continue
        p, q = clipped / clipped.sum(), coarse / coarse.sum()
        both = (p > 0) & (q > 0)
        missed = p[(p > 0) & (q == 0)].sum()  # mass where the coarse form has none: an outright loss
        divergence[kept] = float((p[both] * np.log(p[both] / q[both])).sum() + missed * np.log(bins))
    best = min(divergence, key=lambda k: divergence[k])
    threshold = size * best / bins
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _runner(model: Any, tensors: Sequence[str], threads: int) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    import onnx
    import onnxruntime as ort

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    outputs = {o.name for o in probed.graph.output}
    inputs = {i.name for i in probed.graph.input}
    probed.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in outputs | inputs)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load the stage for calibration: {error}") from error
    wanted = [t for t in tensors if t not in inputs]
    names = [i.name for i in session.get_inputs()]

    def run(row: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = session.run(wanted, {name: row[name] for name in names}) if wanted else []
        except Exception as error:
            raise ModelError(f"the stage fails on a calibration row: {error}") from error
        return {**dict(zip(wanted, values, strict=True)), **{t: row[t] for t in tensors if t in inputs}}

    return run
