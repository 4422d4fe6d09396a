"""A bundle: a folder with a model's stages, described by one `manifest.json`. Immutable once written.

Every write goes to a temporary sibling folder that is renamed when complete, so that a bundle is there whole
or not at all. The SHA-256 of every file is in the manifest and checked when the bundle is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vivace.core.errors import BundleError
from vivace.core.stage import Stage, TensorSpec

SCHEMA = 1
MANIFEST = "manifest.json"
EVIDENCE = "evidence"


@dataclass(frozen=True)
class Step:
    """One entry of a bundle's history: the pass that made it from its parent."""

    name: str
    version: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    `voices` are the speaker names in the order of their ids; empty for a single-speaker model.
    `defaults` are the family's own (noise scales, language, ...). `digest` names the model: equal digests
    mean equal files and equal meaning, whatever the name, history or evidence.
    """

    path: Path
    name: str
    family: str
    sample_rate: int
    stages: tuple[Stage, ...]
    voices: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Step, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""

    def stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise BundleError(f"{self.path} has no stage {name!r}; it has {', '.join(s.name for s in self.stages)}")

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def size(self) -> int:
        """Bytes of the stage files: what has to be shipped."""
        return sum(self.file(stage.file).stat().st_size for stage in self.stages)

    def derive(
        self,
        out: Path,
        step: Step | None,
        change: Callable[[Path], None] = lambda folder: None,
        *,
        overwrite: bool = False,
        **changes: Any,
    ) -> Bundle:
        """Writes a new bundle at `out`: a copy of this one's files, altered by `change(folder)`.

        `changes` replace fields (stages, defaults, ...). The parent's evidence is not copied: it spoke of the parent.
        """
        history = self.history if step is None else (*self.history, replace(step, parent=self.digest))
        child = replace(self, history=history, evidence={}, **changes)

        def fill(folder: Path) -> None:
            for name in self.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.file(name), folder / name)
            change(folder)

        return write_bundle(out, child, fill, overwrite=overwrite)


def write_bundle(out: Path, bundle: Bundle, fill: Callable[[Path], None], *, overwrite: bool = False) -> Bundle:
    """Writes `bundle` at `out`; `fill(folder)` puts the files there (those under `evidence/` are kept apart).

    Raises BundleError if `out` exists (unless `overwrite`, and then it must be a bundle) or cannot be written.
    """
    out = Path(out)
    if overwrite and out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise BundleError(f"{out} is no bundle and is not replaced by one; choose another name")
    with atomic_folder(out, overwrite=overwrite) as folder:
        fill(folder)
        found = {p.relative_to(folder).as_posix(): _sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        evidence = {name: sha for name, sha in found.items() if name.startswith(EVIDENCE + "/")}
        files = {name: sha for name, sha in found.items() if name not in evidence}
        missing = [stage.file for stage in bundle.stages if stage.file not in files]
        if missing:
            raise BundleError(f"{out}: the file {missing[0]} of a stage was not written")
        bundle = replace(bundle, path=out, files=files, evidence=evidence, digest="")
        bundle = replace(bundle, digest=_digest(bundle))
        text = json.dumps(_to_json(bundle), indent=1) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return _from_json(out, json.loads(text))  # what `open_bundle` gives: tuples inside settings have become lists


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Reads a bundle and, unless `verify` is off, checks the digest of every file.

    Raises BundleError for a folder that is no bundle, a newer schema, a name that leads out of the folder, or a
    file that was changed.
    """
    path = Path(path)
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path} is no bundle (it has no {MANIFEST}); make one with: vivace import MODEL") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path / MANIFEST} cannot be read ({error}); copy or make the model again") from None
    try:
        if data["schema"] != SCHEMA:
            raise BundleError(f"{path} has schema {data['schema']}, this Vivace reads {SCHEMA}: update Vivace")
        bundle = _from_json(path, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST} is damaged ({error!r}); copy or make the model again") from None
    _check_names(bundle)
    if verify:
        try:
            _check_files(bundle)
        except OSError as error:
            raise BundleError(f"a file of {path} cannot be read ({error})") from None
    return bundle


