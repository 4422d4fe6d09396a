from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from vivace.core import registry
from vivace.core.errors import MissingDependency, UsageError, VivaceError


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    def clear() -> None:
        for cached in (registry.load, registry._builtin, registry._third_party):
            cached.cache_clear()

    clear()
    yield
    clear()


def install(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, value: str) -> None:
    """As if a package with this entry point were installed."""
    points = {f"vivace.{kind}": [EntryPoint(name, value, f"vivace.{kind}")]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.get(group, []))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_names_are_sorted_files_without_private_ones(kind: str) -> None:
    names = registry.names(kind)
    assert names == sorted(names)
    assert not [name for name in names if name.startswith("_")]


def test_built_ins_are_found_by_file_name() -> None:
    assert "piper" in registry.names("families")
    assert registry.load("runtimes", "onnxruntime").__name__ == "vivace.runtimes.onnxruntime"


def test_loading_twice_gives_the_same_module() -> None:
    assert registry.load("families", "piper") is registry.load("families", "piper")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("families", "pipr", "unknown family 'pipr'; did you mean 'piper'?"),
        ("passes", "prune", "unknown pass 'prune'; did you mean 'prune_channels' or 'prune_magnitude'?"),
        ("runtimes", "onnx_runtime", "unknown runtime 'onnx_runtime'; did you mean 'onnxruntime'?"),
        ("text", "zzz", "unknown text front end 'zzz'; known:"),
        ("passes", "zzz", "unknown pass 'zzz'; known:"),
        ("metrics", "zzz", "unknown metric 'zzz'; known:"),
    ],
)
def test_an_unknown_name_gets_a_hint(kind: str, name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.load(kind, name)
    assert words in str(caught.value)


def test_a_private_module_cannot_be_loaded() -> None:
    with pytest.raises(UsageError):
        registry.load("families", "_vits_graph")


def test_a_third_party_module_is_listed_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("their_metric")
    monkeypatch.setitem(sys.modules, "their_metric", module)
    install(monkeypatch, "metrics", "theirs", "their_metric")
    assert "theirs" in registry.names("metrics")
    assert registry.load("metrics", "theirs") is module
    assert "theirs" not in registry.names("passes")


def test_a_third_party_cannot_replace_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "families", "piper", "their_metric")
    assert registry.load("families", "piper").__name__ == "vivace.families.piper"
    assert registry.names("families").count("piper") == 1


@pytest.mark.parametrize("value", ["no_such_module_at_all", "json:no_such_member"])
def test_a_third_party_module_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    install(monkeypatch, "passes", "broken", value)
    with pytest.raises(VivaceError, match=r"the pass 'broken' \(.*\) cannot be loaded"):
        registry.load("passes", "broken")


def test_a_pytorch_module_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("vivace.modules.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependency, match=r"torch is not installed; run: pip install 'vivace\[torch\]'"):
        registry.load("modules", "hifigan")
