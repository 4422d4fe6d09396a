from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.core.report import SCHEMA, Measurement, Report

finite = st.floats(allow_nan=False, allow_infinity=False)
measurements = st.builds(
    Measurement,
    name=st.text(max_size=8),
    value=finite,
    unit=st.text(max_size=4),
    better=st.sampled_from(["up", "down", "none"]),
    n=st.integers(1, 10**6),
    low=st.none() | finite,
    high=st.none() | finite,
    scope=st.text(max_size=8),
)
plain = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5))


@given(st.builds(Report, kind=st.text(max_size=8), measurements=st.lists(measurements).map(tuple), details=plain))
def test_json_round_trip(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


def test_get_finds_by_name_and_scope() -> None:
    short, long = Measurement("rtf", 0.1, scope="short"), Measurement("rtf", 0.2, scope="long")
    report = Report("benchmark", (short, long))
    assert report.get("rtf") is short
    assert report.get("rtf", "long") is long
    for name, scope in (("mos", ""), ("rtf", "medium")):
        with pytest.raises(KeyError):
            report.get(name, scope)


def test_a_figure_that_is_not_a_number_is_never_written() -> None:
    report = Report("evaluate", (Measurement("mos", float("nan")),))
    with pytest.raises(ValueError, match="Out of range"):
        report.to_json()


def test_the_schema_is_written() -> None:
    assert json.loads(Report("x", ()).to_json())["schema"] == SCHEMA


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"kind": "x"}', '{"kind": "x", "measurements": [{}]}', '{"kind": "x", "measurements": 5}', "5"],
)
def test_damaged_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Report.from_json(text)


def test_a_report_of_a_newer_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 2"):
        Report.from_json(replace(Report("x", ()), schema=2).to_json())
