"""A tiny VITS voice whose graph PyTorch exported, as a Piper bundle: what the passes over modules work on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from families import piper_maker
from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.families import piper
from vivace.modules.hifigan import GeneratorShape
from vivace.modules.vits import Shape, Vits, to_onnx

DECODER = GeneratorShape(8, (16, 16, 8), (8, 4), (16, 8), (3, 5), ((1, 2), (1, 3)))
TEXT = "a few words, and some more of them."


def module(speakers: int = 1, resblock: Any = "2", stochastic: bool = True) -> Vits:
    torch.manual_seed(7)
    channels = 4 if speakers > 1 else 0
    decoder = replace(DECODER, speaker_channels=channels, resblock=resblock)
    shape = Shape(
        len(piper_maker.SYMBOLS), decoder, 8, 16, 24, 2, 2, 3, 2, 2, 2, 3, 1, stochastic, 16,
        speakers=speakers if channels else 0, speaker_channels=channels,
    )  # fmt: skip
    made = Vits(shape).eval()
    with torch.no_grad():
        for coupling in made.flow.flows[::2]:
            coupling.post.weight.normal_(std=0.3)  # zeros, as they begin, would hide the flow
        last = made.dp.flows["0"] if stochastic else None
        if last is not None:
            last.m.fill_(-1.0)  # each token lasts about three frames
        else:
            made.dp.proj.bias.fill_(1.0)
    return made


def make(folder: Path, speakers: int = 1, resblock: Any = "2", stochastic: bool = True) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(module(speakers, resblock, stochastic)), str(folder / "tiny.onnx"))
    config = piper_maker.config(piper_maker.Shape(speakers=speakers))
    (folder / "tiny.onnx.json").write_text(json.dumps(config), encoding="utf-8")
    return piper.import_(folder / "tiny.onnx", folder / "bundle")


def apply(name: str, bundle: Bundle, out: Path, **settings: Any) -> Bundle:
    found = registry.load("passes", name)
    child: Bundle = found.apply(bundle, out, parse(found.Settings, settings, name), Context(lambda stage: []))
    return child


def say(bundle: Bundle, text: str = TEXT, voice: str = "", threads: int = 1) -> Array:
    with Engine(bundle, RuntimeOptions(threads=threads)) as engine:
        return speak(engine, Request("a", text, seed=1, voice=voice)).samples


def apart(one: Array, other: Array) -> float:
    """Their largest difference, in units of the first one's loudest sample."""
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(one).max())
