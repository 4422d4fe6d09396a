"""The GPU benchmark on a CPU, with a tiny voice: arms are proven, rows and page are made, wrong samples stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import gpu_vits  # noqa: E402
from vivace.modules.hifigan import GeneratorShape  # noqa: E402
from vivace.modules.vits import Shape  # noqa: E402

TINY = Shape(
    20, GeneratorShape(6, (16, 8, 8), (8, 4), (16, 8), (3, 5), ((1, 2), (1, 3))), 6, 8, 12, 2, 2, 3, 2, 2, 2, 3
)
CPU = ["--device", "cpu", "--quick"]


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
    torch.set_grad_enabled(True)


def test_quick_runs_through(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    before = gpu_vits.PAGE.read_text(encoding="utf-8")
    assert gpu_vits.main(CPU, TINY) == 0
    said = capsys.readouterr()
    assert said.out.count("| fp32 | short, 0.9 |") == 2
    assert said.out.count("| bf16, torch.compile | short, 0.9 |") == 2
    assert "graph: not run, needs CUDA" in said.err
    assert "- flow and decoder in bf16: 0.0" in said.out
    assert gpu_vits.PAGE.read_text(encoding="utf-8") == before


def test_wrong_samples_stop_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_vits, "prepared", lambda network, arm, given: lambda: (2 * network(*given)[0], None))
    assert gpu_vits.main([*CPU, "--arms", "fp32"], TINY) == 1
    assert "WRONG" in capsys.readouterr().err


def test_every_arm_makes_as_many_samples_and_the_flow_is_heard() -> None:
    network = gpu_vits.made(TINY, torch.float32, "cpu")
    tokens, duration, prior = gpu_vits.inputs(TINY, 2, 7, "cpu")
    samples, durations = network(tokens, duration, prior)
    assert samples.shape == (2, 1, 7 * gpu_vits.EACH * 32)
    assert durations.shape == (2, 1, 7)
    assert 0.001 < float(samples.square().mean().sqrt()) < 1
    other = network(tokens, duration, prior + 1)[0]
    assert gpu_vits.apart(samples, other) > 0.01


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_vits.main([])
    assert "--device cpu --quick" in capsys.readouterr().err
    assert Path(gpu_vits.PAGE).name == "gpu_vits.md"
