from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from core.memory import mapped
from vivace.core import machine
from vivace.core.bundle import Bundle
from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import Array, RuntimeOptions, Stage, TensorSpec
from vivace.runtimes import _prepared, onnxruntime
from vivace.runtimes import openvino as runtime

pytest.importorskip("openvino")
ONE = RuntimeOptions(threads=1)
BF16 = "bf16" in runtime.precisions()


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`flags("avx512_bf16")`: from here on the processor seems to lack these."""

    def hide(names: str) -> None:
        monkeypatch.setenv(machine.HIDE, names)
        machine.describe.cache_clear()

    yield hide
    monkeypatch.undo()
    machine.describe.cache_clear()


def stage_of(toy: Bundle, precision: str = "fp32") -> Stage:
    return replace(toy.stage("decoder"), runtime="openvino", options={"precision": precision})


def said(module: Any, toy: Bundle, stage: Stage, feed: Array, options: RuntimeOptions = ONE) -> Array:
    session = module.open(stage, toy.file(stage.file), options)
    try:
        return session.run({"latent": feed})["output"]
    finally:
        session.close()


def latent(seed: int = 0, frames: int = 40) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 16, frames), np.float32)


def test_fp32_gives_the_numbers_of_onnxruntime(toy: Bundle) -> None:
    expected = said(onnxruntime, toy, toy.stage("decoder"), latent())
    assert np.abs(said(runtime, toy, stage_of(toy), latent()) - expected).max() < 1e-5


@pytest.mark.skipif(not BF16, reason="this processor has no bf16")
def test_bf16_differs_a_little(toy: Bundle) -> None:
    exact, rounded = (said(runtime, toy, stage_of(toy, p), latent()) for p in ("fp32", "bf16"))
    assert 1e-5 < np.abs(exact - rounded).max() < 0.05


def test_without_bf16_a_bf16_stage_computes_in_fp32(toy: Bundle, flags: Callable[[str], None]) -> None:
    flags("avx512_bf16,amx_bf16")
    assert runtime.precisions() == ("fp32",)
    rounded, exact = (said(runtime, toy, stage_of(toy, p), latent()) for p in ("bf16", "fp32"))
    assert np.array_equal(rounded, exact)


def test_one_kind_of_bf16_is_enough(flags: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "flags\t: avx2 avx512_bf16 amx_bf16\n")
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    flags("avx512_bf16")
    assert runtime.precisions() == ("fp32", "bf16")


def test_other_processors_are_left_to_others(flags: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    flags("")
    assert runtime.precisions() == ()


def test_without_the_package_nothing_is_offered_and_the_mend_is_named(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    runtime._core.cache_clear()
    assert runtime.precisions() == ()
    with pytest.raises(MissingDependency, match=r"pip install 'vivace\[openvino\]'"):
        said(runtime, toy, stage_of(toy), latent())


CONVERTS = """
import sys
from vivace.runtimes import openvino as runtime
runtime._core()
assert "openvino.tools.ovc" not in sys.modules
import numpy as np, onnx, openvino
from onnx import TensorProto, helper
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[1])
found = openvino.compile_model(openvino.convert_model(sys.argv[1]), "CPU")([np.ones(1, np.float32)])
assert found[0].tolist() == [-1]
"""


def test_the_converter_is_loaded_for_those_alone_who_call_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONVERTS, str(tmp_path / "neg.onnx")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_two_threads_at_once_say_what_one_says(toy: Bundle) -> None:
    """The two wait for each other before every run, so that they really meet inside the session."""
    feeds = [latent(seed, frames) for seed, frames in enumerate((31, 47))]
    alone = [said(runtime, toy, stage_of(toy), feed) for feed in feeds]
    stage = stage_of(toy)
    session = runtime.open(stage, toy.file(stage.file), RuntimeOptions(threads=1, workers=2))
    meeting = threading.Barrier(2, timeout=60)

    def many(feed: Array) -> list[Array]:
        found = []
        for _ in range(10):
            meeting.wait()
            found.append(session.run({"latent": feed})["output"])
        return found

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(many, feeds))
    session.close()
    for runs, expected in zip(together, alone, strict=True):
        assert all(np.array_equal(run, expected) for run in runs)


def test_what_was_given_out_is_not_overwritten_by_the_next_run(toy: Bundle) -> None:
    stage = stage_of(toy)
    session = runtime.open(stage, toy.file(stage.file), ONE)
    first = session.run({"latent": latent(0)})["output"]
    copy = first.copy()
    session.run({"latent": latent(1)})
    assert np.array_equal(first, copy)


def test_threads_workers_and_precision_reach_the_runtime(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Noting:
        def compile_model(self, path: str, device: str, settings: dict[str, Any]) -> Any:
            seen.append(settings)
            raise RuntimeError("seen")

    monkeypatch.setattr(runtime, "_core", Noting)
    for options in (RuntimeOptions(), RuntimeOptions(threads=3), RuntimeOptions(threads=1, workers=2)):
        with pytest.raises(ModelError, match="seen"):
            runtime.open(stage_of(toy), toy.file("stages/decoder.onnx"), options)
    numbers = [(s["INFERENCE_NUM_THREADS"], s["NUM_STREAMS"]) for s in seen]
    assert numbers == [(machine.cores(), 1), (3, 1), (1, 1)]
    assert all(s["INFERENCE_PRECISION_HINT"] == "f32" and not s["ENABLE_CPU_PINNING"] for s in seen)
    assert all("CACHE_DIR" not in s for s in seen)  # nothing is kept of a file without a digest


def test_a_missing_input_is_named(toy: Bundle) -> None:
    stage = stage_of(toy)
    session = runtime.open(stage, toy.file(stage.file), ONE)
    with pytest.raises(ModelError, match="'latent'"):
        session.run({"frames": latent()})
    with pytest.raises(ModelError, match="OpenVINO failed: ") as caught:
        session.run({"latent": latent()[:, :3]})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 350


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 1000])
def test_a_file_that_is_no_model(toy: Bundle, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"cannot load bad\.onnx: ") as caught:
        runtime.open(stage_of(toy), tmp_path / "bad.onnx", ONE)
    assert "\n" not in str(caught.value)


def test_an_error_without_words_is_named_by_its_kind() -> None:
    assert runtime._last_line(RuntimeError()) == "RuntimeError"
    assert runtime._last_line(RuntimeError("file.cpp:7\n\nno such layer\n")) == "no such layer"


def test_the_trace_holds_the_time_of_every_operator_run_by_run(toy: Bundle, tmp_path: Path) -> None:
    stage = stage_of(toy)
    options = RuntimeOptions(threads=1, trace=str(tmp_path), digest="0" * 64)
    session = runtime.open(stage, toy.file(stage.file), options)
    for frames in (400, 40, 40):
        session.run({"latent": latent(frames=frames)})
    events = session.trace()
    assert session.trace() == []
    starts = [event["ts"] for event in events if event["name"] == "model_run"]
    assert starts == sorted(starts)
    spent = [sum(e["dur"] for e in events if e["cat"] == "Node" and e["ts"] == start) for start in starts]
    assert len(spent) == 3
    assert spent[0] > 0
    assert min(spent) >= 0
    (conv,) = {e["name"] for e in events if e["name"].startswith("/conv_pre/Conv") and "Reorder" not in str(e)}
    assert conv == "/conv_pre/Conv_kernel_time"  # found under the name that it has in the file


def test_an_operators_time_is_what_its_mean_over_all_runs_grew_by() -> None:
    trace = runtime._Trace()
    for mean in (100, 60, 50):
        trace.add(0.0, [("a", "Convolution", mean)])
    assert [e["dur"] for e in trace.events if e["cat"] == "Node"] == [100, 20, 30]


def test_without_a_trace_there_is_none(toy: Bundle) -> None:
    stage = stage_of(toy)
    session = runtime.open(stage, toy.file(stage.file), ONE)
    session.run({"latent": latent()})
    assert session.trace() == []


# --- what is kept for the next load ---


def product(path: Path, factor: float, size: int = 4) -> str:
    """A model that multiplies by `factor`; every one of a size has the same size and time. Returns its digest."""
    import hashlib

    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.full((size, size), factor, np.float32), "w")
    values = [helper.make_tensor_value_info(name, 1, ["rows", size]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    os.utime(path, (1e9, 1e9))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def result(path: Path, digest: str) -> float:
    session = runtime.open(Stage("product", path.name), path, RuntimeOptions(threads=1, digest=digest))
    return float(session.run({"x": np.ones((1, 4), np.float32)})["y"][0, 0])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vivace" / "openvino"


def test_another_file_under_the_same_name_is_another_stage(tmp_path: Path, kept: Path) -> None:
    """OpenVINO's own cache takes the second for the first: same path, same size, same second."""
    for factor in (1.0, 2.0, 1.0):
        digest = product(tmp_path / "m.onnx", factor)
        assert result(tmp_path / "m.onnx", digest) == 4 * factor
    assert len(list(kept.iterdir())) == 2
    assert all(list(folder.glob("*.blob")) for folder in kept.iterdir())


