"""A bundle out as the files that other tools load unchanged."""

from __future__ import annotations

from pathlib import Path

from vivace.core import registry
from vivace.core.bundle import Bundle
from vivace.core.errors import BundleError, UsageError

FILE_RUNTIMES = ("onnxruntime", "torch")  # what tools that load the files compute in
ONE_FILE = ("{name}.onnx",)  # what a family writes that does not say what it MAKES


def export(bundle: Bundle, out: Path, *, to: str = "", overwrite: bool = False) -> list[Path]:
    """Writes the bundle in its family's own format, or in that of the family `to`; returns the files, the model first.

    `out` is a folder, or the model file itself where there is one. Raises BundleError if it exists and is not to be
    overwritten, UsageError if the voice cannot be written in that format.
    """
    out = Path(out)
    family = registry.load("families", to or bundle.family)
    if to and to != bundle.family and bundle.family not in getattr(family, "ALSO_EXPORTS", ()):
        raise UsageError(f"a voice of family {bundle.family} cannot be written as {to}; leave out --to")
    names = [name.format(name=bundle.name) for name in getattr(family, "MAKES", ONE_FILE)]
    targets = [out] if out.suffix == ".onnx" else [out / name for name in names]
    for target in targets:
        if target.exists() and not overwrite:
            raise BundleError(f"{target} exists; choose another name or pass --force")
    files: list[Path] = family.export(bundle, out)
    return files


def unproven(bundle: Bundle) -> str:
    """Why the evidence of the bundle does not speak for the file that other tools load; "" if nothing says so."""
    placed = [f"{stage.name} in {stage.runtime}" for stage in bundle.stages if stage.runtime not in FILE_RUNTIMES]
    return f"{bundle.name} was judged with its {', '.join(placed)}" if bundle.evidence and placed else ""
