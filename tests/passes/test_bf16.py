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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_bytes_and_near(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16", "fp16"))
    moved = apply("to_torch", tiny, tmp_path / "moved", stages="flow,decoder")
    child = apply("bf16", moved, tmp_path / "child", precision=precision)
    assert open_bundle(child.path) == child
    for name in ("flow", "decoder"):
        before, after = (b.file(b.stage(name).file).stat().st_size for b in (moved, child))
        assert after < 0.7 * before
        assert child.stage(name).precision == precision
    assert child.stage("text") == tiny.stage("text")
    assert 0 < apart(say(moved), say(child)) < 0.05
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32",))  # elsewhere it speaks too
    assert 0 < apart(say(moved), say(child)) < 0.05


def test_the_text_stage_where_it_is_asked_for(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16"))
    child = apply("bf16", tiny, tmp_path / "child", stages="text")
    assert [s.precision for s in child.stages] == ["bf16", "fp32", "fp32"]
    assert len(say(child)) / len(say(tiny)) == pytest.approx(1, abs=0.15)


def test_what_it_refuses(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32",))
    with pytest.raises(UsageError, match="this machine computes fp32 in PyTorch, not bf16"):
        apply("bf16", tiny, tmp_path / "a")
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16"))
    child = apply("bf16", tiny, tmp_path / "child")
    with pytest.raises(UsageError, match="stage flow is there already"):
        apply("bf16", child, tmp_path / "b")
    mixed = apply("torch_int8_dynamic", tiny, tmp_path / "mixed", stages="decoder", linear="torch")
    with pytest.raises(UsageError, match="stage decoder has INT8 layers"):
        apply("bf16", mixed, tmp_path / "c", stages="decoder")
