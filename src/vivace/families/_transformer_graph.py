"""The graphs of a transformer that makes frames one after another (Vaswani et al. 2017; Li et al. 2019 for speech).

    encoder   tokens -> the keys and values that every decoder layer attends to
    prefix    all frames so far -> the next frame after each of them: the definition of the model
    step      the last frame and the keys and values of all before it -> the next frame: the same with a cache

Weights are named as PyTorch's nn.Transformer layers name them. Plain ONNX operators: every runtime runs them. The
step gives its own keys and values as outputs, so that the caller's cache is written in place and never copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.families._graph_builder import FORBIDDEN as FORBIDDEN
from vivace.families._graph_builder import Builder, floats, sinusoids, whole_numbers

ENCODER, PREFIX, STEP = "encoder", "prefix", "step"
MEMORY, DURATIONS = "memory", "durations"  # what the encoder of a timed model makes of the tokens


@dataclass(frozen=True)
class Shape:
    """What a model is like. `positions` is "sinusoidal", "rotary" (Su et al. 2021) or "none"; `norm` is "post" (after
    each sum) or "pre". `encoder_window` and `window` bound how many positions away a token, and how many steps back a
    frame, is attended to (0: all).

    A `timed` model reads: its encoder says how many frames each token lasts, so that each step has a place in the text,
    and it attends to the tokens from `back` before that place to `ahead` behind it only. Others have a stop head.
    """

    tokens: int
    width: int = 512
    heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    mels: int = 80
    frames_per_step: int = 1
    causal: bool = True
    positions: str = "sinusoidal"
    norm: str = "post"
    activation: str = "relu"
    prenet: int = 0
    encoder_window: int = 0
    window: int = 0
    timed: bool = False
    back: int = 0
    ahead: int = 0
    longest: int = 4096  # positions that are kept ready: tokens and steps beyond are refused

    @property
    def outputs(self) -> int:
        return self.mels * self.frames_per_step

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def seen(self) -> int:
        """Tokens that a model which reads attends to."""
        return self.back + 1 + self.ahead


def weights_wanted(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the transformer (not of the vocoder)."""
    d, h = shape.width, shape.hidden

    def attention(name: str) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}.in_proj_weight": (3 * d, d),
            f"{name}.in_proj_bias": (3 * d,),
            f"{name}.out_proj.weight": (d, d),
            f"{name}.out_proj.bias": (d,),
        }

    def layer(name: str, norms: int) -> dict[str, tuple[int, ...]]:
        found = {f"{name}.linear1.weight": (h, d), f"{name}.linear1.bias": (h,)}
        found |= {f"{name}.linear2.weight": (d, h), f"{name}.linear2.bias": (d,)}
        return found | {f"{name}.norm{k + 1}.{part}": (d,) for k in range(norms) for part in ("weight", "bias")}

    wanted: dict[str, tuple[int, ...]] = {"embedding.weight": (shape.tokens, d)}
    for k in range(shape.encoder_layers):
        wanted |= attention(f"encoder.layers.{k}.self_attn") | layer(f"encoder.layers.{k}", 2)
    for k in range(shape.decoder_layers):
        name = f"decoder.layers.{k}"
        wanted |= attention(f"{name}.self_attn") | attention(f"{name}.multihead_attn") | layer(name, 3)
    if shape.norm == "pre":
        wanted |= {f"{stack}.norm.{part}": (d,) for stack in ("encoder", "decoder") for part in ("weight", "bias")}
    if shape.prenet:
        wanted |= {"prenet.weight": (shape.prenet, shape.outputs), "prenet.bias": (shape.prenet,)}
    wanted |= {"mel_in.weight": (d, shape.prenet or shape.outputs), "mel_in.bias": (d,)}
    if shape.timed:
        linear = {"here": (d, d), "phase": (d, 2), "duration_in": (d, d), "duration_out": (1, d), "lasts": (d, 1)}
        for name, size in linear.items():
            wanted |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
        for k in range(shape.decoder_layers):
            wanted[f"decoder.layers.{k}.multihead_attn.offset_bias"] = (shape.seen, shape.heads)
    else:
        wanted |= {"stop.weight": (1, d), "stop.bias": (1,)}
    return wanted | {"mel_out.weight": (shape.outputs, d), "mel_out.bias": (shape.outputs,)}


