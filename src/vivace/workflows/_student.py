"""The student as a PyTorch module: a `transformer_mel` model that reads, its weights named as the family wants them.

Non-attentive Tacotron (Shen et al. 2020) shows that what is read should be told, not found by attention: the encoder
says how many frames each token lasts, and so which token each step begins in. In training the teacher says it, so that
all steps are learned at once; what is read can neither stall nor repeat, and ends with the text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vivace.workflows._student_shape import StudentShape

FORBIDDEN = -1e9


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, seen: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if seen:
            self.offset_bias = nn.Parameter(torch.zeros(seen, heads))

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        d = x.shape[-1]
        q = F.linear(x, self.in_proj_weight[:d], self.in_proj_bias[:d])
        k, v = F.linear(memory, self.in_proj_weight[d:], self.in_proj_bias[d:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if turn:
            q, k = (_turned(t, *turn) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, s: StudentShape, *, decoder: bool) -> None:
        super().__init__()
        self.self_attn = Attention(s.width, s.heads)
        self.linear1, self.linear2 = nn.Linear(s.width, s.hidden), nn.Linear(s.hidden, s.width)
        self.norm1, self.norm2 = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        if decoder:
            self.multihead_attn = Attention(s.width, s.heads, s.seen)
            self.norm3 = nn.LayerNorm(s.width)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        turn: tuple[Tensor, Tensor],
        memory: Tensor | None = None,
        offsets: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        y = self.norm1(x)
        x = x + self.self_attn(y, y, bias, turn)
        if memory is not None and offsets is not None:
            index, shut = offsets
            likes = F.embedding(index, self.multihead_attn.offset_bias).permute(0, 3, 1, 2) + shut
            x = x + self.multihead_attn(self.norm2(x), memory, likes, None)
        y = (self.norm3 if memory is not None else self.norm2)(x)
        return x + self.linear2(F.gelu(self.linear1(y)))


class Stack(nn.Module):
    def __init__(self, s: StudentShape, layers: int, *, decoder: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(s, decoder=decoder) for _ in range(layers))
        self.norm = nn.LayerNorm(s.width)


class Student(nn.Module):
    def __init__(self, s: StudentShape) -> None:
        super().__init__()
        self.s = s
        self.embedding = nn.Embedding(s.tokens, s.width)
        self.encoder = Stack(s, s.encoder_layers, decoder=False)
        self.decoder = Stack(s, s.decoder_layers, decoder=True)
        self.prenet = nn.Linear(s.outputs, s.prenet)
        self.mel_in, self.here = nn.Linear(s.prenet, s.width), nn.Linear(s.width, s.width)
        self.mel_out = nn.Linear(s.width, s.outputs)
        self.duration_in, self.duration_out = nn.Linear(s.width, s.width), nn.Linear(s.width, 1)
        self.lasts, self.phase = nn.Linear(1, s.width), nn.Linear(2, s.width)
        self.prior = nn.Linear(s.width, s.mels)  # of training only: what the teacher's encoder says of a token

    def read(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, tokens] ids and their mask (1 for a token) to what is understood of them [batch, tokens, width], and
        the logarithm of 1 + the frames that each lasts [batch, tokens]."""
        places = torch.arange(tokens.shape[1])
        far = (places[:, None] - places).abs() >= self.s.encoder_window
        bias = torch.where(far, FORBIDDEN, 0.0) + (1 - mask[:, None, None]) * FORBIDDEN
        x, turn = self.embedding(tokens), _rotations(places, self.s.head)
        for layer in self.encoder.layers:
            x = layer(x, bias, turn)
        x = self.encoder.norm(x)
        return x, self.duration_out(F.relu(self.duration_in(x)))[..., 0]

    def remember(self, read: Tensor, durations: Tensor) -> Tensor:
        """The memory that the decoder attends to: what is read, and for how many frames."""
        return read + self.lasts(torch.log1p(durations)[..., None])

    def speak(self, memory: Tensor, mask: Tensor, before: Tensor, reader: Tensor, phase: Tensor) -> Tensor:
        """Frames [batch, steps, outputs], from the frames before each step, its place in the text, and the phase
        [batch, steps, 2] there: tenths of frames since the token began, and until it ends."""
        s = self.s
        steps, tokens = before.shape[1], memory.shape[1]
        x = F.dropout(F.relu(self.prenet(before)), s.dropout, self.training)
        rows = reader.clamp(max=tokens - 1)[..., None].expand(-1, -1, memory.shape[-1])
        x = self.mel_in(x) + self.here(memory.gather(1, rows)) + self.phase(phase)
        places = torch.arange(steps)
        behind = places[:, None] - places
        bias = torch.where((behind < 0) | (behind >= s.window), FORBIDDEN, 0.0)[None, None]
        distance = torch.arange(tokens) - reader[..., None] + s.back
        shut = torch.where((distance < 0) | (distance >= s.seen), FORBIDDEN, 0.0)[:, None]
        shut = shut + (1 - mask[:, None, None]) * FORBIDDEN
        offsets = (distance.clamp(0, s.seen - 1), shut)
        turn = _rotations(places, s.head)
        for layer in self.decoder.layers:
            x = layer(x, bias, turn, memory, offsets)
        x = self.decoder.norm(x)
        return self.mel_out(x)


def _rotations(places: Tensor, head: int) -> tuple[Tensor, Tensor]:
    rate = 10_000.0 ** (-torch.arange(0, head, 2) / head)
    angle = places[:, None] * torch.cat([rate, rate])
    return angle.cos(), angle.sin()


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)