def test_weights_that_were_copied_leave_memory(tmp_path: Path, kept: Path) -> None:
    path, size = tmp_path / "m.onnx", 1024
    digest = product(path, 3.0, size)
    given = {"x": np.ones((1, size), np.float32)}
    for known in (False, True):
        session = runtime.open(Stage("product", path.name), path, RuntimeOptions(threads=1, digest=digest))
        (blob,) = kept.rglob("*.blob")
        assert (mapped(blob) > 4e6) == known  # the second load reads it from there
        for _ in range(2):
            assert session.run(given)["y"][0, 0] == 3.0 * size
            assert mapped(blob) < 1e6
        session.close()


def test_weights_are_looked_for_in_memory_once_for_every_size(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Path] = []
    monkeypatch.setattr(machine, "forget_mapped", forgotten.append)
    path = tmp_path / "m.onnx"
    options = RuntimeOptions(threads=1, digest=product(path, 2.0))
    session = runtime.open(Stage("product", path.name), path, options)
    for rows in (1, 2, 1, 2, 3):
        session.run({"x": np.ones((rows, 4), np.float32)})
    assert forgotten == [kept / options.digest[:32]] * 3
    session.close()


def test_the_cache_is_bounded(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prepared, "MOST", 1)
    for factor in (1.0, 2.0, 3.0):
        result(tmp_path / "m.onnx", product(tmp_path / "m.onnx", factor))
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"x" * 5000, None])
def test_what_is_damaged_in_the_cache_is_made_again(tmp_path: Path, kept: Path, damage: bytes | None) -> None:
    digest = product(tmp_path / "m.onnx", 3.0)
    assert result(tmp_path / "m.onnx", digest) == 12.0
    (blob,) = kept.rglob("*.blob")
    data = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(data[: len(data) // 2] if damage is None else damage)
    assert result(tmp_path / "m.onnx", digest) == 12.0


def test_a_cache_that_cannot_be_written_to_stops_nothing(tmp_path: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("in the way", encoding="utf-8")
    assert result(tmp_path / "m.onnx", product(tmp_path / "m.onnx", 3.0)) == 12.0


def test_an_output_keeps_its_name_where_openvino_joins_tensors(tmp_path: Path) -> None:
    """Identity vanishes, and its output then has the name of what was before it, too."""
    nodes = [
        helper.make_node("Relu", ["x"], ["/inner/a_long_name_out"]),
        helper.make_node("Identity", ["/inner/a_long_name_out"], ["key"]),
        helper.make_node("Add", ["/inner/a_long_name_out", "x"], ["value"]),
    ]
    given, *made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "key", "value"))
    model = helper.make_model(helper.make_graph(nodes, "g", [given], made), opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "s.onnx").write_bytes(model.SerializeToString())
    outputs = {name: TensorSpec("float32", ("n",)) for name in ("key", "value")}
    stage = Stage("s", "s.onnx", runtime="openvino", inputs={"x": TensorSpec("float32", ("n",))}, outputs=outputs)
    session = runtime.open(stage, tmp_path / "s.onnx", RuntimeOptions(threads=1))
    assert set(session.run({"x": np.ones(3, np.float32)})) == {"key", "value"}


def test_a_session_that_has_rested_runs_as_before(toy: Bundle) -> None:
    stage = toy.stage("decoder")
    session = runtime.open(stage, toy.file(stage.file), ONE)
    latent = {"latent": np.ones((1, 16, 50), np.float32)}
    first = session.run(latent)["output"].copy()
    session.rest()
    assert np.array_equal(session.run(latent)["output"], first)
    session.close()
    session.rest()