def check(shape: Shape, weights: Mapping[str, Array]) -> None:
    """Raises ModelError naming the first weight that is missing or does not fit."""
    for name, wanted in weights_wanted(shape).items():
        if name not in weights:
            raise ModelError(f"the weights lack {name}; the configuration asks for it with shape {wanted}")
        if weights[name].shape != wanted:
            raise ModelError(f"the weight {name} has shape {weights[name].shape}, the configuration says {wanted}")


def build(shape: Shape, weights: Mapping[str, Array]) -> dict[str, Any]:
    """The ModelProtos by name. The step is made of causal models only: of others no cache holds."""
    check(shape, weights)
    made = {ENCODER: _encoder(_Graph(shape, weights)), PREFIX: _decoder(_Graph(shape, weights), whole=True)}
    if shape.causal:
        made[STEP] = _decoder(_Graph(shape, weights, single=True), whole=False)
    return made


Turn = tuple[str, str]


class _Graph(Builder):
    """Collects nodes and weights."""

    def __init__(self, shape: Shape, given: Mapping[str, Array], *, single: bool = False) -> None:
        super().__init__(given, shape.width, shape.heads, single=single)
        self.shape = shape

    def queries(self, name: str, source: str, turn: Turn | None = None) -> str:
        """Scaled before the product: fewer numbers to scale than after it."""
        made = self.linear(name, source, slice(0, self.shape.width), "in_proj_")
        return self._turned(f"{name}.q", self.heads(f"{name}.q", self._scaled(name, made)), turn)

    def _scaled(self, name: str, queries: str) -> str:
        scale = self.constant("query.scale", np.float32(1 / math.sqrt(self.shape.head)))
        return self.add("Mul", f"{name}.scaled", [queries, scale])

    def own(self, name: str, source: str, key: str, value: str, turn: Turn | None) -> tuple[str, str, str]:
        """Queries, keys and values of one step, from one product: small ones cost by their number."""
        made = self.linear(name, source, slice(0, 3 * self.shape.width), "in_proj_")
        q, k, v = self.split(name, made, [f"/{name}/{part}" for part in "qkv"], [self.shape.width] * 3, -1)
        query = self._turned(f"{name}.q", self.heads(f"{name}.q", self._scaled(name, q)), turn)
        if turn:
            k = self._turned(f"{name}.k", self.heads(f"{name}.k", k), turn)
        columns, rows = (self.shape.head, 1), (1, self.shape.head)
        k = self.add("Reshape", f"{name}.new_key", [k, self.ints(0, self.shape.heads, *columns)], key)
        return query, k, self.add("Reshape", f"{name}.new_value", [v, self.ints(0, self.shape.heads, *rows)], value)

    def keys(self, name: str, source: str, key: str = "", value: str = "", turn: Turn | None = None) -> tuple[str, str]:
        """Keys [batch, heads, head, time] and values [batch, heads, time, head], named `key` and `value` if given."""
        d = self.shape.width
        k = self.heads(f"{name}.k", self.linear(name, source, slice(d, 2 * d), "in_proj_"), turned=turn is None)
        if turn:
            k = self.add("Transpose", f"{name}.k.turn", [self._turned(f"{name}.k", k, turn)], perm=[0, 1, 3, 2])
        v = self.heads(f"{name}.v", self.linear(name, source, slice(2 * d, 3 * d), "in_proj_"))
        if key:
            return self.add("Identity", f"{name}.k", [k], key), self.add("Identity", f"{name}.v", [v], value)
        return k, v

    def turn(self, name: str, positions: str) -> Turn | None:
        """Cosines and sines [batch or 1, 1, time, head] for `positions` [batch or 1, time], for rotary models."""
        if self.shape.positions != "rotary":
            return None
        found = []
        for kind, table in zip(("cos", "sin"), rotations(self.shape.longest, self.shape.head), strict=True):
            rows = self.add("Gather", f"{name}.{kind}", [self.constant(f"rotary.{kind}", table), positions])
            found.append(self.add("Unsqueeze", f"{name}.{kind}", [rows, self.ints(1)]))
        return found[0], found[1]

    def _turned(self, name: str, x: str, turn: Turn | None) -> str:
        """x cos + (-x2, x1) sin, x1 and x2 being the halves of x."""
        if not turn:
            return x
        half, end = self.ints(self.shape.head // 2), self.ints(np.iinfo(np.int64).max)
        first = self.add("Slice", f"{name}.first", [x, self.ints(0), half, self.ints(3)])
        second = self.add("Slice", f"{name}.second", [x, half, end, self.ints(3)])
        other = self.add("Concat", f"{name}.other", [self.add("Neg", f"{name}.neg", [second]), first], axis=-1)
        still, moved = self.add("Mul", f"{name}.cos", [x, turn[0]]), self.add("Mul", f"{name}.sin", [other, turn[1]])
        return self.add("Add", f"{name}.turned", [still, moved])

    def block(self, name: str, norm: str, source: str, inner: Any) -> str:
        """One residual block: norm before (pre) or after (post) the sum."""
        if self.shape.norm == "pre":
            return self.add("Add", f"{name}.sum", [source, inner(self.norm(norm, source))])
        return self.norm(norm, self.add("Add", f"{name}.sum", [source, inner(source)]))

    def feed_forward(self, name: str, source: str) -> str:
        made = self.linear(f"{name}.linear1", source)
        kind = {"relu": "Relu"}.get(self.shape.activation)
        made = self.add(kind, f"{name}.linear1", [made]) if kind else self.gelu(name, made)
        return self.linear(f"{name}.linear2", made)

    def placed(self, name: str, source: str, positions: str) -> str:
        """With the sinusoids of `positions` [batch or 1, time] added, where the model has positions."""
        if self.shape.positions != "sinusoidal":
            return source
        table = self.constant("positions", sinusoids(self.shape.longest, self.shape.width))
        return self.add("Add", f"{name}.placed", [source, self.add("Gather", f"{name}.placed", [table, positions])])


def rotations(length: int, head: int) -> tuple[Array, Array]:
    """Cosines and sines [length, head] of rotary positions, the same for both halves of a head (Su et al. 2021)."""
    rate = np.exp(np.arange(0, head, 2) * (-math.log(10_000.0) / head))
    angle = np.arange(length)[:, None] * np.concatenate([rate, rate])
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def cross_names(k: int) -> tuple[str, str]:
    return f"cross_key.{k}", f"cross_value.{k}"


def cache_names(k: int) -> tuple[str, str]:
    """What the step reads of a layer; it gives "new." + each."""
    return f"key.{k}", f"value.{k}"


def _encoder(g: _Graph) -> Any:
    """`tokens` [batch, tokens] and `token_bias` [batch, 1, 1, tokens] (0, or FORBIDDEN for padding)."""
    s = g.shape
    x = g.add("Gather", "embedding", [g.constant("embedding.weight", g.given["embedding.weight"]), "tokens"])
    places = g.range("tokens.range", "tokens", 1) if s.positions != "none" or s.encoder_window else ""
    x = g.placed("tokens", x, places)
    turn = g.turn("tokens", places)
    bias = g.near("tokens", places, "token_bias", s.encoder_window, both=True) if s.encoder_window else "token_bias"
    for k in range(s.encoder_layers):
        name = f"encoder.layers.{k}"

        def own(y: str, at: str = f"{name}.self_attn") -> str:
            return g.attention(at, g.queries(at, y, turn), *g.keys(at, y, turn=turn), bias)

        x = g.block(f"{name}.self_attn", f"{name}.norm1", x, own)
        x = g.block(f"{name}.linear2", f"{name}.norm2", x, lambda y, name=name: g.feed_forward(name, y))
    x = g.norm("encoder.norm", x) if s.norm == "pre" else x
    outputs = []
    if s.timed:
        x = _timed(g, x)
        outputs += [floats(MEMORY, "batch", "tokens", s.width), floats(DURATIONS, "batch", "tokens", 1)]
    for k in range(s.decoder_layers):
        key, value = cross_names(k)
        g.keys(f"decoder.layers.{k}.multihead_attn", x, key, value)
        outputs += [floats(key, "batch", s.heads, s.head, "tokens"), floats(value, "batch", s.heads, "tokens", s.head)]
    inputs = [whole_numbers("tokens", "batch", "tokens"), floats("token_bias", "batch", 1, 1, "tokens")]
    return g.model(ENCODER, inputs + [floats("length_scale", "batch", 1, 1)] * s.timed, outputs)


def _timed(g: _Graph, x: str) -> str:
    """The memory: what is read, and for how many whole frames (at least one)."""
    one = g.constant("one", np.float32(1))
    lasts = g.linear("duration_out", g.add("Relu", "duration_in", [g.linear("duration_in", x)]))
    lasts = g.add("Sub", "durations", [g.add("Exp", "durations", [lasts]), one])
    frames = g.add("Round", "durations", [g.add("Mul", "durations", [lasts, "length_scale"])])
    frames = g.add("Max", "durations", [frames, one], DURATIONS)
    known = g.add("Log", "lasts", [g.add("Add", "lasts.one", [frames, one])])
    return g.add("Add", "memory", [x, g.linear("lasts", known)], MEMORY)


def _decoder(g: _Graph, *, whole: bool) -> Any:
    """`before` [batch, time, outputs]: a frame of zeros, then the frames so far (time is 1 in a step).

    The step also takes `place` [batch, 1], the number of steps before it, `cache_bias` [batch, 1, 1, room] (0 for what
    the cache holds of a row) and the cache; the prefix takes `frame_bias` [batch, 1, 1, time] for padding. A model that
    reads takes `here` [batch, time, width], its memory of the token at its place, and `phase` [batch, time, 2], tenths
    of frames since that token began and until it ends. Its step is given only the tokens that it sees (the axis of
    `token_bias` and the cross keys and values); its prefix all, and `reader` [batch, time], the places.
    """
    s = g.shape
    x = g.add("Relu", "prenet", [g.linear("prenet", "before")]) if s.prenet else "before"
    x = g.linear("mel_in", x)
    if s.timed:
        x = g.add("Add", "here.sum", [x, g.linear("here", "here")])
        x = g.add("Add", "phase.sum", [x, g.linear("phase", "phase")])
    places = ("place" if not whole else g.range("frames.range", "before", 1)) if s.positions != "none" else ""
    x = g.placed("frames", x, places)
    turn = g.turn("frames", places)
    bias = _prefix_bias(g) if whole else ""
    outputs = []
    for k in range(s.decoder_layers):
        name = f"decoder.layers.{k}"

        def own(y: str, k: int = k, at: str = f"{name}.self_attn") -> str:
            if whole:
                return g.attention(at, g.queries(at, y, turn), *g.keys(at, y, turn=turn), bias)
            return _cached(g, at, k, y, turn)

        def other(y: str, k: int = k, at: str = f"{name}.multihead_attn") -> str:
            return g.attention(at, g.queries(at, y), *cross_names(k), _token_bias(g, at, whole))

        x = g.block(f"{name}.self_attn", f"{name}.norm1", x, own)
        x = g.block(f"{name}.multihead_attn", f"{name}.norm2", x, other)
        x = g.block(f"{name}.linear2", f"{name}.norm3", x, lambda y, name=name: g.feed_forward(name, y))
        if not whole:
            key, value = cache_names(k)
            outputs += [floats(f"new.{key}", "batch", s.heads, s.head, 1)]
            outputs += [floats(f"new.{value}", "batch", s.heads, 1, s.head)]
    x = g.norm("decoder.norm", x) if s.norm == "pre" else x
    g.linear("mel_out", x, output="frames")
    if not s.timed:
        g.linear("stop", x, output="stop")
    return g.model(PREFIX if whole else STEP, _decoder_inputs(s, whole), [*_decoder_outputs(s, whole), *outputs])


def _decoder_inputs(s: Shape, whole: bool) -> list[Any]:
    time: int | str = "time" if whole else 1
    tokens: int | str = s.seen if s.timed and not whole else "tokens"
    found = [floats("before", "batch", time, s.outputs), floats("token_bias", "batch", 1, 1, tokens)]
    if s.timed:
        found += [floats("here", "batch", time, s.width), floats("phase", "batch", time, 2)]
        found += [whole_numbers("reader", "batch", "time")] * whole
    for k in range(s.decoder_layers):
        key, value = cross_names(k)
        found += [floats(key, "batch", s.heads, s.head, tokens), floats(value, "batch", s.heads, tokens, s.head)]
    if whole:
        return [*found, floats("frame_bias", "batch", 1, 1, "time")]
    found += [whole_numbers("place", "batch", 1)] * (s.positions != "none") + [
        floats("cache_bias", "batch", 1, 1, "room")
    ]
    for k in range(s.decoder_layers):
        key, value = cache_names(k)
        found += [floats(key, "batch", s.heads, s.head, "room"), floats(value, "batch", s.heads, "room", s.head)]
    return found


def _decoder_outputs(s: Shape, whole: bool) -> list[Any]:
    time: int | str = "time" if whole else 1
    return [floats("frames", "batch", time, s.outputs)] + [floats("stop", "batch", time, 1)] * (not s.timed)


def _prefix_bias(g: _Graph) -> str:
    """[batch, 1, time or 1, time]: padding and, if the model is causal, what lies ahead or too far behind."""
    if not g.shape.causal:
        return "frame_bias"
    return g.near("frames.near", g.range("frames.places", "before", 1), "frame_bias", g.shape.window, both=False)


def _token_bias(g: _Graph, at: str, whole: bool) -> str:
    """[batch, heads, time, tokens]: padding and, in a model that reads, how each layer likes a token's distance."""
    s = g.shape
    if not s.timed:
        return "token_bias"
    table = g.given[f"{at}.offset_bias"]
    if not whole:
        likes = g.constant(f"{at}.offset_bias", table.T[None, :, None].copy())
        return g.add("Add", f"{at}.offset", ["token_bias", likes])
    tokens = g.add("Unsqueeze", f"{at}.tokens.row", [g.range(f"{at}.tokens", cross_names(0)[1], 2), g.ints(0)])
    distance = g.add("Sub", f"{at}.distance", [tokens, g.add("Unsqueeze", f"{at}.reader", ["reader", g.ints(2)])])
    place = g.add("Add", f"{at}.place", [distance, g.ints(s.back + 1)])
    low, high = g.constant("int.0", np.int64(0)), g.constant(f"int.{s.seen + 1}", np.int64(s.seen + 1))
    place = g.add("Clip", f"{at}.place", [place, low, high])
    edge = np.full((1, s.heads), FORBIDDEN, np.float32)
    rows = g.constant(f"{at}.offset_bias", np.concatenate([edge, table, edge]))
    likes = g.add("Transpose", f"{at}.likes", [g.add("Gather", f"{at}.likes", [rows, place])], perm=[0, 3, 1, 2])
    return g.add("Add", f"{at}.offset", ["token_bias", likes])


def _cached(g: _Graph, at: str, k: int, x: str, turn: Turn | None) -> str:
    """Attention of one new position to the cache and to itself: two products, one softmax over both."""
    key, value = cache_names(k)
    query, new_key, new_value = g.own(at, x, f"new.{key}", f"new.{value}", turn)
    return g.cached(at, query, (new_key, new_value), (key, value), "cache_bias")


def weights_of(shape: Shape, models: Mapping[str, Any]) -> dict[str, Array]:
    """The weights again, from the encoder and prefix that `build` made. Raises ModelError if they were changed."""
    from onnx import numpy_helper

    kept = {i.name: numpy_helper.to_array(i) for m in models.values() for i in m.graph.initializer}
    found = {}
    for name in weights_wanted(shape):
        starts = range(0, 3 * shape.width, shape.width)
        names = [f"{name}.{k}" for k in starts] if "in_proj" in name else [name]
        if not set(names) <= set(kept):
            raise ModelError(f"the weight {name} is not as it was imported: use passes that change weights after this")
        parts: list[Array] = [kept[part] for part in names]
        turned = name.endswith("weight") and parts[0].ndim == 2 and name != "embedding.weight"
        found[name] = np.concatenate([part.T if turned else part for part in parts])
        if name.endswith("offset_bias"):
            found[name] = found[name][1:-1]  # the prefix has an edge on both sides
    return found
