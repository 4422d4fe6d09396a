import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.workflows import _report_tables as tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (0.0710, "0.0710"), (1.3, "1.30"), (63.25, "63.2"), (1035.2, "1,035"), (-0.5, "−0.500"),
        (0.00002, "0.000020"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert tables.number(value) == text


def test_small_models_have_a_size():
    assert [tables.megabytes(mb) for mb in (63.25, 0.0423, 0.0, None)] == ["63.2", "0.0423", "0", "–"]


def test_number_signs_what_is_not_zero():
    assert tables.number(0.06, 2, signed=True) == "+0.06"
    assert tables.number(-0.001, 2, signed=True) == "0.00"


@given(st.floats(1e-4, 1e7), st.booleans())
def test_number_is_off_by_less_than_one_in_a_hundred(value, negative):
    value = -value if negative else value
    read = float(tables.number(value).replace(",", "").replace("−", "-"))
    assert math.isclose(read, value, rel_tol=0.01)


@pytest.mark.parametrize(("ms", "text"), [(5.234, "5.23"), (57.03, "57.0"), (225.4, "225"), (None, "–")])
def test_milliseconds(ms, text):
    assert tables.milliseconds(ms) == text


def test_bounds_say_their_unit_once_and_nothing_without_an_end():
    assert tables.bounds({"low": 1.7, "high": 1.78}, tables.ratio) == "1.70 to 1.78×"
    assert tables.bounds({"low": 1.7, "high": None}, tables.ratio) == ""
    assert tables.bounds(None, tables.ratio) == ""
    assert tables.bounds({"low": 0.0, "high": 0.0}, tables.number) == ""
    points = tables.scale("wer").change
    assert tables.bounds({"low": -0.012, "high": 0.004}, points) == "−1.2 to +0.4 points"


@pytest.mark.parametrize(
    ("metric", "unit", "score", "change"),
    [
        ("predicted_mos", "predicted MOS", "0.12", "+0.123"),
        ("predicted_mos", "MOS", "0.12", "+0.123"),  # as older reports have it
        ("wer", "", "12.3%", "+12.3 points"),
        ("wer", "%", "0.1%", "+0.1 points"),
        ("clipping", "share", "12.30%", "+12.30 points"),
        ("duration_ratio", "ratio", "0.123", "+0.123"),
        ("hiss", "dB", "0.123", "+0.123"),
    ],
)
def test_scales(metric, unit, score, change):
    how = tables.scale(metric, unit)
    assert (how.score(0.123), how.change(0.123)) == (score, change)
    assert how.limit(0.123) == change.lstrip("+")
    assert how.score(None) == how.change(None) == how.limit(None) == "–"


def test_titles_carry_the_unit_but_never_an_unexplained_score():
    assert tables.scale("hiss", "dB").title == "Hiss, dB"
    assert tables.scale("predicted_mos", "predicted MOS").title == "Predicted MOS (DistillMOS)"
    assert tables.scale("dnsmos", "predicted MOS").title == "Predicted MOS, second predictor (DNSMOS)"


def test_ranked_puts_the_voice_first_and_keeps_the_rest_in_order():
    assert tables.ranked(["hiss", "wer", "clipping", "predicted_mos", "wer"]) == [
        "predicted_mos",
        "wer",
        "hiss",
        "clipping",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (True, "yes"), (0.1 + 0.2, "0.3"), ([1, "a"], "1, a"), ([], "–"), ({"a": 1}, "a = 1"), ("x", "x")],
)
def test_plain(value, text):
    assert tables.plain(value) == text
