"""INT8 layers, and how the weights of a stage are kept: narrow, or without their zeros.

A quantized weight is kept as int8 with a scale for each output channel (`NAME.weight`, `NAME.weight_scale`). What is
done with it is said by layer: `weight_only` widens it when it is loaded; `dynamic` computes in integers by oneDNN's
operators in PyTorch, with one scale for all of an input, measured in every run; `dynamic torchao` by torchao, with a
scale for each frame. A sparse weight is kept as the bits that say where it is not zero, and what it is
there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from vivace.core import machine
from vivace.core.errors import MissingDependency, ModelError

DYNAMIC, TORCHAO, WEIGHT_ONLY = "dynamic", "dynamic torchao", "weight_only"
SCALE, KEPT, VALUES = "_scale", ".kept", ".values"
AS_FLOAT: tuple[Any, ...] = (
    1.0,
    0,
    torch.float32,
    "none",
    [],
    "",
)  # what oneDNN gives back: the sums, scaled, and nothing more
NO_SATURATION = {"avx512_vnni", "avx_vnni", "amx_int8", "asimd"}  # sums of 8-bit products fit


def kind(layer: nn.Module) -> str:
    """What a layer is to quantization, or empty: a convolution over one frame is a matrix product."""
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv1d) and _pointwise(layer)):
        return "linear"
    kinds = {nn.Conv1d: "conv1d", nn.ConvTranspose1d: "conv_transpose1d", nn.Embedding: "embedding"}
    return kinds.get(type(layer), "")


def layers(
    voice: nn.Module, kinds: Iterable[str], include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> dict[str, str]:
    """Name and kind of each layer of these kinds; shell-style patterns, no `include` means all."""
    kinds, include, exclude = set(kinds), tuple(include), tuple(exclude)
    found = {}
    for name, layer in voice.named_modules():
        taken = not include or any(fnmatchcase(name, p) for p in include)
        if kind(layer) in kinds and taken and not any(fnmatchcase(name, p) for p in exclude):
            found[name] = kind(layer)
    return found


def narrowed(weight: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """int8 and a scale for each index of `axis`, symmetric: off by at most half of a channel's peak / 127."""
    others = [k for k in range(weight.ndim) if k != axis]
    scale = (weight.float().abs().amax(others) / 127).clamp(min=1e-12)
    wide = weight.float() / _along(scale, weight.ndim, axis)
    return wide.round().clamp(-127, 127).to(torch.int8), scale


def widened(weight: Tensor, scale: Tensor, axis: int = 0) -> Tensor:
    return weight.float() * _along(scale, weight.ndim, axis)


def axis_of(layer: nn.Module) -> int:
    """The axis of a layer's weight that is its output channels."""
    return 1 if isinstance(layer, nn.ConvTranspose1d) else 0


def sparse(name: str, weight: Tensor) -> dict[str, Tensor]:
    """What is kept of a weight with zeros: a bit for each element, and the others."""
    import numpy as np

    there = weight.reshape(-1) != 0
    bits = torch.from_numpy(np.packbits(there.numpy()))
    return {name + KEPT: bits, name + VALUES: weight.reshape(-1)[there].clone()}


