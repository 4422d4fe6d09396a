from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError
from vivace.core.machine import cores
from vivace.core.stage import RuntimeOptions, Session
from vivace.runtimes import onnxruntime as runtime

LATENT = np.zeros((1, 16, 5), np.float32)


@pytest.fixture
def session(toy: Bundle) -> Iterator[Session]:
    stage = toy.stage("decoder")
    opened = runtime.open(stage, toy.file(stage.file), RuntimeOptions(threads=1))
    yield opened
    opened.close()


def test_all_outputs_by_name(session: Session) -> None:
    outputs = session.run({"latent": LATENT})
    assert list(outputs) == ["output"]
    assert outputs["output"].shape == (1, 1, 400)


def test_inputs_that_the_stage_does_not_want_are_left_out(session: Session) -> None:
    assert session.run({"latent": LATENT, "speaker": LATENT})["output"].shape == (1, 1, 400)


def test_a_missing_input_is_named(session: Session) -> None:
    with pytest.raises(ModelError, match="'latent'"):
        session.run({})


@pytest.mark.parametrize(
    "wrong", [LATENT.astype(np.float64), LATENT[0], LATENT[:, :3], np.array("x"), np.zeros((1, 16, 0), np.float32)]
)
def test_a_wrong_input_is_one_line(session: Session, wrong: np.ndarray) -> None:
    with pytest.raises(ModelError, match="ONNX Runtime failed: ") as caught:
        session.run({"latent": wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 1000])
def test_a_file_that_is_no_model(toy: Bundle, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"cannot load bad\.onnx: ") as caught:
        runtime.open(toy.stage("decoder"), tmp_path / "bad.onnx", RuntimeOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_model(toy: Bundle, tmp_path: Path, share: float) -> None:
    data = toy.file("stages/decoder.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"cannot load cut\.onnx"):
        runtime.open(toy.stage("decoder"), tmp_path / "cut.onnx", RuntimeOptions())


def test_a_missing_file(toy: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load none\.onnx"):
        runtime.open(toy.stage("decoder"), tmp_path / "none.onnx", RuntimeOptions())


def test_threads_and_spinning_reach_the_runtime(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    seen = []

    class Noting(ort.InferenceSession):
        def __init__(self, path: str, settings: ort.SessionOptions, providers: list[str]) -> None:
            stops = settings.get_session_config_entry("session.force_spinning_stop")
            seen.append((settings.intra_op_num_threads, stops, providers))
            super().__init__(path, settings, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", Noting)
    stage = toy.stage("decoder")
    for options in (RuntimeOptions(), RuntimeOptions(threads=3), RuntimeOptions(threads=1, spin=True)):
        runtime.open(stage, toy.file(stage.file), options).close()
    cpu = ["CPUExecutionProvider"]
    assert seen == [(cores(), "1", cpu), (3, "1", cpu), (1, "0", cpu)]


def test_the_trace_names_every_operator_once_per_run(toy: Bundle, tmp_path: Path) -> None:
    stage = replace(toy.stage("decoder"), name="decoder")
    opened = runtime.open(stage, toy.file(stage.file), RuntimeOptions(threads=1, trace=str(tmp_path)))
    for _ in range(3):
        opened.run({"latent": LATENT})
    events = [e for e in opened.trace() if e.get("name", "").startswith("/conv_pre/Conv") and e["cat"] == "Node"]
    assert len([e for e in events if e["name"].endswith("_kernel_time")]) == 3
    assert opened.trace() == []
    opened.close()
    assert list(tmp_path.iterdir()) == []


def test_without_a_trace_there_is_none(session: Session) -> None:
    session.run({"latent": LATENT})
    assert session.trace() == []  # type: ignore[attr-defined]


def test_closing_twice_is_no_error_and_running_after_it_is(session: Session) -> None:
    session.close()
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run({"latent": LATENT})


def test_a_session_that_rests_hands_back_what_runs_took(toy: Bundle) -> None:
    """In a process of its own: the arena is one for all sessions."""
    stage = toy.stage("decoder")
    code = f"""
import numpy as np
import onnx
import onnx.parser
from pathlib import Path
from vivace.core.bundle import open_bundle
from vivace.core.machine import resident
from vivace.core.stage import RuntimeOptions
from vivace.runtimes import onnxruntime
toy = open_bundle(Path({str(toy.path)!r}))
session = onnxruntime.open(toy.stage("decoder"), toy.file({stage.file!r}), RuntimeOptions(threads=1))
latent = np.ones((1, 16, 40_000), np.float32)
first = session.run({{"latent": latent}})["output"]
session.rest()
again = session.run({{"latent": latent}})["output"]
del again
before = resident()
session.rest()
print(before - resident(), np.array_equal(first, session.run({{"latent": latent}})["output"]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout.split()
    assert float(told[0]) > 5 and told[1] == "True"


def test_the_graph_that_shrinks_the_arena_is_what_its_comment_says() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Identity(x) }'
    assert onnx.load_from_string(runtime.IDENTITY) == onnx.parser.parse_model(text)
    assert text in Path(runtime.__file__).read_text(encoding="utf-8")
