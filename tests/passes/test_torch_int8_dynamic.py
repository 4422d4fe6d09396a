from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from passes import torch_voice
from passes.torch_voice import apart, apply, say
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import UsageError
from vivace.passes import torch_int8_dynamic


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return torch_voice.make(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("linear", ["torch", "torchao"])
def test_it_says_what_was_done_to_which_layer_and_speaks_again(tiny: Bundle, tmp_path: Path, linear: str) -> None:
    if linear == "torchao":
        pytest.importorskip("torchao")
    child = apply("torch_int8_dynamic", tiny, tmp_path / "child", stages="flow,decoder", linear=linear)
    assert open_bundle(child.path) == child
    done = child.stage("flow").options["quantized"]
    assert done["flow.flows.0.enc.in_layers.0"] == "dynamic"
    assert done["flow.flows.0.pre"] == ("dynamic torchao" if linear == "torchao" else "dynamic")
    assert "dec.conv_post" not in child.stage("decoder").options["quantized"]
    assert child.stage("decoder").precision == "mixed int8"
    assert child.stage("text") == tiny.stage("text")
    one, other = say(child), say(child)
    assert (one == other).all()
    assert 0 < apart(say(tiny), one) < 0.2


def test_kinds_and_names_choose_layers(tiny: Bundle, tmp_path: Path) -> None:
    only = apply("torch_int8_dynamic", tiny, tmp_path / "a", stages="flow", layers="conv1d", include="*flows.0*")
    assert set(only.stage("flow").options["quantized"]) == {f"flow.flows.0.enc.in_layers.{k}" for k in (0, 1)}
    text = apply("torch_int8_dynamic", only, tmp_path / "b", stages="text", linear="torch")
    assert not any(name.startswith("dp.") for name in text.stage("text").options["quantized"])
    rest = apply("torch_int8_dynamic", text, tmp_path / "c", stages="flow", linear="torch")
    assert set(rest.stage("flow").options["quantized"]) > set(only.stage("flow").options["quantized"])
    with pytest.raises(UsageError, match="stage flow has no such layer in float"):
        apply("torch_int8_dynamic", rest, tmp_path / "d", stages="flow", linear="torch")


def test_what_cannot_be_quantized(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivace.runtimes import torch as runtime

    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16"))
    narrow = apply("bf16", tiny, tmp_path / "narrow", stages="flow")
    with pytest.raises(UsageError, match="stage flow computes in bf16"):
        apply("torch_int8_dynamic", narrow, tmp_path / "a", stages="flow", linear="torch")
    monkeypatch.setattr(torch_int8_dynamic, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"torchao is not installed; .* or set linear=torch"):
        apply("torch_int8_dynamic", tiny, tmp_path / "b")
