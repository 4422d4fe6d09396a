"""Tiny voices with the structure of an exported Piper model: VITS (text encoder, stochastic or plain durations,
expansion to frames, prior noise, flow, HiFi-GAN), weights from a seed. A few thousand parameters, milliseconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

SYMBOLS = ["_", "^", "$", " ", ".", ",", "?", "!", *"abcdefghijklmnopqrstuvwxyz"]
HIDDEN, CHANNELS, SPEAKER_CHANNELS = 8, 6, 4
STRIDES = (8, 4)
HOP = 32


@dataclass(frozen=True)
class Shape:
    """What kind of Piper voice is made. `nodes`: constants are nodes shared by all parts of the graph, as some
    exporters write them, instead of initializers."""

    speakers: int = 1
    stochastic: bool = True
    seed: int = 0
    nodes: bool = False
    opset: int = 15


def make(folder: Path, shape: Shape = Shape(), name: str = "tiny") -> Path:
    """Writes NAME.onnx and NAME.onnx.json; returns the path of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(model(shape).SerializeToString())
    path.with_name(f"{name}.onnx.json").write_text(json.dumps(config(shape)), encoding="utf-8")
    return path


def config(shape: Shape = Shape()) -> dict[str, Any]:
    return {
        "audio": {"sample_rate": 8000, "quality": "tiny"},
        "espeak": {"voice": "en-us"},
        "phoneme_type": "text",
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "num_symbols": len(SYMBOLS),
        "num_speakers": shape.speakers,
        "speaker_id_map": {f"speaker {k}": k for k in range(shape.speakers)} if shape.speakers > 1 else {},
        "phoneme_id_map": {symbol: [k] for k, symbol in enumerate(SYMBOLS)},
        "language": {"code": "en_US", "name_english": "English"},
        "piper_version": "1.0.0",
    }


