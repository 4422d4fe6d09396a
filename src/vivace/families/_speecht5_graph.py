"""The graphs of SpeechT5 (Ao et al. 2022), as Hugging Face's weights describe it.

    encoder   tokens and a speaker -> the keys and values that every decoder layer attends to, and the speaker's share
    step      the last frame and the keys and values of all before it -> the next frames, and whether they are the last
    prefix    the same from all frames so far: what the step is proven by, kept nowhere
    postnet   frames -> the same with what the decoder left out

Weights have their names in the file. Queries are scaled in the weights, batch norms are folded into convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivace.core.errors import ModelError
from vivace.core.stage import Array
from vivace.families._graph_builder import Builder, floats, sinusoids, whole_numbers
from vivace.families._transformer_graph import cache_names, cross_names

ENCODER, STEP, PREFIX, POSTNET = "encoder", "step", "prefix", "postnet"
SPEAKER = "speaker"  # what the encoder is given, and what it makes of it
ENCODER_AT, DECODER_AT = "speecht5.encoder.wrapped_encoder", "speecht5.decoder.wrapped_decoder"
READ_AT, PRENET_AT, POSTNET_AT = "speecht5.encoder.prenet", "speecht5.decoder.prenet", "speech_decoder_postnet"


@dataclass(frozen=True)
class Shape:
    """What a model is like. `reach`: how far apart tokens are told apart. `speaker`: the numbers of an x-vector."""

    tokens: int
    width: int
    encoder_layers: int
    encoder_heads: int
    encoder_hidden: int
    decoder_layers: int
    heads: int
    decoder_hidden: int
    activation: str
    mels: int
    frames_per_step: int
    prenet_layers: int
    prenet_units: int
    postnet_layers: int
    postnet_units: int
    postnet_kernel: int
    speaker: int
    reach: int
    longest_text: int
    longest_speech: int

    @property
    def head(self) -> int:
        return self.width // self.heads


def weights_wanted(s: Shape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight."""

    def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def layer(name: str, attentions: Mapping[str, str], hidden: int) -> dict[str, tuple[int, ...]]:
        found = linear(f"{name}.feed_forward.intermediate_dense", hidden, s.width)
        found |= linear(f"{name}.feed_forward.output_dense", s.width, hidden)
        for attention, norm in attentions.items():
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                found |= linear(f"{name}.{attention}.{part}", s.width, s.width)
            found |= norm_of(f"{name}.{norm}")
        return found | norm_of(f"{name}.final_layer_norm")

    def norm_of(name: str, width: int = s.width) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    wanted: dict[str, tuple[int, ...]] = {f"{READ_AT}.embed_tokens.weight": (s.tokens, s.width)}
    wanted |= {f"{at}.encode_positions.alpha": () for at in (READ_AT, PRENET_AT)} | norm_of(f"{ENCODER_AT}.layer_norm")
    for k in range(s.encoder_layers):
        wanted |= layer(f"{ENCODER_AT}.layers.{k}", {"attention": "layer_norm"}, s.encoder_hidden)
    wanted[f"{ENCODER_AT}.embed_positions.pe_k.weight"] = (2 * s.reach, s.width // s.encoder_heads)
    for k in range(s.prenet_layers):
        wanted |= linear(f"{PRENET_AT}.layers.{k}", s.prenet_units, s.prenet_units if k else s.mels)
    wanted |= linear(f"{PRENET_AT}.final_layer", s.width, s.prenet_units)
    wanted |= linear(f"{PRENET_AT}.speaker_embeds_layer", s.width, s.width + s.speaker)
    both = {"self_attn": "self_attn_layer_norm", "encoder_attn": "encoder_attn_layer_norm"}
    for k in range(s.decoder_layers):
        wanted |= layer(f"{DECODER_AT}.layers.{k}", both, s.decoder_hidden)
    wanted |= linear(f"{POSTNET_AT}.feat_out", s.mels * s.frames_per_step, s.width)
    wanted |= linear(f"{POSTNET_AT}.prob_out", s.frames_per_step, s.width)
    for k in range(s.postnet_layers):
        out = s.mels if k == s.postnet_layers - 1 else s.postnet_units
        into, name = s.postnet_units if k else s.mels, f"{POSTNET_AT}.layers.{k}"
        wanted[f"{name}.conv.weight"] = (out, into, s.postnet_kernel)
        wanted |= norm_of(f"{name}.batch_norm", out)
        wanted |= {f"{name}.batch_norm.running_{part}": (out,) for part in ("mean", "var")}
    return wanted


def check(wanted: Mapping[str, tuple[int, ...]], weights: Mapping[str, Array]) -> None:
    """Raises ModelError naming the first weight that is missing or does not fit."""
    for name, shape in wanted.items():
        if name not in weights:
            raise ModelError(f"the weights lack {name}; the configuration asks for it with shape {shape}")
        if weights[name].shape != shape:
            raise ModelError(f"the weight {name} has shape {weights[name].shape}, the configuration says {shape}")


def build(s: Shape, weights: Mapping[str, Array]) -> dict[str, Any]:
    """The ModelProtos by name. Raises ModelError for weights that do not fit."""
    check(weights_wanted(s), weights)
    given = _prepared(s, weights)
    return {
        ENCODER: _encoder(s, given),
        STEP: _decoder(s, given, whole=False),
        PREFIX: _decoder(s, given, whole=True),
        POSTNET: _postnet(s, given),
    }


def _prepared(s: Shape, weights: Mapping[str, Array]) -> dict[str, Array]:
    """With queries scaled, what one step makes of the same input side by side, and the speaker's part by itself."""
    given = dict(weights)
    sizes = {ENCODER_AT: s.width // s.encoder_heads, DECODER_AT: s.head}
    for name in weights_wanted(s):
        at, kind, part = name.rpartition("q_proj.")
        if kind:
            size = next(size for stack, size in sizes.items() if at.startswith(stack))
            given[name] = given[name] / np.float32(math.sqrt(size))
            parts = [given[f"{at}{other}_proj.{part}"] for other in "qkv"]
            given[f"{at}qkv.{part}"] = np.concatenate(parts)
    joint = f"{PRENET_AT}.speaker_embeds_layer"
    given[f"{joint}.frame.weight"] = given[f"{joint}.weight"][:, : s.width]
    given[f"{joint}.speaker.weight"] = given[f"{joint}.weight"][:, s.width :]
    given[f"{joint}.speaker.bias"] = given[f"{joint}.bias"]
    return given


def _feed_forward(g: Builder, s: Shape, name: str, x: str) -> str:
    name = f"{name}.feed_forward"
    made = g.linear(f"{name}.intermediate_dense", x)
    made = g.add("Relu", name, [made]) if s.activation == "relu" else g.gelu(name, made)
    return g.linear(f"{name}.output_dense", made)


def _summed(g: Builder, norm: str, x: str, made: str) -> str:
    return g.norm(norm, g.add("Add", f"{norm}.sum", [x, made]))


def _encoder(s: Shape, given: Mapping[str, Array]) -> Any:
    """`tokens` [batch, tokens], `token_bias` [batch, 1, 1, tokens] (0, or FORBIDDEN for padding), `speaker`
    [batch, 1, numbers], of length 1 or 0."""
    g = Builder(given, s.width, s.encoder_heads)
    table = f"{READ_AT}.embed_tokens.weight"
    x = g.add("Gather", f"{READ_AT}.embed_tokens", [g.constant(table, given[table]), "tokens"])
    places = g.range("tokens.places", "tokens", 1)
    known = given[f"{READ_AT}.encode_positions.alpha"] * sinusoids(s.longest_text, s.width)
    added = g.add("Gather", "tokens.placed", [g.constant("positions", known), places])
    x = g.norm(f"{ENCODER_AT}.layer_norm", g.add("Add", "tokens.placed", [x, added]))
    distances = _distances(g, s, places)
    for k in range(s.encoder_layers):
        name = f"{ENCODER_AT}.layers.{k}"
        at = f"{name}.attention"
        query = g.heads(f"{at}.q", g.linear(f"{at}.q_proj", x))
        key = g.heads(f"{at}.k", g.linear(f"{at}.k_proj", x), turned=True)
        value = g.heads(f"{at}.v", g.linear(f"{at}.v_proj", x))
        bias = g.add("Add", f"{at}.bias", [_liking(g, s, at, query, distances), "token_bias"])
        x = _summed(g, f"{name}.layer_norm", x, g.attention(at, query, key, value, bias))
        x = _summed(g, f"{name}.final_layer_norm", x, _feed_forward(g, s, name, x))
    own = Builder(given, s.width, s.heads)  # the decoder may have other heads
    own.nodes, own.weights = g.nodes, g.weights
    outputs = [floats(f"{SPEAKER}.share", "batch", 1, s.width)]
    for k in range(s.decoder_layers):
        at, (key, value) = f"{DECODER_AT}.layers.{k}.encoder_attn", cross_names(k)
        turned = own.heads(f"{at}.k", own.linear(f"{at}.k_proj", x), turned=True)
        g.add("Identity", f"{at}.k", [turned], key)
        g.add("Identity", f"{at}.v", [own.heads(f"{at}.v", own.linear(f"{at}.v_proj", x))], value)
        outputs += [floats(key, "batch", s.heads, s.head, "tokens"), floats(value, "batch", s.heads, "tokens", s.head)]
    g.linear(f"{PRENET_AT}.speaker_embeds_layer.speaker", SPEAKER, output=f"{SPEAKER}.share")
    inputs = [whole_numbers("tokens", "batch", "tokens"), floats("token_bias", "batch", 1, 1, "tokens")]
    return g.model(ENCODER, [*inputs, floats(SPEAKER, "batch", 1, s.speaker)], outputs)


def _distances(g: Builder, s: Shape, places: str) -> str:
    """[time, head, time]: for each two tokens what their distance is like, in every layer (Shaw et al. 2018)."""
    column = g.add("Transpose", "distances", [places], perm=[1, 0])
    low, high = (g.constant(f"int.{n}", np.int64(n)) for n in (-s.reach, s.reach - 1))
    apart = g.add("Clip", "distances", [g.add("Sub", "distances", [column, places]), low, high])
    apart = g.add("Add", "distances", [apart, g.ints(s.reach)])
    table = f"{ENCODER_AT}.embed_positions.pe_k.weight"
    found = g.add("Gather", "distances", [g.constant(table, g.given[table]), apart])
    return g.add("Transpose", "distances.turned", [found], perm=[0, 2, 1])


def _liking(g: Builder, s: Shape, at: str, query: str, distances: str) -> str:
    """[batch, heads, time, time]: how much each query likes the distance of each key."""
    head = s.width // s.encoder_heads
    first = g.add("Transpose", f"{at}.near", [query], perm=[2, 0, 1, 3])  # [time, batch, heads, head]
    flat = g.add("Reshape", f"{at}.near", [first, g.ints(0, -1, head)])
    liked = g.add("MatMul", f"{at}.near", [flat, distances])  # [time, batch x heads, time]
    size = g.add("Shape", f"{at}.near", [first], start=0, end=3)
    end = g.add("Shape", f"{at}.near.end", [first], start=0, end=1)
    wide = g.add("Reshape", f"{at}.near.back", [liked, g.add("Concat", f"{at}.near", [size, end], axis=0)])
    return g.add("Transpose", f"{at}.near.back", [wide], perm=[1, 2, 0, 3])


def keep_names(s: Shape) -> list[str]:
    """The inputs that say what the prenet keeps: 0, or what the rest is multiplied with."""
    return [f"keep.{k}" for k in range(s.prenet_layers)]


def _decoder(s: Shape, given: Mapping[str, Array], *, whole: bool) -> Any:
    """`before` [batch, time, mels]: a frame of zeros, then the last frame of each step so far (time is 1 in a step);
    `keep.0` ... [batch, time, units]; `speaker.share`, `token_bias` and the cross keys and values of the encoder.

    The step also takes `place` [batch, 1], the number of steps before it, `cache_bias` [batch, 1, 1, room] (0 for what
    the cache holds of a row) and the cache. `stop` [batch, time, frames]: how probably each new frame is the last.
    """
    g = Builder(given, s.width, s.heads, single=not whole)
    x = "before"
    for k, keep in enumerate(keep_names(s)):
        name = f"{PRENET_AT}.layers.{k}"
        x = g.add("Mul", name, [g.add("Relu", name, [g.linear(name, x)]), keep])
    x = g.linear(f"{PRENET_AT}.final_layer", x)
    places = g.range("frames.places", "before", 1) if whole else "place"
    known = given[f"{PRENET_AT}.encode_positions.alpha"] * sinusoids(s.longest_speech, s.width)
    x = g.add("Add", "frames.placed", [x, g.add("Gather", "frames.placed", [g.constant("positions", known), places])])
    joint = f"{PRENET_AT}.speaker_embeds_layer"
    weight = g.constant(f"{joint}.frame.weight", given[f"{joint}.frame.weight"].T.copy())
    x = g.add("Add", joint, [g.add("MatMul", joint, [x, weight]), f"{SPEAKER}.share"])
    x = g.add("Relu", joint, [x])
    if whole:
        zero = g.constant("open", np.zeros((1, 1, 1, 1), np.float32))
        ahead = g.near("frames.near", places, zero, 0, both=False)
    outputs = []
    for k in range(s.decoder_layers):
        name = f"{DECODER_AT}.layers.{k}"
        at = f"{name}.self_attn"
        if whole:
            query, key, value = (g.heads(f"{at}.{p}", g.linear(f"{at}.{p}_proj", x)) for p in "qkv")
            turned = g.add("Transpose", f"{at}.k.turned", [key], perm=[0, 1, 3, 2])
            made = g.attention(at, query, turned, value, ahead)
        else:
            made = _cached(g, s, at, k, x)
        x = _summed(g, f"{name}.self_attn_layer_norm", x, made)
        at = f"{name}.encoder_attn"
        query = g.heads(f"{at}.q", g.linear(f"{at}.q_proj", x))
        made = g.attention(at, query, *cross_names(k), "token_bias")
        x = _summed(g, f"{name}.encoder_attn_layer_norm", x, made)
        x = _summed(g, f"{name}.final_layer_norm", x, _feed_forward(g, s, name, x))
        if not whole:
            own, other = cache_names(k)
            outputs += [floats(f"new.{own}", "batch", s.heads, s.head, 1)]
            outputs += [floats(f"new.{other}", "batch", s.heads, 1, s.head)]
    g.linear(f"{POSTNET_AT}.feat_out", x, output="frames")
    g.add("Sigmoid", "stop", [g.linear(f"{POSTNET_AT}.prob_out", x)], "stop")
    time: int | str = "time" if whole else 1
    made_too = [floats("frames", "batch", time, s.mels * s.frames_per_step)]
    made_too += [floats("stop", "batch", time, s.frames_per_step)]
    return g.model(PREFIX if whole else STEP, _decoder_inputs(s, whole), made_too + outputs)


def _decoder_inputs(s: Shape, whole: bool) -> list[Any]:
    time: int | str = "time" if whole else 1
    found = [floats("before", "batch", time, s.mels), floats(f"{SPEAKER}.share", "batch", 1, s.width)]
    found += [floats(name, "batch", time, s.prenet_units) for name in keep_names(s)]
    found += [floats("token_bias", "batch", 1, 1, "tokens")]
    for k in range(s.decoder_layers):
        key, value = cross_names(k)
        found += [floats(key, "batch", s.heads, s.head, "tokens"), floats(value, "batch", s.heads, "tokens", s.head)]
    if whole:
        return found
    found += [whole_numbers("place", "batch", 1), floats("cache_bias", "batch", 1, 1, "room")]
    for k in range(s.decoder_layers):
        key, value = cache_names(k)
        found += [floats(key, "batch", s.heads, s.head, "room"), floats(value, "batch", s.heads, "room", s.head)]
    return found


def _cached(g: Builder, s: Shape, at: str, k: int, x: str) -> str:
    """Attention of one new position. Query, key and value come of one product."""
    key, value = cache_names(k)
    made = g.add("Reshape", f"{at}.qkv", [g.linear(f"{at}.qkv", x), g.ints(0, 3 * s.heads, 1, s.head)])
    names = [f"/{at}.qkv/query", f"/{at}.qkv/key", f"new.{value}"]
    query, own, _ = g.split(f"{at}.qkv", made, names, [s.heads] * 3, 1)
    g.add("Reshape", f"{at}.k", [own, g.ints(0, s.heads, s.head, 1)], f"new.{key}")
    return g.cached(at, query, (f"new.{key}", f"new.{value}"), (key, value), "cache_bias")


def _postnet(s: Shape, given: Mapping[str, Array]) -> Any:
    """`latent` [batch, mels, frames] to `mel`, the same size. Batch norms are folded into the convolutions."""
    g = Builder(given, s.width, s.heads)
    x, pad = "latent", (s.postnet_kernel - 1) // 2
    for k in range(s.postnet_layers):
        name = f"{POSTNET_AT}.layers.{k}"
        norm = {p: given[f"{name}.batch_norm.{p}"] for p in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
        weight = g.constant(f"{name}.weight", (given[f"{name}.conv.weight"] * scale[:, None, None]).astype(np.float32))
        bias = g.constant(f"{name}.bias", (norm["bias"] - norm["running_mean"] * scale).astype(np.float32))
        x = g.add("Conv", name, [x, weight, bias], kernel_shape=[s.postnet_kernel], pads=[pad, pad])
        x = g.add("Tanh", name, [x]) if k < s.postnet_layers - 1 else x
    g.add("Add", "mel", ["latent", x], "mel")
    given_in = [floats("latent", "batch", s.mels, "frames")]
    return g.model(POSTNET, given_in, [floats("mel", "batch", s.mels, "frames")])
