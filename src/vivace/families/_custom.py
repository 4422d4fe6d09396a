"""The user's own classes by name, "module:Class": the only code that an import runs, because it was asked to."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vivace.core.errors import UsageError


def objects(custom: Sequence[str]) -> dict[str, Any]:
    """The classes behind "module:Class" names. Raises UsageError for one that cannot be imported."""
    found = {}
    with _here():
        for name in custom:
            _, colon, kind = name.partition(":")
            try:
                if not colon:
                    raise ValueError("no colon")
                found[kind] = pkgutil.resolve_name(name)
            except (ImportError, AttributeError, ValueError) as error:
                raise UsageError(f"--custom {name}: {error}; write module:Class, as in Python's import") from None
    return found


@contextmanager
def _here() -> Iterator[None]:
    """Modules of the working folder are found, as `python -m` does."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))
