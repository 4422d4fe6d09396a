"""Plain ONNX and PyTorch models, by their adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from families import generic_maker
from families.keras_maker import LISTENS
from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.features import LogMel
from vivace.core.stage import RuntimeOptions
from vivace.engine.sessions import open_sessions
from vivace.families import generic
from vivace.workflows.import_ import import_model


def answer(bundle: Bundle, clips: list[Audio]) -> np.ndarray:
    sessions = open_sessions(bundle, RuntimeOptions(threads=1))
    return generic.open(bundle, sessions).answer(clips)


def test_a_plain_onnx_file_listens_by_its_adapter(tmp_path: Path) -> None:
    bundle = import_model(generic_maker.classifier(tmp_path / "ears.onnx"), tmp_path / "bundle")
    assert bundle.family == "generic"
    assert bundle.defaults["task"] == "labels"
    rng = np.random.default_rng(0)
    clips = [Audio(rng.standard_normal(n).astype(np.float32) * 0.1, 8000) for n in (4000, 2500, 9000)]
    shape = LogMel(rate=8000, fft=256, hop=80, mels=20)
    weight = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    for clip, scores in zip(clips, answer(bundle, clips), strict=True):
        whole = np.pad(clip.samples[:4000], (0, max(0, 4000 - len(clip.samples))))  # half a second, says the adapter
        assert np.allclose(scores, shape(whole).mean(axis=0) @ weight, atol=1e-3)
    with pytest.raises(UsageError, match="16000 Hz, the model hears 8000 Hz"):
        answer(bundle, [Audio(clips[0].samples, 16000)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "dreams"}, '"task" must be one of labels, speech'),
        ({"labels": ["one"]}, "at least two different names"),
        ({"labels": ["one", "one"]}, "at least two different names"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"features": {"kind": "smell"}}, '"kind": "log_mel" or "samples"'),
        ({"features": {"kind": "log_mel", "bins": 3}}, "unknown field 'bins' in features"),
        ({"features": {"kind": "samples", "rate": 10}}, "rate is 10"),
        ({"seconds": -1}, '"seconds" is -1'),
    ],
)
def test_a_wrong_adapter_is_a_sentence(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = generic_maker.classifier(tmp_path / "ears.onnx")
    path.with_suffix(".json").write_text(json.dumps({**LISTENS, **change}), encoding="utf-8")
    with pytest.raises(ModelError, match=words):
        generic.import_(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(20, 8, 3, padding=1)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x.transpose(1, 2))).mean(2))
"""


def test_a_pt2_is_unpickled_only_where_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "ears.pt2"
    path.write_bytes(b"never read")
    path.with_suffix(".json").write_text(json.dumps(LISTENS), encoding="utf-8")
    with pytest.raises(ModelError, match=r"holds pickles.*--allow-code"):
        generic.import_(path, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_torch_model_becomes_a_bundle(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    (tmp_path / "my_net.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (net,) = (kind() for kind in generic.objects(["my_net:Net"]).values())
    path = tmp_path / f"ears{suffix}"
    shape = {"shape": ["batch", "time", 20], "dtype": "float32"}
    path.with_suffix(".json").write_text(json.dumps({**LISTENS, "input": shape}), encoding="utf-8")
    custom = []
    if suffix == ".pt":
        torch.save(net.state_dict(), path)
        custom = ["my_net:Net"]
        with pytest.raises(UsageError, match="--custom module:Class"):
            generic.import_(path, tmp_path / "out")
    else:
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        program = torch.export.export(net.eval(), (torch.zeros(2, 40, 20),), dynamic_shapes=(axes,))
        torch.export.save(program, path)
    bundle = import_model(path, tmp_path / "out", **({"custom": custom} if custom else {"allow_code": True}))
    session = open_sessions(bundle, RuntimeOptions(threads=1))["model"]
    x = np.random.default_rng(0).standard_normal((3, 71, 20)).astype(np.float32)
    found = next(iter(session.run({next(iter(bundle.stages[0].inputs)): x}).values()))
    assert np.abs(found - net(torch.from_numpy(x)).detach().numpy()).max() < 1e-5


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "planted"), "w")

    path = tmp_path / "ears.pt"
    torch.save({"weight": Evil()}, path)
    shape = {"shape": ["batch", "time", 20], "dtype": "float32"}
    path.with_suffix(".json").write_text(json.dumps({**LISTENS, "input": shape}), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        generic.import_(path, tmp_path / "out", custom=["collections:OrderedDict"])
    assert not (tmp_path / "planted").exists()
