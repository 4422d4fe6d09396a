"""A graph is taken only if it was compared with its model at least once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from vivace.core.errors import ModelError
from vivace.families._torch_onnx import Input, convert, prove

GIVEN = Input((None, None, 2), "float32")


def identity() -> Any:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", 2]) for name in ("input", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["y"])], "same", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_equal_passes_and_different_does_not() -> None:
    prove(lambda x: x, identity(), GIVEN)
    with pytest.raises(ModelError, match="differs from the model"):
        prove(lambda x: x + np.float32(1), identity(), GIVEN)


def test_a_model_that_takes_nothing_proves_nothing() -> None:
    def picky(x: Any) -> Any:
        raise ValueError("wants 17 columns")

    with pytest.raises(ModelError, match=r"nothing could be compared.*wants 17 columns"):
        prove(picky, identity(), GIVEN)


def test_a_squeeze_of_an_axis_that_stays_open_changes_nothing_as_in_pytorch() -> None:
    """Keras's `take` has one; ONNX's Squeeze would fail on every length but 1."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Taken(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x.ravel().squeeze(0).reshape(x.shape) * 2

    module = Taken().eval()
    graph = convert(module, lambda x: module(torch.from_numpy(x)).numpy(), Input((None, None), "float32"))
    assert "Squeeze" not in {node.op_type for node in graph.graph.node}
