"""What operators on small integer tensors give, where the integers are sizes that need not be known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vivace.core.stage import Array
from vivace.passes._size import Size

FAR = 2**31  # a position beyond this means "to the end"


def objects(values: Sequence[Any], shape: Sequence[int]) -> Array:
    """An array of Size or bool; np.array would try to look inside."""
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made.reshape(tuple(shape))


def _numbers(value: Array) -> list[int] | None:
    """Plain integers of a value, or None."""
    found = [v.constant if isinstance(v, Size) else None for v in value.ravel()]
    return None if None in found else [v for v in found if v is not None]


def _gather(inputs: list[Array], given: dict[str, Any]) -> Array | None:
    indices = _numbers(inputs[1])
    if indices is None:
        return None
    taken = np.take(inputs[0], np.array(indices).reshape(inputs[1].shape), axis=given.get("axis", 0))
    return np.asarray(taken, dtype=object)


def _reshape(inputs: list[Array], _: dict[str, Any]) -> Array | None:
    target = _numbers(inputs[1])
    if target is None:
        return None
    return inputs[0].reshape([inputs[0].shape[k] if n == 0 else n for k, n in enumerate(target)])


def _unsqueeze(inputs: list[Array], given: dict[str, Any]) -> Array | None:
    axes = given.get("axes") or _numbers(inputs[1])
    return None if axes is None else np.expand_dims(inputs[0], tuple(axes))


def _squeeze(inputs: list[Array], given: dict[str, Any]) -> Array | None:
    axes = given.get("axes") or (_numbers(inputs[1]) if len(inputs) > 1 else None)
    return inputs[0].reshape(np.squeeze(np.empty(inputs[0].shape), None if axes is None else tuple(axes)).shape)


def _slice(inputs: list[Array], _: dict[str, Any]) -> Array | None:
    numbers = [_numbers(value) for value in inputs[1:]]
    if any(n is None for n in numbers):
        return None
    starts, ends, *rest = [n for n in numbers if n is not None]
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    cut: list[slice] = [slice(None)] * inputs[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, None if end < -FAR else end, step)
    return inputs[0][tuple(cut)]


def _equal(inputs: list[Array], _: dict[str, Any]) -> Array | None:
    found = []
    left, right = np.broadcast_arrays(*inputs)
    for a, b in zip(left.ravel(), right.ravel(), strict=True):
        difference = (a - b).constant
        if difference is None and not ((a - b - 1).never_negative() or (b - a - 1).never_negative()):
            return None
        found.append(difference == 0)
    return objects(found, left.shape)


def _where(inputs: list[Array], _: dict[str, Any]) -> Array | None:
    if not all(isinstance(v, bool) for v in inputs[0].ravel()):
        return None
    return np.where(inputs[0].astype(bool), inputs[1], inputs[2])


def _divide(inputs: list[Array], _: dict[str, Any]) -> Array | None:
    left, right = np.broadcast_arrays(*inputs)
    found = [a // b if (b - 1).never_negative() else None for a, b in zip(left.ravel(), right.ravel(), strict=True)]
    return None if any(v is None for v in found) else objects(found, left.shape)


VALUE_RULES: dict[str, Callable[[list[Array], dict[str, Any]], Array | None]] = {
    "Add": lambda v, _: np.asarray(v[0] + v[1], dtype=object),
    "Sub": lambda v, _: np.asarray(v[0] - v[1], dtype=object),
    "Mul": lambda v, _: np.asarray(v[0] * v[1], dtype=object),
    "Neg": lambda v, _: np.asarray(-v[0], dtype=object),
    "Div": _divide,
    "Identity": lambda v, _: v[0],
    "Cast": lambda v, given: v[0] if given["to"] in (6, 7) else None,  # int32, int64
    "Concat": lambda v, given: np.concatenate(v, axis=given["axis"]),
    "Transpose": lambda v, given: np.transpose(v[0], given.get("perm")),
    "Gather": _gather,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Equal": _equal,
    "Where": _where,
}
