"""What this machine can do at most: arithmetic per precision and memory bandwidth, the two roofs of the roofline model
(Williams, Waterman, Patterson: "Roofline", CACM 2009). Measured once, then kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import machine, registry
from vivace.core.bundle import atomic_file
from vivace.core.contracts import Progress
from vivace.core.errors import BundleError, ModelError
from vivace.core.stage import Array, RuntimeOptions, Stage

SCHEMA = 2
PRECISIONS = ("fp32", "bf16", "int8")
RUNTIMES = ("onnxruntime", "openvino")  # the fastest in a precision sets its roof
CHAIN = 4  # products of floats in a row, so that the way into bf16 and back costs next to nothing
SIZES = (512, 1024)  # of the square products: the best one counts
ROUNDS = 3  # over all measurements, so that a slow moment of the machine hits none of them alone
SECONDS = 0.12  # spent on each measurement in each round
ARRAY_BYTES = (64 << 20, 512 << 20)  # least and most of one array of the bandwidth test


@dataclass(frozen=True)
class Ceiling:
    """`gmacs`: 10^9 multiply-accumulates per second by precision; one that no runtime has here is left out.
    `gbytes`: 10^9 bytes read and written per second. Both with `threads` threads."""

    gmacs: Mapping[str, float]
    gbytes: float
    threads: int

    def ridge(self, precision: str = "fp32") -> float:
        """MACs per byte from which on arithmetic, not memory, is the limit."""
        return self.gmacs[precision] / self.gbytes


def ceiling(
    threads: int,
    cache: Path | None = None,
    *,
    fresh: bool = False,
    progress: Progress = lambda message, share: None,
) -> Ceiling:
    """The kept ceiling for this machine, or (none there, not readable, or `fresh`) a new one, which takes seconds.
    A new one never falls below the kept one.

    `cache` is a folder; None means $XDG_CACHE_HOME/vivace or ~/.cache/vivace.
    """
    key = _key(threads)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = (cache or machine.cache_folder()) / f"ceiling-{name}.json"
    kept = _read(path, key)
    if kept and not fresh:
        return kept
    progress("measuring what this machine can do", 0.0)
    measured = measure(threads)
    if kept:  # a busy machine measures too little, never too much
        measured = best([kept, measured])
    try:
        atomic_file(path, json.dumps({"key": key, **asdict(measured)}, indent=1).encode())
    except BundleError as error:  # a home that cannot be written must not stop the profile
        progress(f"the ceiling is measured anew each time: {error}", 0.0)
    return measured


def best(found: Sequence[Ceiling]) -> Ceiling:
    """The highest of each roof."""
    gmacs = {p: max(one.gmacs.get(p, 0.0) for one in found) for p in PRECISIONS if any(p in one.gmacs for one in found)}
    return Ceiling(gmacs, max(one.gbytes for one in found), found[0].threads)


def measure(threads: int) -> Ceiling:
    """Measures both roofs now. Raises ModelError if ONNX Runtime cannot even multiply floats."""
    return best([_round(threads) for _ in range(ROUNDS)])


def _round(threads: int) -> Ceiling:
    gmacs: dict[str, float] = {}
    for runtime, precisions in _offered().items():
        for precision in (p for p in PRECISIONS if p in precisions):
            try:
                rate = max(_product_rate(runtime, precision, size, threads) for size in SIZES)
            except ModelError:
                if (runtime, precision) == (RUNTIMES[0], "fp32"):
                    raise
            else:
                gmacs[precision] = max(rate, gmacs.get(precision, 0.0))
    return Ceiling(gmacs, _bandwidth(threads), threads)


def _offered() -> dict[str, tuple[str, ...]]:
    """The precisions to be tried in each runtime. ONNX Runtime multiplies integers on every machine."""
    offered = {name: registry.load("runtimes", name).precisions() for name in RUNTIMES}
    return {name: (*found, "int8") if name == "onnxruntime" else found for name, found in offered.items()}


def _key(threads: int) -> dict[str, Any]:
    described = machine.describe()
    return {
        "schema": SCHEMA,
        "cpu": described["cpu"],
        "flags": described["flags"],
        "cores": described["cores"],
        "threads": threads,
        "runtimes": {name: [described["packages"].get(name, ""), *found] for name, found in _offered().items()},
    }


def _read(path: Path, key: dict[str, Any]) -> Ceiling | None:
    """The kept ceiling; None if there is none, it is another machine's, or the file is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = Ceiling({str(k): float(v) for k, v in data["gmacs"].items()}, float(data["gbytes"]), key["threads"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sane = all(math.isfinite(rate) and rate > 0 for rate in (*found.gmacs.values(), found.gbytes))
    return found if sane and data.get("key") == key and "fp32" in found.gmacs else None


