"""Every runtime runs a stage to the same numbers, and fails in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.errors import MissingDependency, ModelError
from vivace.core.stage import RuntimeOptions, Session

RUNTIMES = registry.names("runtimes")
ONE = RuntimeOptions(threads=1)


def opened(name: str, bundle: Bundle, stage_name: str, path: Path | None = None) -> Session:
    runtime = registry.load("runtimes", name)
    stage = bundle.stage(stage_name)
    if bundle.file(stage.file).suffix[1:] not in runtime.FORMATS:
        pytest.skip(f"{name} reads {', '.join(runtime.FORMATS)}")
    try:
        session: Session = runtime.open(stage, path or bundle.file(stage.file), ONE)
    except MissingDependency as error:
        pytest.skip(str(error))
    return session


def inputs(bundle: Bundle, stage_name: str) -> dict[str, Any]:
    sizes = {"batch": 2, "frames": 7, "characters": 5}
    rng = np.random.default_rng(0)
    made = {}
    for name, spec in bundle.stage(stage_name).inputs.items():
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        made[name] = (
            rng.integers(0, 2, shape) if spec.dtype == "int64" else rng.standard_normal(shape).astype(np.float32)
        )
    return made


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("stage", ["text", "frames", "decoder"])
def test_the_numbers_are_those_of_onnxruntime(toy: Bundle, name: str, stage: str) -> None:
    feed = inputs(toy, stage)
    found, reference = (opened(runtime, toy, stage).run(feed) for runtime in (name, "onnxruntime"))
    assert set(found) == set(reference) == set(toy.stage(stage).outputs)
    for tensor, value in reference.items():
        assert found[tensor].shape == value.shape
        assert np.abs(found[tensor] - value).max() < 1e-4


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_or_wrong_input_is_a_sentence(toy: Bundle, name: str) -> None:
    session = opened(name, toy, "decoder")
    for feed in ({}, {"latent": np.zeros((1, 3, 4), np.float32)}, {"latent": np.zeros(4, np.float64)}):
        with pytest.raises(ModelError) as caught:
            session.run(feed)
        assert "\n" not in str(caught.value)
    session.close()


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_file_that_is_no_model_is_a_sentence(toy: Bundle, name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError) as caught:
        opened(name, toy, "decoder", tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RUNTIMES)
def test_closing_twice_is_no_error_and_running_after_it_is(toy: Bundle, name: str) -> None:
    session = opened(name, toy, "decoder")
    session.close()
    session.close()
    with pytest.raises(ModelError):
        session.run(inputs(toy, "decoder"))
