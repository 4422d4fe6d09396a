from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from passes.graph_maker import GraphMaker, every_tensor
from passes.shape_maker import graphs, inputs
from vivace.passes._size import UNKNOWN, Size
from vivace.passes._symbolic import Symbols


def number(size: Size, dims: dict[str, int]) -> int | None:
    """The size in a run with these input dimensions; None if it holds a dimension that only the data tells."""
    found = 0
    for factors, coefficient in size.terms:
        for names in factors:
            if any(name.startswith(UNKNOWN) for name in names):
                return None
            coefficient *= max(dims[name] for name in names)
        found += coefficient
    return found


@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=graphs(), batch=st.integers(1, 3), frames=st.integers(1, 7), alone=st.booleans())
def test_every_claim_holds_in_a_run(model: Any, batch: int, frames: int, alone: bool) -> None:
    rows = 1 if alone else batch
    dims = {"batch": batch, "frames": frames, "rows": rows}
    symbols = Symbols(model)
    checked = 0
    for name, value in every_tensor(model, inputs(batch, frames, rows)).items():
        for claimed, real in zip(symbols.shapes[name], value.shape, strict=True):
            expected = number(claimed, dims)
            assert expected is None or expected == real
            checked += expected is not None
        if name in symbols.values:
            for claim, real in zip(symbols.values[name].ravel(), value.ravel(), strict=True):
                expected = claim if isinstance(claim, bool) else number(claim, dims)
                assert expected is None or expected == real
        if name in symbols.uniform:
            assert (value == np.float32(symbols.uniform[name])).all()
        if name in symbols.grids:
            shape, components = symbols.grids[name]
            assert len(shape) == value.ndim
            places = value if len(components) > 1 else value[..., None]
            for k, component in enumerate(components):
                counted = np.indices(value.shape)[component] if isinstance(component, int) else number(component, dims)
                counted = counted if len(components) == 1 or isinstance(component, Size) else counted[..., 0]
                assert counted is None or (places[..., k] == counted).all()
    assert checked


def shape(g: GraphMaker, name: str) -> list[str] | None:
    found = Symbols(g.model(name)).shapes.get(name)
    return None if found is None else [str(size).replace("1*", "", 1) for size in found]


def test_shapes_of_single_operators() -> None:
    g = GraphMaker(x=["batch", 4, "frames"], index=("int64", ["batch", "picks"]), y=["batch", 4, 8])
    frames = g.op("Gather", g.op("Shape", "x"), np.int64(2), axis=0)
    weight = np.ones((6, 4, 3), np.float32)
    rows = {
        g.op("Conv", "x", weight): ["batch", "6", "-2+1*frames"],
        g.op("Conv", "x", weight, strides=[2]): None,
        g.op("Gather", "y", "index", axis=2): ["batch", "4", "batch", "picks"],
        g.op("GatherElements", "x", g.op("Unsqueeze", "index", g.ints(1)), axis=2): ["batch", "1", "picks"],
        g.op("Squeeze", g.op("Unsqueeze", "x", g.ints(0, -1)), g.ints(-1)): ["1", "batch", "4", "frames"],
        g.op("Split", "x", g.ints(1, 3), axis=1, outputs=2)[1]: ["batch", "3", "frames"],
        g.op("Slice", "x", g.ints(-1), g.ints(-(2**62)), g.ints(1), g.ints(-1)): ["batch", "4", "frames"],
        g.op("Slice", "x", g.ints(1), g.ints(-1), g.ints(1)): ["batch", "2", "frames"],
        g.op("ReduceMax", "x", axes=[-1], keepdims=0): ["batch", "4"],
        g.op("ReduceSum", "x", g.ints(2)): ["batch", "4", "1"],
        g.op("MatMul", g.op("Transpose", "x", perm=[0, 2, 1]), "x"): ["batch", "frames", "frames"],
        g.op("Concat", "x", "y", axis=2): ["batch", "4", "1*frames+8"],
        g.op("Expand", "x", g.ints(1, 1, 1)): ["batch", "4", "frames"],
        g.op("Range", np.int64(0), frames, np.int64(1)): ["frames"],
        g.op("Where", g.op("Greater", "x", np.float32(0)), "x", np.zeros(1, np.float32)): ["batch", "4", "frames"],
        g.op("Constant", value_ints=[1, 2, 3]): ["3"],
    }
    symbols = Symbols(g.model(*rows))
    for name, expected in rows.items():
        found = [str(size).replace("1*", "", 1) if len(size.terms) == 1 else str(size) for size in symbols.shapes[name]]
        if expected is not None:
            assert found == expected, name
        else:
            assert found[2].startswith(UNKNOWN)


def test_a_slice_is_followed_only_where_it_is_proven_to_stay_inside() -> None:
    g = GraphMaker(x=["batch", 4, "frames"], start=("int64", [1]))
    frames = g.op("Unsqueeze", g.op("Gather", g.op("Shape", "x"), np.int64(2), axis=0), g.ints(0))
    inside = g.op("Slice", "x", g.op("Sub", frames, g.ints(1)), frames, g.ints(2))
    below = g.op("Slice", "x", g.op("Sub", frames, g.ints(3)), frames, g.ints(2))  # frames may be 1
    given = g.op("Slice", "x", "start", frames, g.ints(2))
    symbols = Symbols(g.model(inside, below, given))
    assert symbols.shapes[inside][2] == Size.of(1)
    assert UNKNOWN in str(symbols.shapes[below][2])
    assert UNKNOWN in str(symbols.shapes[given][2])


def test_equal_names_are_equal_sizes_and_others_are_not() -> None:
    g = GraphMaker(a=["batch", "frames"], b=["batch", "frames"], c=["other", "frames"], d=[None, None])
    added = [g.op("Add", "a", name) for name in "bcd"]
    symbols = Symbols(g.model(*added))
    assert symbols.shapes[added[0]] == symbols.shapes["a"]
    assert symbols.shapes[added[1]] != symbols.shapes["a"]
    assert symbols.shapes[added[2]][0] == Size.named("batch", "d.0")
