"""A user's model files in, a bundle out."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from vivace.core import registry
from vivace.core.bundle import MANIFEST, Bundle, check_free
from vivace.core.errors import UsageError


def import_model(source: Path, out: Path, *, family: str = "", overwrite: bool = False, **options: Any) -> Bundle:
    """Imports `source` with the family that recognises it, or with the one that is named.

    `options` are the family's own (a Keras model's `custom`, for instance). Raises UsageError if the path is missing or
    no family takes it, BundleError if `out` exists, ModelError if the model is not what it claims to be.
    """
    source = Path(source)
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    if (source / MANIFEST).exists():
        raise UsageError(f"{source} is a bundle already; use it as it is")
    check_free(Path(out), overwrite)
    names = [family] if family else registry.names("families")
    for name in names:
        module = registry.load("families", name)
        if family or module.recognise(source):
            _check(name, module, options)
            bundle: Bundle = module.import_(source, Path(out), overwrite=overwrite, **options)
            return bundle
    lacking = [getattr(registry.load("families", name), "lacks", _nothing)(source) for name in names]
    if any(lacking):
        raise UsageError("; ".join(filter(None, lacking)))
    wants = "; ".join(f"{name}: {registry.load('families', name).SUMMARY}" for name in names)
    raise UsageError(f"no family knows {source}. Families are {wants}")


def _check(name: str, module: Any, options: dict[str, Any]) -> None:
    """Raises UsageError for an option that the family does not have."""
    for option in options:
        if option not in inspect.signature(module.import_).parameters:
            raise UsageError(f"--{option.replace('_', '-')} does not belong to models of the family {name}")


def _nothing(_: Path) -> str:
    """What a family says that has no `lacks`."""
    return ""
