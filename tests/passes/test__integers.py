from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vivace.core.stage import Array
from vivace.passes._integers import VALUE_RULES, objects
from vivace.passes._size import Size

FRAMES = Size.named("frames")


def sizes(*values: int | Size) -> Array:
    return objects([v if isinstance(v, Size) else Size.of(v) for v in values], (len(values),))


def rule(kind: str, *inputs: Array, **given: Any) -> list[Any] | None:
    found = VALUE_RULES[kind](list(inputs), given)
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("kind", "inputs", "given", "expected"),
    [
        ("Add", (sizes(1, FRAMES), sizes(2)), {}, [Size.of(3), FRAMES + 2]),
        ("Sub", (sizes(FRAMES), sizes(FRAMES)), {}, [Size.of(0)]),
        ("Mul", (sizes(FRAMES, 3), sizes(FRAMES)), {}, [FRAMES * FRAMES, FRAMES * 3]),
        ("Neg", (sizes(FRAMES),), {}, [-FRAMES]),
        ("Div", (sizes(FRAMES * 4), sizes(2)), {}, [FRAMES * 2]),
        ("Div", (sizes(FRAMES), sizes(2)), {}, None),
        ("Div", (sizes(4), sizes(-2)), {}, None),
        ("Identity", (sizes(FRAMES),), {}, [FRAMES]),
        ("Cast", (sizes(FRAMES),), {"to": 7}, [FRAMES]),
        ("Cast", (sizes(FRAMES),), {"to": 1}, None),
        ("Concat", (sizes(1), sizes(FRAMES)), {"axis": 0}, [Size.of(1), FRAMES]),
        ("Transpose", (sizes(1, 2).reshape(1, 2),), {"perm": [1, 0]}, [[Size.of(1)], [Size.of(2)]]),
        ("Gather", (sizes(5, FRAMES), sizes(-1)), {"axis": 0}, [FRAMES]),
        ("Gather", (sizes(5, FRAMES), sizes(FRAMES)), {"axis": 0}, None),
        ("Reshape", (sizes(1, 2, 3, FRAMES), sizes(-1, 2)), {}, [[Size.of(1), Size.of(2)], [Size.of(3), FRAMES]]),
        ("Reshape", (sizes(1), sizes(FRAMES)), {}, None),
        ("Unsqueeze", (sizes(FRAMES), sizes(0)), {}, [[FRAMES]]),
        ("Squeeze", (sizes(FRAMES).reshape(1, 1), sizes(0)), {}, [FRAMES]),
        ("Slice", (sizes(1, 2, FRAMES), sizes(-1), sizes(-(2**62)), sizes(0), sizes(-1)), {}, [FRAMES, 2, 1]),
        ("Slice", (sizes(1, 2, FRAMES), sizes(1), sizes(2**62)), {}, [2, FRAMES]),
        ("Slice", (sizes(1), sizes(FRAMES), sizes(2)), {}, None),
        ("Equal", (sizes(FRAMES, 2), sizes(-1, 2)), {}, [False, True]),
        ("Equal", (sizes(FRAMES), sizes(1)), {}, None),
        ("Where", (objects([True, False], (2,)), sizes(1), sizes(FRAMES)), {}, [1, FRAMES]),
        ("Where", (sizes(1), sizes(1), sizes(2)), {}, None),
    ],
)
def test_rules(kind: str, inputs: tuple[Array, ...], given: dict[str, Any], expected: list[Any] | None) -> None:
    plain = None if expected is None else [Size.of(v) if type(v) is int else v for v in expected]
    assert rule(kind, *inputs, **given) == plain


def test_objects_are_not_looked_into() -> None:
    assert objects([[1, 2], [3]], (2,)).shape == (2,)
    assert objects([1], ()).shape == ()
    assert objects([FRAMES] * 4, (2, 2)).dtype == np.dtype(object)
