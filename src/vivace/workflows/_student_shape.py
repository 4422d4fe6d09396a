"""How large a student is. Apart from the module, so that what only asks for sizes needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StudentShape:
    """7.1 million weights as it stands: 14 MB in half precision. See families/_transformer_graph.Shape."""

    tokens: int
    mels: int
    width: int = 256
    heads: int = 4
    hidden: int = 1024
    encoder_layers: int = 3
    decoder_layers: int = 4
    frames_per_step: int = 4
    prenet: int = 256
    encoder_window: int = 16
    window: int = 64
    back: int = 8
    ahead: int = 12
    dropout: float = 0.1

    @property
    def outputs(self) -> int:
        return self.mels * self.frames_per_step

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def seen(self) -> int:
        return self.back + 1 + self.ahead
