"""The PyTorch runtime: threads, workers, precision, Inductor, and files that are not what they should be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from passes import torch_voice  # noqa: E402
from passes.torch_voice import apply  # noqa: E402
from vivace.core import machine  # noqa: E402
from vivace.core.bundle import Bundle  # noqa: E402
from vivace.core.errors import MissingDependency, ModelError  # noqa: E402
from vivace.core.stage import RuntimeOptions, Stage, Tensors  # noqa: E402
from vivace.runtimes import torch as runtime  # noqa: E402

ONE = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("voice")
    return apply("to_torch", torch_voice.make(folder / "tiny"), folder / "torch")


def given(frames: int = 20, seed: int = 0) -> Tensors:
    return {"latent": np.random.default_rng(seed).standard_normal((1, 8, frames), np.float32)}


def opened(voice: Bundle, options: RuntimeOptions = ONE, **changes: Any) -> runtime.TorchSession:
    stage = voice.stage("decoder")
    stage = replace(stage, options={k: v for k, v in {**stage.options, **changes}.items() if v is not None})
    return runtime.open(stage, voice.file(stage.file), options)


def test_threads_are_those_asked_for(voice: Bundle) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            opened(voice, RuntimeOptions(threads=threads)).run(given())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_workers_at_once_say_what_one_says(voice: Bundle) -> None:
    session = opened(voice, RuntimeOptions(threads=1, workers=4))
    feeds = [given(10 + k, k) for k in range(16)]
    alone = [session.run(feed)["output"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        together = [made["output"] for made in pool.map(session.run, feeds)]
        threads = set(pool.map(lambda _: torch.get_num_threads(), range(8)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert threads == {1}


def test_a_closed_session_and_wrong_inputs(voice: Bundle) -> None:
    session = opened(voice)
    with pytest.raises(ModelError, match="wants an input 'latent'"):
        session.run({})
    with pytest.raises(ModelError, match=r"PyTorch failed: [^\n]*$"):
        session.run({"latent": np.zeros((1, 5, 9), np.float32)})
    session.close()
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run(given())


def test_bf16_is_near_and_float32_outside(voice: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = opened(voice).run(given())["output"]
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32", "bf16"))
    narrow = opened(voice, precision="bf16").run(given())["output"]
    assert narrow.dtype == np.float32
    assert 0 < np.abs(wide - narrow).max() < 0.05
    monkeypatch.setattr(runtime, "precisions", lambda: ("fp32",))
    np.testing.assert_array_equal(opened(voice, precision="bf16").run(given())["output"], wide)


@pytest.mark.parametrize(("flags", "found"), [({"avx512_bf16"}, ("fp32", "bf16")), (set(), ("fp32",))])
def test_precisions_are_the_processors(monkeypatch: pytest.MonkeyPatch, flags: set[str], found: Any) -> None:
    monkeypatch.setattr(machine, "describe", lambda: {"flags": flags})
    assert runtime.precisions() == found
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    assert runtime.precisions() == ()


def test_without_pytorch(voice: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"vivace\[torch\]"):
        opened(voice)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"module": "no_such"}, "unknown module 'no_such'"),
        ({"module": "hifigan"}, "has no attribute 'part'"),
        ({"module": None}, "does not say the 'module'"),
        ({"part": "posterior"}, "VITS has no part 'posterior'; it has text, flow, decoder"),
        ({"part": "flow"}, "the weight flow.flows.0.pre.weight is missing"),
        ({"shape": {"tokens": 3}}, "the manifest's shape of this voice is damaged"),
        ({"quantized": {"dec.conv_pre": "dynamic"}}, "dec.conv_pre.weight_scale is missing"),
    ],
)
def test_a_manifest_that_does_not_fit(voice: Bundle, changes: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        opened(voice, **changes)
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_no_weights(voice: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"PyTorch cannot load bad.safetensors"):
        runtime.open(voice.stage("decoder"), tmp_path / "bad.safetensors", ONE)


def test_compiled_is_not_compiled(voice: Bundle) -> None:
    if not runtime.compiler():
        pytest.skip("no C++ compiler")
    plain, compiled = opened(voice), opened(voice, RuntimeOptions(threads=1, workers=2), compile=True)
    for frames in (20, 7, 300):
        made = compiled.run(given(frames))["output"]
        np.testing.assert_allclose(made, plain.run(given(frames))["output"], atol=1e-5)
    kept = {p: p.stat().st_mtime_ns for p in (machine.cache_folder() / "inductor").rglob("*.pt2")}
    opened(voice, compile=True).run(given())
    assert kept == {p: p.stat().st_mtime_ns for p in (machine.cache_folder() / "inductor").rglob("*.pt2")}
    assert kept


def test_what_cannot_be_compiled(voice: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    text: Stage = voice.stage("text")
    with pytest.raises(ModelError, match="stage text cannot be compiled"):
        runtime.open(replace(text, options={**text.options, "compile": True}), voice.file(text.file), ONE)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ModelError, match=r"no C\+\+ compiler"):
        opened(voice, compile=True)
