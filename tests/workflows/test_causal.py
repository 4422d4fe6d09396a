"""A decoder that looks ahead gets a causal copy: the module is the model, and the copy learns what the mask cost."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from families.transformer_maker import make  # noqa: E402
from vivace.core import registry  # noqa: E402
from vivace.core.contracts import Context  # noqa: E402
from vivace.core.errors import UsageError  # noqa: E402
from vivace.core.stage import RuntimeOptions  # noqa: E402
from vivace.families import transformer_mel  # noqa: E402
from vivace.passes import kv_cache  # noqa: E402
from vivace.workflows import causal  # noqa: E402
from vivace.workflows._causal_module import Transformer  # noqa: E402
from vivace.workflows.distill import Settings  # noqa: E402

TEXTS = ("hello there.", "a b c.", "this is a text.", "and one more of them.", "the last, it is.")
KINDS: dict[str, dict[str, Any]] = {
    "the challenge's": {"causal": False},
    "pre-norm": {"causal": True, "norm": "pre", "activation": "gelu", "prenet": 12, "frames_per_step": 2},
    "windows": {"causal": True, "positions": "rotary", "window": 5, "encoder_window": 3},
    "without positions": {"causal": False, "positions": "none"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_is_the_model(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, **KINDS[kind])
    bundle = transformer_mel.import_(path, tmp_path / "bundle")
    module = Transformer(bundle.defaults, load_file(path / "model.safetensors"))
    runtime = registry.load("runtimes", "onnxruntime")
    opened = {s.name: runtime.open(s, bundle.file(s.file), RuntimeOptions(threads=1)) for s in bundle.stages}
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, (1, 9))
    before = rng.standard_normal((1, 12, 8 * bundle.defaults["frames_per_step"])).astype(np.float32)
    bias = {"token_bias": np.zeros((1, 1, 1, 9), np.float32), "frame_bias": np.zeros((1, 1, 1, 12), np.float32)}
    read = opened["encoder"].run({"tokens": tokens, **bias})
    made = opened["prefix"].run({**read, **bias, "before": before})
    with torch.no_grad():
        memory = module.read(torch.from_numpy(tokens), torch.ones(1, 9))
        frames, stop = module.speak(
            memory, torch.ones(1, 9), torch.from_numpy(before), causal=bundle.defaults["causal"]
        )
    assert np.abs(made["frames"] - frames.numpy()).max() < 1e-4
    assert np.abs(made["stop"][..., 0] - stop.numpy()).max() < 1e-4


def test_the_copy_learns_and_may_have_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "time", SimpleNamespace(monotonic=count().__next__))  # every step takes a second
    path = make(tmp_path, causal=False, max_steps=12)
    found = causal.recover(path, tmp_path / "copy", TEXTS, Settings(minutes=2))
    assert found.texts == len(TEXTS) - 1
    assert found.after < 0.7 * found.before
    kv_cache.apply(found.bundle, tmp_path / "cached", kv_cache.Settings(), Context(lambda stage: []))


def test_what_needs_no_copy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs no causal copy"):
        causal.recover(make(tmp_path), tmp_path / "copy", TEXTS)
    with pytest.raises(UsageError, match="at least two sentences"):
        causal.recover(make(tmp_path, "other", causal=False, max_steps=5), tmp_path / "copy", TEXTS[:1])
