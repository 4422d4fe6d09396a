from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from passes import torch_voice
from passes.torch_voice import apart, apply, say
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import UsageError
from vivace.runtimes import torch as runtime


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return torch_voice.make(tmp_path_factory.mktemp("tiny"))


def test_the_same_samples(tiny: Bundle, tmp_path: Path) -> None:
    if not runtime.compiler():
        pytest.skip("no C++ compiler")
    child = apply("compile", tiny, tmp_path / "child")
    assert open_bundle(child.path) == child
    assert [s.precision for s in child.stages] == ["fp32", "fp32, compiled", "fp32, compiled"]
    assert apart(say(tiny), say(child)) < 1e-4
    with pytest.raises(UsageError, match="stage flow is compiled already"):
        apply("compile", child, tmp_path / "again")


def test_what_cannot_be_compiled(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = apply("torch_int8_dynamic", tiny, tmp_path / "mixed", stages="decoder", linear="torch")
    monkeypatch.setattr(runtime, "compiler", lambda: "c++")
    with pytest.raises(UsageError, match="stage decoder has INT8 layers"):
        apply("compile", mixed, tmp_path / "a", stages="decoder")
    with pytest.raises(UsageError, match="stage text cannot be compiled"):
        apply("compile", tiny, tmp_path / "b", stages="text")
    monkeypatch.setattr(runtime, "compiler", lambda: "")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler is here; install"):
        apply("compile", tiny, tmp_path / "c")
