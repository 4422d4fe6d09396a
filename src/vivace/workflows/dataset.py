"""Labelled clips: a folder with one subfolder for each label, or a manifest (CSV) with the columns path and label.

A manifest may have a column `group` (the speaker, say): clips of one group are not independent of each other.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vivace.core.audio import Audio
from vivace.core.errors import UsageError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Item:
    """`name` is the clip's path below its set."""

    name: str
    file: Path
    label: str
    group: str = ""


@dataclass(frozen=True)
class Dataset:
    path: Path
    items: tuple[Item, ...]

    @cached_property
    def digest(self) -> str:
        """Names the set: its files' contents with their labels."""
        found = hashlib.sha256()
        for item in self.items:
            found.update(f"{item.name}\0{item.label}\0".encode() + item.file.read_bytes())
        return found.hexdigest()

    @cached_property
    def contents(self) -> frozenset[str]:
        """Names what is in its files: a copy under another name is the same clip."""
        return frozenset(hashlib.sha256(item.file.read_bytes()).hexdigest() for item in self.items)

    def clips(self, rate: int) -> list[Audio]:
        """Every clip, mono, at `rate` Hz. Raises UsageError naming a file that cannot be read."""
        return [_read(item.file, rate) for item in self.items]

    def classes(self, labels: Sequence[str]) -> np.ndarray:
        """int64[clips]: the place of each clip's label. Raises UsageError for one that the model does not know."""
        places = {label: k for k, label in enumerate(labels)}
        unknown = sorted({item.label for item in self.items} - set(places))
        if unknown:
            raise UsageError(
                f"{self.path}: the model does not know the label {unknown[0]!r}; it knows {', '.join(labels)}"
            )
        return np.array([places[item.label] for item in self.items])


def read(path: Path | str) -> Dataset:
    """A labelled folder, or a manifest (the file itself, or a folder that holds one named manifest.csv).

    Raises UsageError for a path that is not there, a manifest without its columns or with files that are not there,
    and a set without clips.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist; give a folder of LABEL/clip.wav, or a manifest with path,label")
    manifest = path / MANIFEST if path.is_dir() else path
    items = _manifest(manifest) if manifest.is_file() else _folder(path)
    if not items:
        raise UsageError(f"{path} holds no labelled clip; put them as LABEL/clip.wav ({', '.join(SUFFIXES)})")
    return Dataset(path, tuple(items))


def _folder(path: Path) -> list[Item]:
    return [
        Item(file.relative_to(path).as_posix(), file, file.parent.name)
        for file in sorted(path.glob("*/*"))
        if file.suffix.lower() in SUFFIXES
    ]


def _manifest(path: Path) -> list[Item]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in ("path", "label") if name not in (table.fieldnames or ())]
            if missing:
                raise UsageError(f"{path} has no column {missing[0]!r}; its first line must name path and label")
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read ({error})") from None
    items = []
    for number, row in enumerate(rows, 2):
        name, label = row["path"] or "", row["label"] or ""
        if not name or not label or not (path.parent / name).is_file():
            raise UsageError(f"{path}, line {number}: {name or 'no path'!r} is not there, or has no label")
        items.append(Item(name, path.parent / name, label, row.get("group") or ""))
    return items


def _read(file: Path, rate: int) -> Audio:
    import soundfile
    import soxr

    try:
        samples, found = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{file} is no readable sound file ({error}); remove it from the set") from None
    mono = samples.mean(axis=1)
    if not len(mono):
        raise UsageError(f"{file} is empty; remove it from the set")
    return Audio(mono if found == rate else soxr.resample(mono, found, rate).astype(np.float32), rate)
