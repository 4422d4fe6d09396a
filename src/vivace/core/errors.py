"""Every error that a user can meet. Each message is one line that says what is wrong and how to mend it.

The exit code travels with the class, so that the command line needs no table of its own.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BUDGET_NOT_MET = 3
EXIT_INTERRUPTED = 130


class VivaceError(Exception):
    """The root: anything that Vivace itself reports."""

    exit_code = EXIT_FAILURE


class UsageError(VivaceError):
    """A wrong name, setting or argument: the caller can mend it by calling differently."""

    exit_code = EXIT_USAGE


class ModelError(VivaceError):
    """A model file that cannot be read, or is not what it claims to be."""


class BundleError(VivaceError):
    """A bundle that is damaged, incomplete, or cannot be written."""


class TextError(VivaceError):
    """A text that holds nothing that can be spoken, or more than the limits allow."""


class MissingDependency(VivaceError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'vivace[{extra}]'")


class Refused(VivaceError):
    """Something that cannot be proven safe was asked for, and is not done."""
