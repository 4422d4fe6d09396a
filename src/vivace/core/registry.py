"""Finds families, text front ends, runtimes, passes and metrics by name.

File name = registered name. Built-ins are the modules of `vivace.<kind>` whose names do not start with an
underscore; third parties register modules under the entry-point group `vivace.<kind>`.
Nothing is imported until it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from vivace.core.errors import MissingDependency, UsageError, VivaceError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KINDS = ("families", "text", "runtimes", "passes", "metrics")


def names(kind: str) -> list[str]:
    """All registered names of a kind (one of `KINDS`), sorted."""
    return sorted({*_builtin(kind), *_third_party(kind)})


@cache
def load(kind: str, name: str) -> Any:
    """The module registered as `name`.

    Raises UsageError for a name that is not registered, with the nearest that are, MissingDependency for a PyTorch
    module without PyTorch, and VivaceError for a third party's module that cannot be imported.
    """
    if name in _builtin(kind):
        try:
            return importlib.import_module(f"vivace.{kind}.{name}")
        except ModuleNotFoundError as error:
            if kind == "modules" and error.name == "torch":  # they are PyTorch modules: all need it at the top
                raise MissingDependency("torch", "torch") from None
            raise
    if name in _third_party(kind):
        point = _third_party(kind)[name]
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            where = f"{_singular(kind)} {name!r} ({point.value})"
            raise VivaceError(f"the {where} cannot be loaded: {error}; update or uninstall its package") from error
    known = names(kind)
    near = [k for k in known if name and name in k] or get_close_matches(name, known, 1)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    raise UsageError(f"unknown {_singular(kind)} {name!r}; {hint}")


@cache
def _builtin(kind: str) -> frozenset[str]:
    package = importlib.import_module(f"vivace.{kind}")
    return frozenset(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


@cache
def _third_party(kind: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # takes longer to import than everything else here

    return {point.name: point for point in entry_points(group=f"vivace.{kind}")}


def _singular(kind: str) -> str:
    return {"families": "family", "passes": "pass", "text": "text front end"}.get(kind, kind.rstrip("s"))
