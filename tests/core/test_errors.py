from __future__ import annotations

import inspect

import pytest

from vivace.core import errors

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_a_vivace_error_with_a_failing_exit_code(error: type[errors.VivaceError]) -> None:
    assert issubclass(error, errors.VivaceError)
    assert error.exit_code != errors.EXIT_OK
    assert error.__doc__


def test_exit_codes_differ() -> None:
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert len(codes) == len(set(codes)) == 5


def test_only_wrong_usage_exits_with_2() -> None:
    assert [error for error in CLASSES if error.exit_code == errors.EXIT_USAGE] == [errors.UsageError]


def test_a_missing_package_names_its_extra() -> None:
    message = str(errors.MissingDependency("jiwer", "eval"))
    assert "jiwer" in message
    assert "pip install 'vivace[eval]'" in message
    assert "\n" not in message
