"""Every pass, with the settings it has by default, on small models: a child that speaks, or a reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.samples import MODELS
from vivace.core import registry
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.contracts import Context
from vivace.core.errors import MissingDependency, UsageError
from vivace.core.settings import describe, parse
from vivace.core.speech import Request
from vivace.core.stage import Array, RuntimeOptions
from vivace.engine.engine import Engine, speak
from vivace.workflows.calibration import record

PASSES = registry.names("passes")
# These want a VITS voice as PyTorch exported it.
MODULES = {"to_torch", "torch_int8_dynamic", "torch_int8_weight_only", "bf16", "compile"}
MODULES |= {"prune_magnitude", "prune_channels"}
ELSEWHERE = {
    "relative_attention",
    "student_decoder",
    "qat",
    "finetune_sparse",
    *MODULES,
}  # the samples have no work for them
TEXTS = ("a short text", "another one, a little longer", "and the third")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("passes")
    return {
        name: registry.load("families", name).import_(make(folder), folder / f"{name} bundle")
        for name, make in MODELS.items()
    }


@pytest.fixture(scope="module")
def rows(bundles: dict[str, Bundle]) -> dict[str, dict[str, list[dict[str, Array]]]]:
    return {name: record(bundle, TEXTS) for name, bundle in bundles.items()}


def say(bundle: Bundle) -> np.ndarray:
    with Engine(bundle, RuntimeOptions(threads=1)) as engine:
        return speak(engine, Request("a", "hello to the small one.", seed=1)).samples


def context(name: str, rows: Mapping[str, list[dict[str, Array]]]) -> Context:
    def calibration(stage: str) -> list[dict[str, Array]]:
        assert "calibration" in registry.load("passes", name).NEEDS, "it takes calibration rows without saying so"
        return rows[stage]

    return Context(calibration)


# --- settings ---


@pytest.mark.parametrize("name", PASSES)
def test_settings_are_frozen_options_with_help(name: str) -> None:
    settings = registry.load("passes", name).Settings
    assert dataclasses.is_dataclass(settings)
    assert settings.__dataclass_params__.frozen
    for o in describe(settings):
        assert o.help, f"{o.name} has no help"
        assert o.default is not dataclasses.MISSING, f"{o.name} has no default"
        for value in o.default if isinstance(o.default, tuple) else (o.default,):
            assert not o.choices or value in o.choices


@pytest.mark.parametrize("name", PASSES)
def test_defaults_survive_being_written_and_read(name: str) -> None:
    settings = registry.load("passes", name).Settings
    assert parse(settings, dataclasses.asdict(settings()), name) == settings()
    as_text = {
        key: ",".join(value) if isinstance(value, tuple) else str(value)
        for key, value in dataclasses.asdict(settings()).items()
    }
    assert parse(settings, as_text, name) == settings()
    with pytest.raises(UsageError, match=f"{name}: unknown setting 'no_such_setting'"):
        parse(settings, {"no_such_setting": 1}, name)


# --- work ---


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("family", MODELS)
def test_accepts_answers_with_none_or_a_reason(bundles: dict[str, Bundle], name: str, family: str) -> None:
    module = registry.load("passes", name)
    for stage in bundles[family].stages:
        reason = module.accepts(stage, module.Settings())
        assert reason is None or (reason and "\n" not in reason)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("family", MODELS)
def test_apply_gives_a_child_that_speaks_or_a_reason(
    tmp_path: Path, bundles: dict[str, Bundle], rows: Any, name: str, family: str
) -> None:
    module, parent, out = registry.load("passes", name), bundles[family], tmp_path / "child"
    settings = module.Settings()
    try:
        child = module.apply(parent, out, settings, context(name, rows[family]))
    except (UsageError, MissingDependency) as error:
        assert "\n" not in str(error)
        assert list(tmp_path.iterdir()) == []
        return
    finally:
        assert open_bundle(parent.path) == parent, "the parent was changed"
    assert open_bundle(out) == child
    assert child.digest != parent.digest
    step = child.history[-1]
    assert child.history[:-1] == parent.history
    assert (step.name, step.parent) == (name, parent.digest)
    assert step.version
    assert parse(module.Settings, step.settings, name) == settings
    samples = say(child)
    assert np.isfinite(samples).all()
    assert 0.001 < np.abs(samples).max() < 1.1
    assert 0.8 < len(samples) / len(say(parent)) < 1.25


@pytest.mark.parametrize("name", sorted(set(PASSES) - ELSEWHERE))
def test_every_pass_has_work_in_one_of_the_samples(
    tmp_path: Path, bundles: dict[str, Bundle], rows: Any, name: str
) -> None:
    """Else the test above passes by giving reasons only."""
    if name == "keras_int8":
        pytest.importorskip("keras")
    module = registry.load("passes", name)
    reasons = []
    for family, bundle in bundles.items():
        try:
            module.apply(bundle, tmp_path / family, module.Settings(), context(name, rows[family]))
            return
        except UsageError as error:
            reasons.append(str(error))
    raise AssertionError(reasons)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_repeatable(tmp_path: Path, bundles: dict[str, Bundle], rows: Any, name: str) -> None:
    module = registry.load("passes", name)
    digests = set()
    for k in range(2):
        try:
            child = module.apply(bundles["piper"], tmp_path / str(k), module.Settings(), context(name, rows["piper"]))
        except (UsageError, MissingDependency):
            digests.add("")
        else:
            digests.add(child.digest)
    assert len(digests) == 1
