from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from vivace.core.bundle import Bundle
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
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A voice of two small ONNX graphs (tiny_voice.py); its folder is the test's own."""
    spec = importlib.util.spec_from_file_location("tiny_voice", Path(__file__).with_name("tiny_voice.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bundle: Bundle = module.make(tmp_path, monkeypatch)
    return bundle
