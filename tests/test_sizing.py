"""scripts/sizing.py: the formula, and that docs/sizing.md says what it makes of the measurement."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SIZING: Any = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts/sizing.py")))


def need(listeners: int, **changed: float) -> Any:
    point = SIZING.Point("a load", 32.0, 2, 120.0, 0)
    usual = {"duty": 1.0, "machine_cores": 8, "spare": 0.25, "core_hour": 0.04, "kilobits": 48, "gigabyte": 0.05}
    return SIZING.need(point, listeners, **{**usual, **changed})


def test_the_formula() -> None:
    found = need(1600)
    assert found.cores == pytest.approx(100)  # 16 listeners a core
    assert found.machines == 13 + 4
    assert found.dollars == pytest.approx(17 * 8 * 0.04 * 730)
    assert found.megabits == pytest.approx(76.8)
    assert found.egress == pytest.approx(76.8e6 / 8 * 3600 * 730 / 1e9 * 0.05)


def test_one_listener_needs_one_machine_and_two_need_a_spare_one() -> None:
    assert need(1).machines == 1 and need(2).machines == 2


def test_who_is_spoken_to_half_of_the_time_costs_half() -> None:
    assert need(1600, duty=0.5).cores == pytest.approx(50)


def test_the_page_says_what_the_measurement_gives() -> None:
    text = SIZING.PAGE.read_text(encoding="utf-8")
    args = SIZING.parser().parse_args([])
    args.kilobits = SIZING.FORMATS[args.format]
    assert SIZING.tables(args) in text, "run: python scripts/sizing.py --write"
    assert SIZING.page(text.replace("| 1,000 |", "| 1,001 |"), SIZING.tables(args)) == text


def test_formats_have_the_servers_rates() -> None:
    pytest.importorskip("av")
    from vivace.server.encode import _CODECS

    for name, kilobits in SIZING.FORMATS.items():
        assert kilobits * 1000 == (_CODECS[name][3] if name in _CODECS else 24_000 * 16)


def test_nonsense_is_refused() -> None:
    for words in (["--duty", "0"], ["--listeners", "0"], ["--machine-cores", "0"]):
        with pytest.raises(SystemExit, match="must be at least 1"):
            SIZING.main(words)