@contextmanager
def atomic_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of `out`, renamed to `out` at the end, removed on any exception (Ctrl-C too)."""
    out = Path(out)
    check_free(out, overwrite)
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} is a file; choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BundleError(f"cannot write to {out.parent}: {error.strerror}") from None
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private; a bundle is an ordinary folder
        check_free(out, overwrite)  # somebody else may have written it meanwhile
        _put(folder, out)
    except OSError as error:
        raise BundleError(f"cannot write {out}: {_reason(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_free(out: Path, overwrite: bool) -> None:
    """Raises BundleError if `out` exists and may not be replaced: to be asked before long work, too."""
    if out.exists() and not overwrite:
        raise BundleError(f"{out} exists; choose another name or pass --force")


def _put(folder: Path, out: Path) -> None:
    """Renames `folder` to `out`. What was there is put back if that fails."""
    if not out.exists():
        folder.rename(out)
        return
    old = folder.with_name(folder.name + ".old")
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _reason(error: OSError) -> str:
    named = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{named}"


def atomic_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all. Raises BundleError if it cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # there is none to remove
            temporary.unlink()


def _check_names(bundle: Bundle) -> None:
    for name in (*bundle.files, *bundle.evidence, *(stage.file for stage in bundle.stages)):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise BundleError(f"{bundle.path} names a file outside itself ({name!r}); do not use it")
    for stage in bundle.stages:
        if stage.file not in bundle.files:
            raise BundleError(f"{bundle.path} does not list the file {stage.file!r} of a stage; import the model again")


def _check_files(bundle: Bundle) -> None:
    for name, sha in {**bundle.files, **bundle.evidence}.items():
        file = bundle.file(name)
        if not file.is_file():
            raise BundleError(f"{bundle.path} lacks its file {name!r}; copy or make the model again")
        if _sha256(file) != sha:
            raise BundleError(
                f"{file} was changed (its SHA-256 differs from the manifest's); copy or make the model again"
            )
    if _digest(bundle) != bundle.digest:
        raise BundleError(f"{bundle.path / MANIFEST} was changed (its digest differs); copy or make the model again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(bundle: Bundle) -> str:
    meaning = _to_json(bundle)
    for key in ("digest", "name", "history", "evidence"):
        del meaning[key]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _to_json(bundle: Bundle) -> dict[str, Any]:
    data = asdict(bundle)
    del data["path"]
    for stage in data["stages"]:
        if not stage["options"]:  # so that bundles keep the digest that they had before stages had options
            del stage["options"]
    return {"schema": SCHEMA, **data}


def _from_json(path: Path, data: dict[str, Any]) -> Bundle:
    def spec(tensors: dict[str, Any]) -> dict[str, TensorSpec]:
        return {name: TensorSpec(t["dtype"], tuple(t["shape"])) for name, t in tensors.items()}

    stages = tuple(Stage(**{**s, "inputs": spec(s["inputs"]), "outputs": spec(s["outputs"])}) for s in data["stages"])
    history = tuple(Step(**step) for step in data["history"])
    rest = {k: v for k, v in data.items() if k not in ("schema", "stages", "history", "voices")}
    bundle = Bundle(path=path, stages=stages, history=history, voices=tuple(data["voices"]), **rest)
    specs = (s for stage in stages for s in (*stage.inputs.values(), *stage.outputs.values()))
    for part in (bundle, *stages, *specs, *history):
        _check_types(part)
    return bundle


_KINDS: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "tuple[str, ...]": tuple,
    "Mapping[str, Any]": dict,
    "Mapping[str, str]": dict,
}


def _check_types(part: Any) -> None:
    """Raises TypeError for a plain field of a manifest's dataclass that holds another type."""
    for f in fields(part):
        value, kind = getattr(part, f.name), _KINDS.get(str(f.type), object)
        inner = value.values() if f.type == "Mapping[str, str]" else value if f.type == "tuple[str, ...]" else ()
        if not isinstance(value, kind) or isinstance(value, bool) or not all(isinstance(i, str) for i in inner):
            raise TypeError(f"{f.name} is {value!r}")
