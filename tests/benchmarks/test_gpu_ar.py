"""The GPU benchmark on a CPU: its model is the family's, rows that share steps are single rows, and the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")

import _gpu_network as network  # noqa: E402
import _gpu_speaker as speaker  # noqa: E402
import gpu_ar  # noqa: E402
from vivace.core.speech import Request  # noqa: E402
from vivace.core.stage import RuntimeOptions  # noqa: E402
from vivace.engine.engine import Engine, speak  # noqa: E402
from vivace.families import transformer_mel  # noqa: E402

TINY = network.Sizes(
    len(gpu_ar.CHARACTERS), 32, 4, 64, 2, 2, 8, channels=(16, 8, 1), strides=(8, 4, 1), longest=512, sample_rate=8000
)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def net(stop: float = -20.0, seed: int = 0) -> network.Network:
    return network.Network(TINY, network.seeded(TINY, seed, stop), torch.float32, "cpu")


def test_the_model_is_the_familys(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(network.seeded(TINY), folder / "model.safetensors")
    names = ("width", "heads", "hidden", "encoder_layers", "decoder_layers", "mels", "longest", "sample_rate")
    config = {name: getattr(TINY, name) for name in names} | {"model_type": "transformer_mel", "max_steps": 20}
    config["text"] = {"characters": gpu_ar.CHARACTERS, "lowercase": True, "language": "en"}
    config["vocoder"] = {"channels": TINY.channels, "strides": TINY.strides}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with Engine(transformer_mel.import_(folder, tmp_path / "bundle"), RuntimeOptions(threads=1)) as engine:
        ids = next(iter(engine._model.encode(Request("a", gpu_ar.TEXT)))).tolist()
        theirs = speak(engine, Request("a", gpu_ar.TEXT)).samples
    frames = network.recomputed(net(), ids, 20)
    assert np.abs(net().vocoder(frames.T[None])[0].numpy() - theirs).max() < 1e-4


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("chunk", [5, 64])
def test_rows_that_join_leave_and_stop_are_what_recomputation_says(at_once: int, chunk: int) -> None:
    """Stops differ, so that slots move while the vocoder speaks."""
    model = net(stop=1.0, seed=3)
    texts = [gpu_ar.ids(gpu_ar.TEXT[k : k + 9]) for k in range(7)]
    whole = [network.recomputed(model, text, 100) for text in texts]
    assert len({len(frames) for frames in whole}) > 3
    assert max(map(len, whole)) > speaker.TURN
    pool = speaker.Speaker(model, at_once, 100, 9, graphs=False, beside=True, chunk=chunk, keep=True)
    rows = [speaker.Row(text, 100) for text in texts]
    assert {id(row) for row in pool.speak(rows, at_once)} == {id(row) for row in rows}
    for row, frames in zip(rows, whole, strict=True):
        assert row.frames is not None
        assert row.frames.shape == frames.shape
        assert (row.frames - frames).abs().max() < 1e-4
        assert (row.samples() - model.vocoder(frames.T[None])[0]).abs().max() < 1e-5
        assert row.ended >= row.joined > 0


def test_fused_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    fused = network.Network(TINY, network.seeded(TINY), torch.float32, "cpu", fused=True)
    text = gpu_ar.ids("some words")
    assert (network.recomputed(fused, text, 20) - network.recomputed(net(), text, 20)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_turn_asks_the_host_for_nothing(dtype: str) -> None:
    """What is captured as a CUDA graph must not: on the device without data, a question is an error."""
    model = network.Network(TINY, network.seeded(TINY), getattr(torch, dtype), "meta")
    pool = speaker.Speaker(model, 3, 20, 9, graphs=False, beside=True)
    pool._read([speaker.Row(gpu_ar.ids("some text"), 20) for _ in range(3)])
    pool._turn(4, speaker.ROOM)
    with pytest.raises((RuntimeError, NotImplementedError)):
        pool.stops.tolist()


def test_quick_on_a_cpu_proves_measures_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_ar.main(["--device", "cpu", "--frames", "20", "--quick"], TINY) == 0
    said = capsys.readouterr()
    for words in ("KV cache, batching | 4 | 1 |", "bf16 | 1 | 1 |", "utterances a second, above | 500 |"):
        assert words in said.out
    assert "beside: not run, needs CUDA" in said.err
    assert not gpu_ar.PAGE.exists() or "| CPU" not in gpu_ar.PAGE.read_text(encoding="utf-8")


def test_what_is_not_proven_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(gpu_ar.TOLERANCES, "bf16 to fp32, first 16 frames", 0.0)
    assert gpu_ar.main(["--device", "cpu", "--frames", "8", "--quick"], TINY) == 1
    said = capsys.readouterr()
    assert "WRONG" in said.err
    assert not said.out


def test_targets_are_judged_where_they_are_met() -> None:
    def row(at: int, ms: float, per_s: float, gb: float) -> dict[str, float | None]:
        return {"concurrency": at, "latency_ms": ms, "per_s": per_s, "device_gb": gb, "peak_gb": 0.5}

    rows = [row(1, 90.0, 11.0, 0.9), row(128, 180.0, 600.0, 1.5), row(256, 300.0, 700.0, 2.5)]
    found = gpu_ar.verdicts({"beside": {"rows": rows}})
    assert {key: (v["found"], v["met"], v["concurrency"]) for key, v in found.items()} == {
        "latency_ms": (90.0, True, 1),
        "per_s": (700.0, True, 256),
        "gb": (1.5, True, 128),
    }
    slow = gpu_ar.verdicts({"baseline": {"rows": [row(1, 2000.0, 0.5, 2.5)]}})
    assert not any(v["met"] for v in slow.values())
    assert gpu_ar.verdicts({}) == {}
