"""What the neural metrics share: 16 kHz speech to judge, and ONNX Runtime sessions that leave the cores to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vivace.core.audio import Audio, Samples
from vivace.metrics._signal import resample

RATE = 16_000
DATA = Path(__file__).parent / "data"
SILENCE = 1e-4  # peak of less than -80 dBFS

T = TypeVar("T")


def once(load: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for one caller at a time, so that two threads never load the same model."""
    lock, cached = threading.Lock(), cache(load)

    @wraps(load)
    def locked(*args: Hashable) -> T:
        with lock:
            return cached(*args)

    return locked


def speech(audio: Audio, seconds: float) -> Samples:
    """The samples of `audio` at 16 kHz, within [-1, 1].

    Raises ValueError if they are not finite, or last less than `seconds`.
    """
    samples = np.clip(resample(audio, RATE), -1.0, 1.0)
    if audio.seconds < seconds:
        raise ValueError(f"the audio lasts {audio.seconds:.3f} s; at least {seconds} s are needed to judge it")
    return samples


def silent(samples: Samples) -> bool:
    """Whether nothing in them can be heard."""
    return bool(np.abs(samples).max() < SILENCE)


@once
def session(path: Path) -> Any:
    """The onnxruntime session of `path`: one for the process, one thread for each call, safe to share."""
    return open_session(path)


def open_session(model: Path | bytes) -> Any:
    """A new session of a model file, or of its bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # a pattern is kept for every new length of clip
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
