from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from families import transformer_maker
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.passes import kv_cache
from vivace.workflows.import_ import import_model

METRICS = ("duration_ratio", "clipping", "silence", "log_spectral_distance")


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.json"
    path.write_text(json.dumps({"toy": 1, "seed": 3, "voices": ["ann", "bob"]}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def toy(toy_file: Path) -> Bundle:
    return import_model(toy_file, toy_file.with_name("bundle"))


@pytest.fixture
def make_toy(tmp_path: Path) -> Callable[..., Bundle]:
    """A toy voice of one's own, e.g. make_toy(steps=3): one that makes its frames step by step."""

    def make(**fields: Any) -> Bundle:
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"toy": 1, "seed": 3, **fields}), encoding="utf-8")
        return import_model(path, tmp_path / "own")

    return make


@pytest.fixture(scope="session")
def slow_steps(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small transformer of 48 frames for each text that computes them all anew in every step."""
    folder = tmp_path_factory.mktemp("steps")
    return import_model(transformer_maker.make(folder, max_steps=48, longest=300), folder / "slow")


@pytest.fixture(scope="session")
def fast_steps(slow_steps: Bundle) -> Bundle:
    """The same with a cache."""
    settings, context = kv_cache.Settings(), Context(lambda stage: [])
    return kv_cache.apply(slow_steps, slow_steps.path.with_name("fast"), settings, context)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A voice of two small ONNX graphs (tiny_voice.py); its folder is the test's own."""
    spec = importlib.util.spec_from_file_location("tiny_voice", Path(__file__).with_name("tiny_voice.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bundle: Bundle = module.make(tmp_path, monkeypatch)
    return bundle