def _product_rate(name: str, precision: str, size: int, threads: int) -> float:
    """The best rate (GMAC/s) of square matrix products in a runtime, with constant weights, as in a model."""
    runtime = registry.load("runtimes", name)
    stage = Stage("product", "product.onnx", name, options={"precision": "bf16"} if precision == "bf16" else {})
    with tempfile.TemporaryDirectory(prefix="vivace-ceiling-") as folder:
        path = Path(folder) / stage.file
        path.write_bytes(product(precision, size))
        session = runtime.open(stage, path, RuntimeOptions(threads=threads, spin=True))
        rng = np.random.default_rng(0)
        feed: dict[str, Array] = {"a": rng.standard_normal((size, size), dtype=np.float32)}
        if precision == "int8":
            feed = {"a": rng.integers(0, 256, (size, size), dtype=np.uint8)}
        try:
            products = 1 if precision == "int8" else CHAIN
            return products * size**3 / _fastest(lambda: session.run(feed)) / 1e9
        finally:
            session.close()


def product(precision: str, size: int) -> bytes:
    """An ONNX model: `a` [size, size] times a constant, CHAIN times over. int8 is uint8 x int8 to int32 once, as ONNX
    Runtime's quantized layers do it on x86; bf16 is a model of floats, which its runtime runs in bf16."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    weights: Array
    if precision == "int8":
        kind, result = TensorProto.UINT8, TensorProto.INT32
        weights = rng.integers(-127, 128, (size, size), dtype=np.int8)
        nodes = [helper.make_node("MatMulInteger", ["a", "b"], ["c"])]
    else:
        kind = result = TensorProto.FLOAT
        weights = rng.standard_normal((size, size), dtype=np.float32) / np.float32(math.sqrt(size))
        names = ["a", *(f"c{k}" for k in range(1, CHAIN)), "c"]
        nodes = [helper.make_node("MatMul", [left, "b"], [right]) for left, right in pairwise(names)]
    inputs = [helper.make_tensor_value_info("a", kind, (size, size))]
    outputs = [helper.make_tensor_value_info("c", result, (size, size))]
    graph = helper.make_graph(nodes, "product", inputs, outputs, [numpy_helper.from_array(weights, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _bandwidth(threads: int) -> float:
    """The better of copy and sum (STREAM, McCalpin 1995) in GB/s over arrays that no cache holds.

    Every thread has its own part; NumPy gives the interpreter lock free while it works.
    """
    count = max(1, threads)
    size = int(np.clip(4 * _cache_bytes(), *ARRAY_BYTES)) // 8 // count
    parts = [tuple(np.full(size, float(k + 1)) for k in range(3)) for _ in range(count)]

    def copy(part: int) -> None:
        a, b, _ = parts[part]
        np.copyto(a, b)

    def add(part: int) -> None:
        a, b, c = parts[part]
        np.add(b, c, out=a)

    with ThreadPoolExecutor(count) as pool:

        def rate(kernel: Callable[[int], None], arrays: int) -> float:
            return arrays * 8 * size * count / _fastest(lambda: list(pool.map(kernel, range(count)))) / 1e9

        return max(rate(copy, 2), rate(add, 3))


def _fastest(work: Callable[[], Any]) -> float:
    """The shortest of as many runs as fit into SECONDS (at least 3): what disturbs can only slow down."""
    end = time.perf_counter() + SECONDS
    best, runs = math.inf, 0
    while runs < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
        runs += 1
    return best


def _cache_bytes() -> int:
    """Size of the largest cache, 32 MB where the system does not tell."""
    largest = 0
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG])\s*", file.read_text(encoding="utf-8"))
        if found:
            largest = max(largest, int(found[1]) << {"K": 10, "M": 20, "G": 30}[found[2]])
    return largest or 32 << 20
