"""Random graphs full of shape arithmetic, as exporters write them, for comparing what is proven with what happens."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from passes.graph_maker import GraphMaker
from vivace.core.stage import Array

CHANNELS = 4


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """A model over x [batch, 4, frames] and other [rows, 4, frames] (rows: 1 or the batch)."""
    g = GraphMaker(x=["batch", CHANNELS, "frames"], other=["rows", CHANNELS, "frames"])
    data = ["x", "other"]  # of three dimensions, four channels
    sizes: list[str] = []  # int64 scalars

    def one(of: list[str]) -> str:
        return draw(st.sampled_from(of))

    def size() -> str:
        """A scalar: a dimension of some tensor, or arithmetic on such."""
        kind = draw(st.integers(0, 3 if sizes else 0))
        if kind == 0:
            return str(g.op("Gather", g.op("Shape", one(data)), np.int64(draw(st.integers(0, 2))), axis=0))
        if kind == 1:
            return str(
                g.op(draw(st.sampled_from(["Add", "Sub", "Mul"])), one(sizes), np.int64(draw(st.integers(0, 3))))
            )
        if kind == 2:
            return str(g.op(draw(st.sampled_from(["Add", "Mul"])), one(sizes), one(sizes)))
        return str(g.op("Div", g.op("Mul", one(sizes), np.int64(2)), np.int64(2)))

    def vector(*parts: Any) -> str:
        made = [g.op("Unsqueeze", p, g.ints(0)) if isinstance(p, str) else g.ints(p) for p in parts]
        return str(g.op("Concat", *made, axis=0))

    def dim(tensor: str, axis: int) -> str:
        return str(g.op("Gather", g.op("Shape", tensor), np.int64(axis), axis=0))

    def flat(x: str) -> str:
        y = g.op("Reshape", x, vector(dim(x, 0), -1))
        return str(g.op("Reshape", y, vector(dim(x, 0), CHANNELS, dim(x, 2))))

    def heads(x: str) -> str:
        y = g.op("Transpose", g.op("Reshape", x, vector(dim(x, 0), 2, -1, dim(x, 2))), perm=[0, 1, 3, 2])
        return str(g.op("Reshape", g.op("Transpose", y, perm=[0, 1, 3, 2]), vector(dim(x, 0), -1, dim(x, 2))))

    def expanded(x: str) -> str:
        shape = g.op("Shape", x)
        minus = g.op("Equal", shape, g.ints(-1, -1, -1))
        return str(g.op("Expand", x, g.op("Where", minus, g.ints(1, 1, 1), shape)))

    def zeros(x: str) -> str:
        from onnx import numpy_helper

        fill = numpy_helper.from_array(np.array([draw(st.sampled_from([0.0, 1.0]))], np.float32))
        uniform = g.op("ConstantOfShape", g.op("Shape", one(data) if draw(st.booleans()) else x), value=fill)
        return str(g.op(draw(st.sampled_from(["Add", "Mul"])), x, uniform))

    def sliced(x: str) -> str:
        y = g.op("Pad", x, g.ints(0, 0, 1, 0, 0, draw(st.integers(0, 2))))
        last = g.op("Add", dim(x, 2), np.int64(1))
        return str(g.op("Slice", y, g.ints(1), g.op("Unsqueeze", last, g.ints(0)), g.ints(2), g.ints(1)))

    def computed_pad(x: str) -> str:
        pads = g.op("Concat", vector(draw(st.integers(0, 1)), 0), g.ints(0, 0, 0, 0), axis=0)
        turned = g.op(
            "Slice", g.op("Reshape", pads, g.ints(-1, 2)), g.ints(-1), g.ints(-(2**63) + 1), g.ints(0), g.ints(-1)
        )
        y = g.op("Pad", x, g.op("Reshape", g.op("Transpose", turned, perm=[1, 0]), g.ints(-1)))
        return str(g.op("Slice", y, g.ints(0), g.op("Unsqueeze", dim(x, 2), g.ints(0)), g.ints(2)))

    def column(x: str) -> str:
        """x[:, k, :] = 0.5, the way exporters write it."""
        k = draw(st.sampled_from([0, 1, CHANNELS - 1]))
        batch, frames = dim(x, 0), dim(x, 2)
        first = g.op("Reshape", g.op("Range", np.int64(0), batch, np.int64(1)), g.ints(-1, 1, 1))
        last = g.op("Reshape", g.op("Range", np.int64(0), frames, np.int64(1)), g.ints(1, 1, -1))
        middle = g.op("Reshape", np.array([k], np.int64), g.ints(1, 1, 1))
        grid = g.op("Shape", g.op("Add", g.op("Add", first, middle), last))
        parts = [g.op("Unsqueeze", g.op("Expand", p, grid), g.ints(-1)) for p in (first, middle, last)]
        value = g.op("Expand", np.array([0.5], np.float32), grid)
        return str(g.op("ScatterND", x, g.op("Concat", *parts, axis=-1), value))

    def repeated(x: str) -> str:
        return str(g.op("Add", g.op("Tanh", x), g.op("Tanh", x)))

    def merged(x: str) -> str:
        return str(g.op("Add", x, one(data)))

    def reduced(x: str) -> str:
        return str(g.op("Sub", x, g.op("ReduceMean", x, axes=[1])))

    def found(x: str) -> str:
        """As many of the elements as are positive, summed: a length that only the data tells."""
        where = g.op("Transpose", g.op("NonZero", g.op("Greater", x, np.float32(0))), perm=[1, 0])
        taken = g.op("GatherND", x, where)
        count = g.op("Gather", g.op("Shape", where), np.int64(0), axis=0)
        cut = g.op("Slice", taken, g.ints(0), g.op("Unsqueeze", count, g.ints(0)), g.ints(0))
        return str(g.op("Add", x, g.op("ReduceSum", cut, g.ints(0), keepdims=1)))

    def convolved(x: str) -> str:
        weight = np.linspace(-0.3, 0.3, CHANNELS * CHANNELS * 3).reshape(CHANNELS, CHANNELS, 3).astype(np.float32)
        return str(g.op("Conv", g.op("Pad", x, g.ints(0, 0, 1, 0, 0, 1)), weight))

    steps = [flat, heads, expanded, zeros, sliced, computed_pad, column, repeated, merged, reduced, found, convolved]
    outputs = []
    for step in draw(st.lists(st.sampled_from(steps), min_size=1, max_size=6)):
        sizes.append(size())
        data.append(step(one(data)))
    outputs.append(data[-1])
    outputs += [g.op("Identity", name) for name in sizes[-1:]]
    return g.model(*dict.fromkeys(outputs))


def inputs(batch: int, frames: int, rows: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {"x": (batch, CHANNELS, frames), "other": (rows, CHANNELS, frames)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
