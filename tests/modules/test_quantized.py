"""INT8 layers: near what they replace, the same for each input alone, and files that hold what the manifest says."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vivace.core import machine  # noqa: E402
from vivace.core.errors import ModelError  # noqa: E402
from vivace.modules import quantized  # noqa: E402


def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.ModuleDict(
        {
            "wide": nn.Conv1d(8, 12, 5, padding=4, dilation=2),
            "apart": nn.Conv1d(12, 12, 3, padding=1, groups=12),
            "one": nn.Conv1d(12, 6, 1),
            "up": nn.ConvTranspose1d(6, 4, 4, 2, padding=1),
            "linear": nn.Linear(4, 5),
            "table": nn.Embedding(7, 3),
        }
    )
    return made.requires_grad_(False)


def spoken(layers: Any, x: Any) -> Any:
    return layers["linear"](layers["up"](layers["one"](layers["apart"](layers["wide"](x)))).transpose(1, 2))


def kept(layers: nn.Module, how: dict[str, str]) -> dict[str, Any]:
    weights = dict(layers.state_dict())
    for name in how:
        axis = quantized.axis_of(layers.get_submodule(name))
        key = f"{name}.weight"
        weights[key], weights[key + quantized.SCALE] = quantized.narrowed(weights[key], axis)
    return weights


def loaded(how: dict[str, str]) -> nn.Module:
    with torch.device("meta"):
        empty = net()
    quantized.load(empty, kept(net(), how), how)
    return empty


@pytest.mark.parametrize(
    "how",
    [
        {"wide": "dynamic", "apart": "dynamic", "one": "dynamic", "linear": "dynamic"},
        {"wide": "dynamic", "one": "dynamic torchao", "linear": "dynamic torchao"},
        {"wide": "weight_only", "up": "weight_only", "linear": "weight_only", "table": "weight_only"},
    ],
)
def test_int8_is_near_float_and_the_same_twice(how: dict[str, str]) -> None:
    if "dynamic torchao" in how.values():
        pytest.importorskip("torchao")
    x = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(1))
    true, one, other = (spoken(layers, x) for layers in (net(), loaded(how), loaded(how)))
    assert 0 < float((one - true).std() / true.std()) < 0.03
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(("flags", "top"), [({"avx512_vnni"}, 255), ({"avx2"}, 127)])
def test_inputs_have_seven_bits_where_sums_would_overflow(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], top: int
) -> None:
    monkeypatch.setattr(machine, "describe", lambda: {"flags": flags})
    layer = loaded({"wide": "dynamic"})["wide"]  # type: ignore[index]
    rounded, _, _ = quantized._rounded(torch.linspace(-3, 5, 1000), layer._top)
    assert (int(rounded.min()), int(rounded.max())) == (0, top)


def test_zero_stays_zero() -> None:
    for x in (torch.tensor([0.0, 3.7, -1.1]), torch.tensor([0.0, 2.0]), torch.zeros(3)):
        rounded, _, zero = quantized._rounded(x, 255)
        assert int(rounded[0]) == zero


def test_each_channel_has_its_own_scale() -> None:
    weight = torch.randn(6, 4, 3) * torch.tensor([1e-3, 1, 10, 1e-2, 5, 0])[:, None, None]
    narrow, scale = quantized.narrowed(weight)
    assert narrow.dtype == torch.int8
    off = (quantized.widened(narrow, scale) - weight).abs().amax((1, 2))
    assert bool((off <= scale / 2 + 1e-9).all())


def test_layers_are_chosen_by_kind_and_name() -> None:
    found = quantized.layers(net(), ("linear", "conv1d"))
    assert found == {"wide": "conv1d", "apart": "conv1d", "one": "linear", "linear": "linear"}
    assert set(quantized.layers(net(), ("conv1d",), exclude=("a*",))) == {"wide"}
    assert set(quantized.layers(net(), ("linear", "conv1d"), include=("l*", "w*"))) == {"wide", "linear"}
    assert set(quantized.layers(net(), ("embedding", "conv_transpose1d"))) == {"up", "table"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sparse_weights_come_back_the_same_bits(dtype: str) -> None:
    weight = torch.randn(5, 7, 3).to(getattr(torch, dtype))
    weight[weight.abs() < 0.4] = 0
    stored = quantized.sparse("w", weight)
    assert sum(t.numel() * t.element_size() for t in stored.values()) < weight.numel() * weight.element_size()
    assert torch.equal(quantized.dense({**stored, "b": torch.ones(2)}, {"w": (5, 7, 3)})["w"], weight)
    for wrong in ({"w": (5, 7)}, {}):
        with pytest.raises(ModelError, match="sparse weight w is not of shape"):
            quantized.dense(stored, wrong)


def test_weights_that_do_not_fit() -> None:
    whole = dict(net().state_dict())
    for change, words in (
        ({"wide.bias": torch.zeros(3)}, r"the weight wide.bias is \(3,\); \(12,\) is asked for"),
        ({"extra": torch.zeros(1)}, "the weight extra belongs to nothing"),
    ):
        with pytest.raises(ModelError, match=words):
            quantized.load(net(), {**whole, **change}, {})
    with pytest.raises(ModelError, match=r"the weight one.bias is missing"):
        quantized.load(net(), {k: v for k, v in whole.items() if k != "one.bias"}, {})
    with pytest.raises(ModelError, match="a ConvTranspose1d cannot compute as 'dynamic'"):
        quantized.load(net(), kept(net(), {"up": "dynamic"}), {"up": "dynamic"})
    with pytest.raises(ModelError, match=r"none.weight belongs to nothing"):
        scale = {"none.weight_scale": torch.ones(1), "none.weight": torch.ones(1)}
        quantized.load(net(), {**whole, **scale}, {"none": "dynamic"})
