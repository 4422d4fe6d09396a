from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from passes import torch_voice
from passes.torch_voice import apart, apply, say
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import UsageError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return torch_voice.make(tmp_path_factory.mktemp("tiny"))


def test_smaller_and_near(tiny: Bundle, tmp_path: Path) -> None:
    moved = apply("to_torch", tiny, tmp_path / "moved", stages="flow,decoder")
    child = apply("torch_int8_weight_only", moved, tmp_path / "child", stages="flow,decoder", smallest=64)
    assert open_bundle(child.path) == child
    before, after = (sum(b.file(b.stage(s).file).stat().st_size for s in ("flow", "decoder")) for b in (moved, child))
    assert after < 0.6 * before  # names and biases weigh much in so small a voice
    assert child.stage("decoder").options["quantized"]["dec.ups.0"] == "weight_only"
    assert child.stage("decoder").precision == "fp32, int8 weights"
    assert 0 < apart(say(moved), say(child)) < 0.1


def test_small_weights_and_finished_ones_are_left_alone(tiny: Bundle, tmp_path: Path) -> None:
    child = apply("torch_int8_weight_only", tiny, tmp_path / "child", stages="decoder", smallest=1000)
    assert set(child.stage("decoder").options["quantized"]) == {"dec.ups.0", "dec.ups.1", *_blocks(child)}
    with pytest.raises(UsageError, match="has no float weights that match"):
        apply("torch_int8_weight_only", child, tmp_path / "again", stages="decoder", smallest=1000)


def _blocks(bundle: Bundle) -> set[str]:
    """The residual convolutions of 1000 weights or more: 16 x 16 x 5."""
    return {f"dec.resblocks.1.convs.{k}" for k in (0, 1)}


def test_it_joins_with_bf16(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivace.runtimes import torch as runtime

    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16"))
    narrow = apply("bf16", tiny, tmp_path / "narrow", stages="decoder")
    child = apply("torch_int8_weight_only", narrow, tmp_path / "child", stages="decoder", smallest=64)
    assert child.stage("decoder").precision == "bf16, int8 weights"
    assert 0 < apart(say(tiny), say(child)) < 0.1
