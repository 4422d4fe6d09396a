"""A bundle out as the files that other tools load unchanged."""

from __future__ import annotations

from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.errors import BundleError


def export(bundle: Bundle, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the bundle in its family's own format and returns the files, the model first.

    `out` is a folder, or the model file itself. Raises BundleError if it exists and is not to be overwritten.
    """
    out = Path(out)
    target = out if out.suffix == ".onnx" else out / f"{bundle.name}.onnx"
    if target.exists() and not overwrite:
        raise BundleError(f"{target} exists; choose another name or pass --force")
    files: list[Path] = registry.load("families", bundle.family).export(bundle, out)
    return files
