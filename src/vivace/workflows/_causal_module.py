"""A `transformer_mel` model with a stop head as a PyTorch module, its weights named as in the family's folder.

Causal or not by an argument: so a decoder that looks ahead can teach its own causal copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FORBIDDEN = -1e9


class Transformer(nn.Module):
    """`d` are the sizes as an imported bundle's defaults give them."""

    def __init__(self, d: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.d = dict(d)
        names = [n for n in weights if not n.startswith("vocoder.")]
        self._names = {name: name.replace(".", "/") for name in names}  # a parameter's name may hold no dot
        self.all = nn.ParameterDict({self._names[name]: nn.Parameter(weights[name].float()) for name in names})

    def state(self) -> dict[str, Tensor]:
        return {name: self.all[key].detach() for name, key in self._names.items()}

    def read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """[batch, tokens] and their mask (1 for a token) to the memory [batch, tokens, width]."""
        places = torch.arange(tokens.shape[1])
        bias = (1 - mask[:, None, None]) * FORBIDDEN
        if self.d["encoder_window"]:
            far = (places[:, None] - places).abs() >= self.d["encoder_window"]
            bias = bias + torch.where(far, FORBIDDEN, 0.0)
        x = self._placed(self.all["embedding/weight"][tokens], places)
        for k in range(self.d["encoder_layers"]):
            x = self._layer(f"encoder.layers.{k}", x, bias, None, None)
        return self._last("encoder.norm", x)

    def speak(self, memory: Tensor, mask: Tensor, before: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """Frames [batch, steps, outputs] and stop logits [batch, steps] after each of the steps `before`."""
        x = F.relu(self._linear("prenet", before)) if self.d["prenet"] else before
        places = torch.arange(before.shape[1])
        x = self._placed(self._linear("mel_in", x), places)
        behind = places[:, None] - places
        far = (behind < 0) | (behind >= (self.d["window"] or len(places))) if causal else torch.zeros_like(behind) > 0
        bias = torch.where(far, FORBIDDEN, 0.0)[None, None]
        text = (1 - mask[:, None, None]) * FORBIDDEN
        for k in range(self.d["decoder_layers"]):
            x = self._layer(f"decoder.layers.{k}", x, bias, memory, text)
        x = self._last("decoder.norm", x)
        return self._linear("mel_out", x), self._linear("stop", x)[..., 0]

    def generate(self, tokens: Tensor, *, causal: bool) -> Tensor:
        """What the model says of one text: [steps, outputs], every step from all before it."""
        limit = math.log(self.d["stop_threshold"] / (1 - self.d["stop_threshold"]))
        with torch.no_grad():
            mask = torch.ones_like(tokens, dtype=torch.float32)
            memory = self.read(tokens, mask)
            before = torch.zeros(1, 1, self.d["mels"] * self.d["frames_per_step"])
            while before.shape[1] <= self.d["max_steps"]:
                frames, stop = self.speak(memory, mask, before, causal=causal)
                before = torch.cat([before, frames[:, -1:]], 1)
                if stop[0, -1] > limit:
                    break
        return before[0, 1:]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        base = name.replace(".", "/")
        return F.linear(x, self.all[f"{base}/weight"], self.all[f"{base}/bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        base = name.replace(".", "/")
        return F.layer_norm(x, x.shape[-1:], self.all[f"{base}/weight"], self.all[f"{base}/bias"])

    def _last(self, name: str, x: Tensor) -> Tensor:
        return self._norm(name, x) if self.d["norm"] == "pre" else x

    def _block(self, norm: str, x: Tensor, inner: Any) -> Tensor:
        if self.d["norm"] == "pre":
            return x + inner(self._norm(norm, x))
        return self._norm(norm, x + inner(x))

    def _layer(self, name: str, x: Tensor, bias: Tensor, memory: Tensor | None, text: Tensor | None) -> Tensor:
        x = self._block(f"{name}.norm1", x, lambda y: self._attention(f"{name}.self_attn", y, y, bias, turned=True))
        last = "norm2"
        if memory is not None and text is not None:
            across = f"{name}.multihead_attn"
            x = self._block(f"{name}.norm2", x, lambda y: self._attention(across, y, memory, text, turned=False))
            last = "norm3"
        active = F.gelu if self.d["activation"] == "gelu" else F.relu
        return self._block(
            f"{name}.{last}", x, lambda y: self._linear(f"{name}.linear2", active(self._linear(f"{name}.linear1", y)))
        )

    def _attention(self, name: str, x: Tensor, memory: Tensor, bias: Tensor, *, turned: bool) -> Tensor:
        base, d = name.replace(".", "/"), self.d["width"]
        weight, shift = self.all[f"{base}/in_proj_weight"], self.all[f"{base}/in_proj_bias"]
        q = F.linear(x, weight[:d], shift[:d])
        k, v = F.linear(memory, weight[d:], shift[d:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.d["heads"], -1)).transpose(1, 2) for t in (q, k, v))
        if turned and self.d["positions"] == "rotary":
            q, k = (_turned(t) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self._linear(f"{name}.out_proj", mixed.transpose(1, 2).flatten(-2))

    def _placed(self, x: Tensor, places: Tensor) -> Tensor:
        if self.d["positions"] != "sinusoidal":
            return x
        rate = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
        angle = places[:, None] * rate
        return x + torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(x.dtype)


def _turned(x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), the same for both halves of a head."""
    rate = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angle = torch.arange(x.shape[-2])[:, None] * torch.cat([rate, rate])
    first, second = x.chunk(2, -1)
    return (x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()).to(x.dtype)
