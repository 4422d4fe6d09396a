from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file

from passes import torch_voice
from passes.torch_voice import apart, apply, say
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import UsageError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return torch_voice.make(tmp_path_factory.mktemp("tiny"))


def weights(bundle: Bundle, stage: str) -> dict[str, Any]:
    return load_file(bundle.file(bundle.stage(stage).file))


def test_sparse_is_smaller_and_says_what_dense_says(tiny: Bundle, tmp_path: Path) -> None:
    settings = {"stages": "flow,decoder", "share": 0.3}
    moved = apply("to_torch", tiny, tmp_path / "moved", stages="flow,decoder")
    sparse = apply("prune_magnitude", tiny, tmp_path / "sparse", **settings)
    dense = apply("prune_magnitude", tiny, tmp_path / "dense", sparse=False, **settings)
    assert open_bundle(sparse.path) == sparse
    assert sparse.stage("decoder").precision == "fp32, pruned"
    assert (say(sparse) == say(dense)).all()
    assert 0 < apart(say(tiny), say(sparse)) < 1
    stored = {
        name: sum(w.numel() * w.element_size() for s in ("flow", "decoder") for w in weights(b, s).values())
        for name, b in (("moved", moved), ("sparse", sparse), ("dense", dense))
    }
    assert stored["dense"] == stored["moved"]
    assert stored["sparse"] / stored["dense"] == pytest.approx(0.7 + 1 / 32, abs=0.04)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_as_many_weights_as_asked_for(tiny: Bundle, tmp_path: Path, scope: str) -> None:
    child = apply("prune_magnitude", tiny, tmp_path / "child", stages="flow", share=0.5, scope=scope, sparse=False)
    shares = [float((w == 0).float().mean()) for name, w in weights(child, "flow").items() if w.ndim == 3]
    assert min(shares) < 0.45 if scope == "global" else all(s == pytest.approx(0.5, abs=0.02) for s in shares)


def test_it_joins_with_bf16_and_weights_in_int8(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivace.runtimes import torch as runtime

    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16"))
    pruned = apply("prune_magnitude", tiny, tmp_path / "pruned", stages="decoder")
    narrow = apply("bf16", pruned, tmp_path / "narrow", stages="decoder")
    assert narrow.stage("decoder").precision == "bf16, pruned"
    stored = apply("torch_int8_weight_only", pruned, tmp_path / "stored", stages="decoder", smallest=64)
    for child in (narrow, stored):
        assert 0 < apart(say(pruned), say(child)) < 0.1


def test_what_it_refuses(tiny: Bundle, tmp_path: Path) -> None:
    pruned = apply("prune_magnitude", tiny, tmp_path / "pruned")
    with pytest.raises(UsageError, match="stage text is pruned already; stage flow is pruned already"):
        apply("prune_magnitude", pruned, tmp_path / "again")
    for wrong, words in (
        ({"share": 1.0}, "must lie between 0 and 1"),
        ({"recover_minutes": -1}, "must be 0 or more"),
        ({"recover_texts": "a.txt"}, "set both"),
    ):
        with pytest.raises(UsageError, match=words):
            apply("prune_magnitude", tiny, tmp_path / "wrong", **wrong)
