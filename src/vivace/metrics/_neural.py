"""What the neural metrics share: 16 kHz speech to judge, and ONNX Runtime sessions that leave the cores to others."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.audio import Audio, Samples
from vivace.metrics._signal import resample

RATE = 16_000
DATA = Path(__file__).parent / "data"
SILENCE = 1e-4  # peak of less than -80 dBFS

_lock = threading.Lock()


def speech(audio: Audio, seconds: float) -> Samples:
    """The samples of `audio` at 16 kHz, within [-1, 1].

    Raises ValueError if they are not finite, silent, or last less than `seconds`.
    """
    samples = np.clip(resample(audio, RATE), -1.0, 1.0)
    if audio.seconds < seconds:
        raise ValueError(f"the audio lasts {audio.seconds:.3f} s; at least {seconds} s are needed to judge it")
    if np.abs(samples).max() < SILENCE:
        raise ValueError("the audio is silent; there is no speech to judge")
    return samples


def session(path: Path) -> Any:
    """The onnxruntime session of `path`: one for the process, one thread for each call, safe to share."""
    with _lock:
        return _open(path)


@cache
def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # a pattern is kept for every new length of clip
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
