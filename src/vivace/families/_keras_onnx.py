"""A Keras model as an ONNX graph, through PyTorch.

Keras's own ONNX export on PyTorch fixes sizes that should stay open (it traces); this one goes through torch.export.
"""

from __future__ import annotations

from typing import Any

from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Array
from vivace.families import _torch_onnx
from vivace.families._torch_onnx import Input


def convert(model: Any, keras: Any) -> Any:
    """The ModelProto of a Keras model with one input and one output. Raises ModelError naming the layer in the way."""
    given = _input(model)
    for layer in model.layers:
        if _recurrent(layer) and layer.input.shape[1] is None:
            raise ModelError(_cannot(layer))
    try:
        return _torch_onnx.convert(_inference(model), lambda x: answer(model, keras, x), given)
    except (ModelError, MissingDependency):
        raise
    except Exception as error:  # the exporter raises whatever its parts raise
        raise ModelError(_culprit(model, keras, error)) from error


def answer(model: Any, keras: Any, x: Array) -> Array:
    """What Keras gives for an input, in inference."""
    import torch

    with torch.no_grad():
        found: Array = keras.ops.convert_to_numpy(model(x, training=False))
    return found


def _input(model: Any) -> Input:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        found = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise ModelError(f"the model has {found}; import one with one of each (cut it with keras.Model)")
    given = model.inputs[0]
    limit = next((layer.input_dim for layer in model.layers if hasattr(layer, "input_dim")), 2)
    return Input(tuple(given.shape), str(given.dtype), int(limit))


def _inference(model: Any) -> Any:
    import torch

    class Inference(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            return self.inner(x, training=False)

    return Inference().eval()


def _culprit(model: Any, keras: Any, error: Exception) -> str:
    """Which layer cannot be exported, and what to do about it."""
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer" or not hasattr(layer, "input"):
            continue
        try:
            given = layer.input
            alone = keras.Model(given, layer(given))
            shown = Input(tuple(given.shape), str(given.dtype), getattr(layer, "input_dim", 2))
            _torch_onnx.export(_inference(alone), shown.example(2, 64), shown.shape)
        except Exception:  # noqa: BLE001 - found
            return _cannot(layer)
    return f"the model cannot be converted to ONNX: {_torch_onnx.line(error)}"


def _recurrent(layer: Any) -> bool:
    return hasattr(layer, "cell") or type(layer).__name__ in ("Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")


def _cannot(layer: Any) -> str:
    mend = "put a layer that Keras has in its place, or write its call with keras.ops that PyTorch exports"
    if _recurrent(layer):
        mend = "a recurrent layer needs a fixed number of steps: keras.Input((STEPS, ...)), or use convolutions"
    return f"layer {layer.name!r} ({type(layer).__name__}) cannot be converted to ONNX; {mend}"