def dense(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights with those of `sparse` made whole again. Raises ModelError if they do not fit their shapes."""
    import numpy as np

    made = {name: value for name, value in weights.items() if not name.endswith((KEPT, VALUES))}
    for key in weights:
        if not key.endswith(KEPT):
            continue
        name = key.removesuffix(KEPT)
        shape, values = shapes.get(name, (0,)), weights.get(name + VALUES, torch.zeros(0))
        size = int(np.prod(shape))
        there = torch.from_numpy(np.unpackbits(weights[key].numpy(), count=size)).bool()
        if there.numel() != size or int(there.sum()) != values.numel():
            raise ModelError(f"the sparse weight {name} is not of shape {shape}; import the model again")
        whole = torch.zeros(size, dtype=values.dtype)
        whole[there] = values
        made[name] = whole.reshape(shape)
    return made


def load(voice: nn.Module, weights: Mapping[str, Tensor], quantized: Mapping[str, str]) -> None:
    """Fills `voice`, whose layers are replaced where `quantized` names them. Raises ModelError if the weights are not
    those that it asks for, and MissingDependency for a backend that is not there."""
    shapes = {name: tuple(value.shape) for name, value in voice.state_dict().items()}
    whole = dense(weights, shapes)
    scales = {f"{name}.weight{SCALE}" for name in quantized}
    for name in (*shapes, *sorted(scales)):
        size = tuple(whole[name].shape) if name in whole else None
        if size is None or size != shapes.get(name, size):
            raise ModelError(f"the weight {name} is {size or 'missing'}; {shapes.get(name, 'it')} is asked for")
    if extra := sorted(set(whole) - set(shapes) - scales):
        raise ModelError(f"the weight {extra[0]} belongs to nothing that the manifest asks for; import the model again")
    for name, how in quantized.items():
        layer = voice.get_submodule(name)
        weight, scale = whole[f"{name}.weight"], whole.pop(f"{name}.weight{SCALE}")
        if how == WEIGHT_ONLY:
            whole[f"{name}.weight"] = widened(weight, scale, axis_of(layer))
            continue
        bias = whole.pop(f"{name}.bias", None)
        del whole[f"{name}.weight"]
        parent, _, last = name.rpartition(".")
        setattr(voice.get_submodule(parent), last, _integer(layer, weight, scale, bias, how))
    voice.load_state_dict(whole, assign=True)
    voice.requires_grad_(False)


def _integer(layer: nn.Module, weight: Tensor, scale: Tensor, bias: Tensor | None, how: str) -> nn.Module:
    if how == TORCHAO and kind(layer) == "linear":
        return TorchaoLinear(weight, scale, bias, over_time=isinstance(layer, nn.Conv1d))
    if how == DYNAMIC and isinstance(layer, nn.Conv1d):
        return DynamicConv1d(layer, weight, scale, bias)
    if how == DYNAMIC and isinstance(layer, nn.Linear):
        return DynamicLinear(weight, scale, bias)
    raise ModelError(f"a {type(layer).__name__} cannot compute as {how!r}; import the model again")


class DynamicConv1d(nn.Module):
    """Computes in integers by oneDNN; the input is rounded with one scale, found in each run."""

    def __init__(self, layer: nn.Conv1d, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._sizes = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        self._weight = _onednn().qconv_prepack(weight, scale, 1.0, 0, *self._sizes, None)
        self._scale, self._zeros, self._bias = scale, torch.zeros(scale.numel(), dtype=torch.int32), bias
        self._top = _largest_input()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = _onednn().qconv_pointwise(
            *_rounded(x, self._top), self._weight, self._scale, self._zeros, self._bias, *self._sizes, *AS_FLOAT
        )
        return made


class DynamicLinear(nn.Module):
    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = _onednn().qlinear_prepack(weight, None)
        self._scale, self._zeros, self._bias = scale, torch.zeros(scale.numel(), dtype=torch.int32), bias
        self._top = _largest_input()

    def forward(self, x: Tensor) -> Tensor:
        rounded = _rounded(x, self._top)
        made: Tensor = _onednn().qlinear_pointwise(
            *rounded, self._weight, self._scale, self._zeros, self._bias, *AS_FLOAT
        )
        return made


def _rounded(x: Tensor, top: int) -> tuple[Tensor, float, int]:
    """The input in 0..`top`, its scale and where its zero is, which is exact: padding stays silent."""
    low, high = (float(t) for t in torch.aminmax(x))
    scale = max((max(high, 0.0) - min(low, 0.0)) / top, 1e-12)
    zero = round(-min(low, 0.0) / scale)
    return x.mul(1 / scale).add_(zero).round_().clamp_(0, top).to(torch.uint8), scale, zero


def _largest_input() -> int:
    """7 bits for inputs on x86 without VNNI, where sums of two 8-bit products do not fit and distort."""
    return 255 if NO_SATURATION & set(machine.describe()["flags"]) else 127


def _onednn() -> Any:
    """PyTorch's operators over plain int8 tensors. Raises ModelError where it was built without them."""
    if not hasattr(torch.ops.onednn, "qconv_pointwise"):
        raise ModelError("this PyTorch has no INT8 layers (oneDNN); use the bundle before torch_int8_dynamic")
    return torch.ops.onednn


class TorchaoLinear(nn.Module):
    """A matrix product by torchao; `over_time`: of each frame of [batch, channels, time]."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, *, over_time: bool) -> None:
        super().__init__()
        make, config = _torchao()
        wide = widened(weight, scale).flatten(1)
        linear = nn.Linear(wide.shape[1], wide.shape[0], bias=bias is not None)
        linear.load_state_dict({"weight": wide, **({} if bias is None else {"bias": bias})})
        holder = nn.Sequential(linear)
        make(holder.requires_grad_(False), config)  # rounds what is rounded already: the same int8
        self._held, self._over_time = (holder[0],), over_time  # no weights of its own to be loaded

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._held[0](x.transpose(1, 2).contiguous() if self._over_time else x)
        return made.transpose(1, 2) if self._over_time else made


def _torchao() -> tuple[Any, Any]:
    import logging

    try:
        for name in ("torchao", "torch.utils._pytree"):  # that its CUDA kernels and an enumeration are not for here
            logging.getLogger(name).setLevel(logging.ERROR)
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        raise MissingDependency("torchao", "torchao") from None
    return quantize_, Int8DynamicActivationInt8WeightConfig()


def _pointwise(layer: nn.Conv1d) -> bool:
    return bool((layer.kernel_size, layer.stride, layer.groups, layer.padding) == ((1,), (1,), 1, (0,)))


def _along(scale: Tensor, dims: int, axis: int) -> Tensor:
    return scale.reshape([-1 if k == axis else 1 for k in range(dims)])
