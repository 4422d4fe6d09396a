from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivace.core.errors import UsageError
from vivace.core.settings import Option, describe, option, parse


@dataclass(frozen=True)
class Example:
    method: str = option("minmax", "how ranges are found", ("minmax", "percentile"))
    rows: int = option(8, "calibration rows")
    percentile: float = option(99.9, "share of values kept")
    symmetric: bool = option(False, "zero point 0")
    keep: tuple[str, ...] = option((), "nodes left alone")
    layers: tuple[str, ...] = option(("a",), "layers", ("a", "b"))


def test_describe_tells_everything_that_people_see() -> None:
    assert describe(Example)[:2] == [
        Option("method", "text", "minmax", "how ranges are found", ("minmax", "percentile")),
        Option("rows", "int", 8, "calibration rows", ()),
    ]
    assert [o.type for o in describe(Example)] == ["text", "int", "float", "bool", "a list", "a list"]


def test_nothing_given_means_the_defaults() -> None:
    assert parse(Example, {}, "example") == Example()


@pytest.mark.parametrize(
    ("key", "given_", "meant"),
    [
        ("rows", "12", 12),
        ("rows", 12.0, 12),
        ("percentile", "99", 99.0),
        ("percentile", 99, 99.0),
        ("symmetric", "yes", True),
        ("symmetric", "False", False),
        ("symmetric", 1, True),
        ("keep", "a, b,,c ", ("a", "b", "c")),
        ("keep", ["a", "b"], ("a", "b")),
        ("keep", "", ()),
        ("layers", "a,b", ("a", "b")),
        ("method", "percentile", "percentile"),
    ],
)
def test_text_and_toml_values_are_understood(key: str, given_: Any, meant: Any) -> None:
    value = getattr(parse(Example, {key: given_}, "example"), key)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("rows", "many", "must be int"),
        ("rows", 3.7, "must be int"),
        ("rows", True, "must be int"),
        ("rows", float("inf"), "must be int"),
        ("rows", None, "must be int"),
        ("percentile", "high", "must be float"),
        ("percentile", "nan", "must be float"),
        ("percentile", float("inf"), "must be float"),
        ("symmetric", "perhaps", "must be bool"),
        ("keep", 5, "must be a list"),
        ("keep", {"a": 1}, "must be a list"),
        ("keep", [["a"]], "must be a list"),
        ("method", None, "must be text"),
        ("method", ["minmax"], "must be text"),
        ("method", "mean", "choose from minmax, percentile"),
        ("layers", "a,c", "'c'; choose from a, b"),
        ("methd", "minmax", "did you mean 'method'?"),
        ("zzz", "1", "known: method, rows"),
    ],
)
def test_a_wrong_setting_is_a_sentence_with_its_owner(key: str, wrong: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(Example, {key: wrong}, "int8_static")
    assert str(caught.value).startswith("int8_static: ")
    assert words in str(caught.value)


def test_a_wrong_flag_is_named_as_it_was_typed() -> None:
    with pytest.raises(UsageError, match="optimize: --percentile is 'nan'; it must be float and finite"):
        parse(Example, {"percentile": "nan"}, "optimize", flags=True)
    with pytest.raises(UsageError, match="optimize: --method is 'mean'; choose from"):
        parse(Example, {"method": "mean"}, "optimize", flags=True)


@dataclass(frozen=True)
class Empty:
    pass


def test_settings_without_fields() -> None:
    assert parse(Empty, {}, "x") == Empty()
    with pytest.raises(UsageError, match="known: none"):
        parse(Empty, {"a": 1}, "x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text draws load tables
@given(st.dictionaries(st.sampled_from([o.name for o in describe(Example)]), json_values, max_size=3))
def test_any_values_give_settings_or_a_usage_error(values: dict[str, Any]) -> None:
    try:
        settings = parse(Example, values, "example")
    except UsageError as error:
        assert "\n" not in str(error)
        return
    kinds = {"text": str, "int": int, "float": float, "bool": bool, "a list": tuple}
    for o in describe(Example):
        assert type(getattr(settings, o.name)) is kinds[o.type]