class Maker:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.random = np.random.default_rng(shape.seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.made: dict[str, int] = {}
        self.known: dict[Any, str] = {}

    def op(self, kind: str, *inputs: str, where: str = "", output: str = "", **attributes: Any) -> str:
        name = f"{where}/{kind}"
        count = self.made[name] = self.made.get(name, -1) + 1
        name = f"{name}_{count}" if count else name
        output = output or f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """Equal constants share one tensor, wherever they are used."""
        array = np.array(value, dtype)
        key = (array.tobytes(), array.shape, array.dtype.str)
        if key not in self.known:
            name = self.known[key] = f"constant_{len(self.known)}"
            if self.shape.nodes:
                self.op("Constant", where="/constants", output=name, value=numpy_helper.from_array(array))
            else:
                self.weights.append(numpy_helper.from_array(array, name))
        return self.known[key]

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        fan = np.prod(shape[1:]) or 1
        array = (self.random.standard_normal(shape) * scale / np.sqrt(fan)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def bias(self, name: str, size: int) -> str:
        return self.weight(name, size, scale=0.05)

    def conv(self, x: str, name: str, into: int, out: int, kernel: int, dilation: int = 1, scale: float = 1.0) -> str:
        pad = (kernel - 1) * dilation // 2
        weights = (self.weight(f"{name}.weight", out, into, kernel, scale=scale), self.bias(f"{name}.bias", out))
        where = "/" + name.replace(".", "/", 1)
        return self.op("Conv", x, *weights, where=where, pads=[pad, pad], dilations=[dilation], kernel_shape=[kernel])

    def mask(self, longest: str, lengths: str, where: str) -> str:
        """float [batch, 1, longest]"""
        places = self.op("Range", self.constant(0), longest, self.constant(1), where=where)
        places = self.op("Unsqueeze", places, self.constant([0]), where=where)
        ends = self.op("Unsqueeze", lengths, self.constant([1]), where=where)
        inside = self.op("Less", places, ends, where=where)
        inside = self.op("Cast", inside, where=where, to=TensorProto.FLOAT)
        return self.op("Unsqueeze", inside, self.constant([1]), where=where)


def model(shape: Shape = Shape()) -> Any:
    m = Maker(shape)
    g = ""
    if shape.speakers > 1:
        g = m.op("Gather", m.weight("emb_g.weight", shape.speakers, SPEAKER_CHANNELS), "sid", where="/emb_g")
        g = m.op("Unsqueeze", g, m.constant([-1]))
    noise_scale, length_scale, noise_w = (m.op("Gather", "scales", m.constant(k)) for k in range(3))
    x, mean, log_scale, mask = _encoder(m)
    durations = _durations(m, x, mask, g, noise_w, length_scale)
    mean, log_scale, frame_mask = _expansion(m, durations, mask, mean, log_scale)
    noise = m.op("RandomNormalLike", mean)
    noise = m.op("Mul", m.op("Mul", noise, m.op("Exp", log_scale)), noise_scale)
    z = _flow(m, m.op("Add", mean, noise), frame_mask, g)
    _decoder(m, m.op("Mul", z, frame_mask), g)

    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, ["batch_size", "phonemes"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, ["batch_size"]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    if shape.speakers > 1:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, ["batch_size"]))
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch_size", 1, 1, "time"])
    graph = helper.make_graph(m.nodes, "tiny", inputs, [output], m.weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", shape.opset)])
    made.ir_version = 8
    checker.check_model(made, full_check=True)
    return made


def _encoder(m: Maker) -> tuple[str, str, str, str]:
    where = "/enc_p"
    longest = m.op("Gather", m.op("Shape", "input", where=where), m.constant(1), where=where)
    mask = m.mask(longest, "input_lengths", where)
    x = m.op("Gather", m.weight("enc_p.emb.weight", len(SYMBOLS), HIDDEN, scale=2.0), "input", where=where)
    x = m.op("MatMul", x, m.weight("enc_p.mix.weight", HIDDEN, HIDDEN), where=where)
    x = m.op("Mul", m.op("Transpose", x, where=where, perm=[0, 2, 1]), mask, where=where)
    x = m.op("Relu", m.conv(x, "enc_p.conv", HIDDEN, HIDDEN, 3), where=where)
    x = m.op("Mul", x, mask, where=where)
    stats = m.op("Mul", m.conv(x, "enc_p.proj", HIDDEN, 2 * CHANNELS, 1), mask, where=where)
    return x, *(_slice(m, stats, 1, k * CHANNELS, (k + 1) * CHANNELS, where) for k in (0, 1)), mask  # type: ignore[return-value]


def _slice(m: Maker, x: str, axis: int, start: int, stop: int, where: str) -> str:
    return m.op("Slice", x, m.constant([start]), m.constant([stop]), m.constant([axis]), where=where)


def _durations(m: Maker, x: str, mask: str, g: str, noise_w: str, length_scale: str) -> str:
    """Frames of each phoneme, float [batch, 1, phonemes]: about one to six."""
    where = "/dp"
    if g:
        x = m.op("Add", x, m.conv(g, "dp.cond", SPEAKER_CHANNELS, HIDDEN, 1), where=where)
    logs = m.conv(m.op("Mul", x, mask, where=where), "dp.conv", HIDDEN, 1, 3, scale=0.4)
    if m.shape.stochastic:
        sizes = m.op("Shape", x, where=where)
        batch, phonemes = (m.op("Gather", sizes, m.constant([k]), where=where) for k in (0, 2))
        sizes = m.op("Concat", batch, m.constant([2]), phonemes, where=where, axis=0)
        zeros = m.op("ConstantOfShape", sizes, where=where)
        noise = m.op("Mul", m.op("RandomNormalLike", zeros, where=where), noise_w, where=where)
        logs = m.op("Add", logs, m.conv(noise, "dp.flow", 2, 1, 1, scale=0.4), where=where)
    frames = m.op("Exp", m.op("Add", logs, m.constant(0.7, np.float32), where=where), where=where)
    return m.op("Ceil", m.op("Mul", m.op("Mul", frames, mask), length_scale))


def _expansion(m: Maker, durations: str, mask: str, mean: str, log_scale: str) -> tuple[str, str, str]:
    total = m.op("ReduceSum", durations, m.constant([1, 2]), keepdims=0)
    total = m.op("Clip", total, m.constant(1.0, np.float32))
    lengths = m.op("Cast", total, to=TensorProto.INT64)
    longest = m.op("ReduceMax", lengths, keepdims=0)
    frame_mask = m.mask(longest, lengths, "")
    ends = m.op("CumSum", durations, m.constant(2))
    starts = m.op("Sub", ends, durations)
    places = m.op("Range", m.constant(0), longest, m.constant(1))
    places = m.op("Unsqueeze", m.op("Cast", places, to=TensorProto.FLOAT), m.constant([0, 2]))
    inside = m.op("And", m.op("Less", places, ends), m.op("GreaterOrEqual", places, starts))
    both = m.op("Mul", m.op("Transpose", frame_mask, perm=[0, 2, 1]), mask)
    path = m.op("Mul", m.op("Cast", inside, to=TensorProto.FLOAT), both)  # [batch, frames, phonemes]
    spread = []
    for x in (mean, log_scale):
        rows = m.op("MatMul", path, m.op("Transpose", x, perm=[0, 2, 1]))
        spread.append(m.op("Transpose", rows, perm=[0, 2, 1]))
    return spread[0], spread[1], frame_mask


def _flow(m: Maker, z: str, mask: str, g: str) -> str:
    """Two coupling layers, inverse; each shifts one half of the channels by what the other half says."""
    half = CHANNELS // 2
    for k in (1, 0):
        where = f"/flow/flows.{k}"
        one, other = _slice(m, z, 1, 0, half, where), _slice(m, z, 1, half, CHANNELS, where)
        h = m.op("Mul", m.conv(one, f"flow.flows.{k}.pre", half, HIDDEN, 1), mask, where=where)
        h = m.conv(h, f"flow.flows.{k}.enc", HIDDEN, HIDDEN, 5)
        if g:
            h = m.op("Add", h, m.conv(g, f"flow.flows.{k}.cond", SPEAKER_CHANNELS, HIDDEN, 1), where=where)
        h = m.op("Mul", m.op("Tanh", h, where=where), mask, where=where)
        h = m.op("Mul", m.conv(h, f"flow.flows.{k}.post", HIDDEN, half, 1), mask, where=where)
        other = m.op("Mul", m.op("Sub", other, h, where=where), mask, where=where)
        z = m.op("Concat", other, one, where=where, axis=1)
    return z


def _decoder(m: Maker, z: str, g: str) -> None:
    where = "/dec"
    x = m.conv(z, "dec.conv_pre", CHANNELS, 8, 7)
    if g:
        x = m.op("Add", x, m.conv(g, "dec.cond", SPEAKER_CHANNELS, 8, 1), where=where)
    for k, (into, out, stride) in enumerate([(8, 6, STRIDES[0]), (6, 4, STRIDES[1])]):
        x = m.op("LeakyRelu", x, where=where, alpha=0.1)
        weights = (m.weight(f"dec.ups.{k}.weight", into, out, 2 * stride, scale=3.0), m.bias(f"dec.ups.{k}.bias", out))
        pad, size = [stride // 2] * 2, [2 * stride]
        x = m.op("ConvTranspose", x, *weights, where=f"/dec/ups.{k}", strides=[stride], pads=pad, kernel_shape=size)
        blocks = []
        for j, kernel in enumerate((3, 5)):
            y = x
            for i, dilation in enumerate((1, 2)):
                a = m.op("LeakyRelu", y, where=f"/dec/resblocks.{2 * k + j}", alpha=0.1)
                c = m.conv(a, f"dec.resblocks.{2 * k + j}.convs.{i}", out, out, kernel, dilation)
                y = m.op("Add", c, y, where=f"/dec/resblocks.{2 * k + j}")
            blocks.append(y)
        x = m.op("Div", m.op("Add", *blocks, where=where), m.constant(2.0, np.float32), where=where)
    x = m.conv(m.op("LeakyRelu", x, where=where, alpha=0.01), "dec.conv_post", 4, 1, 7, scale=0.1)
    x = m.op("Tanh", x, where=where)
    m.op("Unsqueeze", x, m.constant([1]), output="output")


def edit_config(path: Path, **changes: Any) -> Path:
    file = path.with_name(path.name + ".json")
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return path
