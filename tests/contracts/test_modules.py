"""Whatever is registered keeps the contract of its kind."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

from vivace.core import contracts, registry

PROTOCOLS: dict[str, type[Any]] = {
    "families": contracts.Family,
    "text": contracts.TextFrontEnd,
    "runtimes": contracts.Runtime,
    "passes": contracts.Pass,
    "metrics": contracts.Metric,
}
EVERYTHING = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]

# Imports the given modules where nothing can be imported but the standard library, NumPy and Vivace.
BARE = """
import importlib, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "vivace"):
            raise ImportError(f"{name} is blocked")

import numpy
sys.meta_path.insert(0, Blocker())
failures = {}
for module in json.loads(sys.argv[1]):
    try:
        importlib.import_module(module)
    except ImportError as error:
        failures[module] = str(error)
print(json.dumps(failures))
"""


def import_bare(modules: list[str]) -> dict[str, str]:
    command = [sys.executable, "-c", BARE, json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    failures: dict[str, str] = json.loads(done.stdout)
    return failures


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    return import_bare([registry.load(kind, name).__name__ for kind, name in EVERYTHING])


def test_something_of_each_kind_is_registered() -> None:
    assert {kind for kind, _ in EVERYTHING} == set(registry.KINDS) == set(PROTOCOLS)


def test_the_blocker_blocks() -> None:
    """Else the next test proves nothing."""
    assert import_bare(["onnx", "json"]) == {"onnx": "onnx is blocked"}


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_it_imports_with_the_standard_library_and_numpy_alone(kind: str, name: str, failures: dict[str, str]) -> None:
    assert registry.load(kind, name).__name__ not in failures, failures


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_it_has_the_members_of_its_contract(kind: str, name: str) -> None:
    module, protocol = registry.load(kind, name), PROTOCOLS[kind]
    methods = [m for m, value in vars(protocol).items() if inspect.isfunction(value) and not m.startswith("_")]
    for member in (*inspect.get_annotations(protocol), *methods):
        assert hasattr(module, member), f"{kind}/{name}.py lacks {member}"
    for method in methods:
        wanted = list(inspect.signature(getattr(protocol, method)).parameters.values())[1:]
        found = inspect.signature(getattr(module, method)).parameters
        assert list(found)[: len(wanted)] == [p.name for p in wanted], f"the parameters of {method}"
        for parameter in wanted:
            assert found[parameter.name].kind == parameter.kind
            assert (found[parameter.name].default is parameter.empty) == (parameter.default is parameter.empty)
        assert all(p.default is not p.empty for p in list(found.values())[len(wanted) :])


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_it_is_described(kind: str, name: str) -> None:
    module = registry.load(kind, name)
    assert isinstance(module.SUMMARY, str)
    assert module.SUMMARY == module.SUMMARY.strip() != ""
    assert len(module.SUMMARY.splitlines()) == 1
    assert len(module.SUMMARY) <= 120
    assert module.__doc__


@pytest.mark.parametrize("name", registry.names("passes"))
def test_needs_of_a_pass(name: str) -> None:
    assert {"calibration"} >= registry.load("passes", name).NEEDS


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_facts_of_a_metric(name: str) -> None:
    module = registry.load("metrics", name)
    assert {"text", "reference"} >= module.NEEDS
    assert module.BETTER in ("up", "down", "none")
    assert isinstance(module.UNIT, str)


@pytest.mark.parametrize("name", registry.names("runtimes"))
def test_formats_of_a_runtime(name: str) -> None:
    formats = registry.load("runtimes", name).FORMATS
    assert isinstance(formats, tuple)
    assert formats
    assert all(f and not f.startswith(".") for f in formats)
