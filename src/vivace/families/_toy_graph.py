"""The three graphs of the toy voice, with weights drawn from its seed. Small, but with the layers that real voices
have: embeddings, masked convolutions, matrix products, transposed convolutions and residual blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from vivace.core.stage import Array, seeded

TEXT, FRAMES, DECODER = "text", "frames", "decoder"
CHANNELS = 16
STRIDES = (8, 10)  # 80 samples for each frame
OPSET, IR = 15, 8


class Builder:
    """Collects the nodes and weights of one graph."""

    def __init__(self, seed: int, place: int) -> None:
        self._rng = seeded(seed, place)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, shape: tuple[int, ...], fan: int = 0) -> str:
        """Normal numbers whose spread keeps the size of what goes through."""
        drawn = self._rng.standard_normal(shape) / np.sqrt(fan or np.prod(shape[1:]))
        return self.constant(name, drawn.astype(np.float32))

    def bias(self, name: str, size: int) -> str:
        return self.constant(name, (self._rng.standard_normal(size) * 0.1).astype(np.float32))

    def add(self, kind: str, name: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"/{name}_out"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"/{name}/{kind}", **attributes))
        return output

    def conv(self, name: str, source: str, into: int, out: int, kernel: int, dilation: int = 1) -> str:
        weights = [self.weight(f"{name}.weight", (out, into, kernel)), self.bias(f"{name}.bias", out)]
        pad = (kernel - 1) * dilation // 2
        shape: dict[str, Any] = {"kernel_shape": [kernel], "dilations": [dilation], "pads": [pad, pad]}
        return self.add("Conv", name, [source, *weights], **shape)

    def upsample(self, name: str, source: str, into: int, out: int, stride: int) -> str:
        kernel = 2 * stride
        weight = self.weight(f"{name}.weight", (into, out, kernel), fan=2 * into)  # two taps meet in each sample
        shape: dict[str, Any] = {"kernel_shape": [kernel], "strides": [stride], "pads": [stride // 2, stride // 2]}
        return self.add("ConvTranspose", name, [source, weight, self.bias(f"{name}.bias", out)], **shape)

    def leaky(self, name: str, source: str) -> str:
        return self.add("LeakyRelu", name, [source], alpha=0.1)

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> Any:
        from onnx import checker, helper

        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="vivace")
        model.ir_version = IR
        checker.check_model(model, full_check=True)
        return model


def build(seed: int, characters: int, speakers: int) -> dict[str, Any]:
    """The stage models by name, in the order in which they run."""
    return {
        TEXT: _text(Builder(seed, 0), characters, speakers),
        FRAMES: _frames(Builder(seed, 1)),
        DECODER: _decoder(Builder(seed, 2)),
    }


def tensor(value: Any) -> tuple[str, tuple[int | str, ...]]:
    """(NumPy element type, shape) of a graph's input or output."""
    from onnx import helper

    kind = value.type.tensor_type
    shape = tuple(d.dim_value or d.dim_param for d in kind.shape.dim)
    return str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape


def _text(b: Builder, characters: int, speakers: int) -> Any:
    """Characters -> `hidden` [batch, channels, characters] and `durations` [batch, characters] in frames."""
    durations = 3 + np.arange(characters, dtype=np.float32) % 4
    b.add("Gather", "durations", [b.constant("durations.weight", durations), "input"], "durations")
    letters = b.add("Gather", "letters", [b.weight("letters.weight", (characters, CHANNELS), fan=1), "input"])
    people = b.add("Gather", "people", [b.weight("people.weight", (speakers, CHANNELS), fan=1), "sid"])
    people = b.add("Unsqueeze", "people.axis", [people, b.constant("axis", np.array([1], np.int64))])
    x = b.add("Add", "spoken", [letters, people])
    x = b.add("MatMul", "mix", [x, b.weight("mix.weight", (CHANNELS, CHANNELS))])
    x = b.add("Transpose", "turned", [x], perm=[0, 2, 1])
    x = b.add("Mul", "masked", [x, "mask"])  # the convolution must not see the padding of a batch
    x = b.conv("neighbours", x, CHANNELS, CHANNELS, 3)
    b.add("Tanh", "hidden", [x], "hidden")
    inputs = [_int("input", "batch", "characters"), _float("mask", "batch", 1, "characters"), _int("sid", "batch")]
    outputs = [_float("hidden", "batch", CHANNELS, "characters"), _float("durations", "batch", "characters")]
    return b.model(TEXT, inputs, outputs)


def _frames(b: Builder) -> Any:
    """`condition` and `noise` [batch, channels, frames] -> `frames`; `before` is the last frame of the step before."""
    x = b.add("Mul", "scaled", ["noise", "noise_scale"])
    x = b.add("Add", "noisy", ["condition", x])
    x = b.add("Transpose", "turned", [x], perm=[0, 2, 1])
    x = b.add("MatMul", "mix", [x, b.weight("mix.weight", (CHANNELS, CHANNELS))])
    x = b.add("Transpose", "back", [x], perm=[0, 2, 1])
    memory = b.add("Mul", "memory", ["before", b.constant("memory.weight", np.array(0.5, np.float32))])
    x = b.add("Add", "remembered", [x, memory])
    b.add("Tanh", "frames", [x], "frames")
    shape = ("batch", CHANNELS, "frames")
    inputs = [_float("condition", *shape), _float("noise", *shape), _float("noise_scale", "batch", 1, 1)]
    return b.model(FRAMES, [*inputs, _float("before", "batch", CHANNELS, 1)], [_float("frames", *shape)])


def _decoder(b: Builder) -> Any:
    """`latent` [1, channels, frames] -> `output` [1, 1, samples]: a HiFi-GAN (Kong et al. 2020) in miniature."""
    x = b.conv("conv_pre", "latent", CHANNELS, 16, 7)
    for k, (into, out, stride) in enumerate(zip((16, 12), (12, 8), STRIDES, strict=True)):
        x = b.upsample(f"ups.{k}", b.leaky(f"ups.{k}.leaky", x), into, out, stride)
        inner = b.conv(f"resblocks.{k}", b.leaky(f"resblocks.{k}.leaky", x), out, out, 3, dilation=3)
        x = b.add("Add", f"resblocks.{k}.sum", [inner, x])
    x = b.conv("conv_post", b.leaky("conv_post.leaky", x), 8, 1, 7)
    change = np.array([[[-0.5, 0, 0.5]]], np.float32)  # what does not change is not heard: no offset in the output
    x = b.add("Conv", "no_offset", [x, b.constant("no_offset.weight", change)], kernel_shape=[3], pads=[1, 1])
    b.add("Tanh", "output", [x], "output")
    return b.model(DECODER, [_float("latent", "batch", CHANNELS, "frames")], [_float("output", "batch", 1, "samples")])


def _float(name: str, *shape: int | str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _int(name: str, *shape: int | str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.INT64, list(shape))
