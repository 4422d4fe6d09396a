"""A recipe: an ordered list of passes with their settings, in a small TOML file that users can write."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from vivace.core import registry
from vivace.core.errors import UsageError
from vivace.core.settings import parse

OBJECTIVES = ("speed", "size")


@dataclass(frozen=True)
class Entry:
    """One pass of a recipe; `objective` is what it must improve to be kept."""

    name: str
    objective: str
    settings: Any

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not at their default."""
        default = asdict(type(self.settings)())
        return {k: v for k, v in asdict(self.settings).items() if v != default[k]}

    @property
    def label(self) -> str:
        """Short name for tables: the pass and the settings that are not at their default."""
        told = ", ".join(f"{k}={','.join(v) if k == 'stages' else _short(v)}" for k, v in self.changed.items())
        return f"{self.name} ({told})" if told else self.name


@dataclass(frozen=True)
class Recipe:
    """`summary` is one line for people."""

    name: str
    summary: str
    objective: str
    passes: tuple[Entry, ...]


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ",".join(value) if len(value) <= 2 else f"{len(value)} patterns"


def names() -> list[str]:
    """The recipes that come with Vivace."""
    folder = files("vivace.workflows") / "recipes"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """A recipe by name, or from a path that ends in .toml. Raises UsageError naming what is wrong in it."""
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the recipe {name} cannot be read ({error})") from None
    elif name in names():
        text = (files("vivace.workflows") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise UsageError(f"unknown recipe {name!r}; known: {', '.join(names())}, or give a path that ends in .toml")
    return read(text, name)


def read(text: str, where: str) -> Recipe:
    """A recipe from TOML text; `where` names it in error messages."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"recipe {where} is not TOML: {error}") from None
    _only(data, {"name", "summary", "objective", "pass"}, f"recipe {where}")
    entries = data.get("pass", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise UsageError(f"recipe {where} has no passes; write them as [[pass]] with a name")
    objective = _objective(data.get("objective", "speed"), where)
    passes = []
    for number, entry in enumerate(entries, 1):
        _only(entry, {"name", "objective", "settings"}, f"recipe {where}, pass {number}")
        name, settings = entry.get("name", ""), entry.get("settings", {})
        if not name:
            raise UsageError(f'recipe {where}, pass {number} has no name; write name = "..." (vivace list passes)')
        if not isinstance(settings, dict):
            raise UsageError(f"recipe {where}, pass {number}: settings must be a table")
        module = registry.load("passes", str(name))
        parsed = parse(module.Settings, settings, f"recipe {where}, {name}")
        passes.append(Entry(str(name), _objective(entry.get("objective", objective), where), parsed))
    return Recipe(str(data.get("name", Path(where).stem)), str(data.get("summary", "")), objective, tuple(passes))


def to_toml(recipe: Recipe) -> str:
    """The recipe as a file that `load` reads, settings at their default left out."""
    lines = [f"{key} = {_toml(getattr(recipe, key))}" for key in ("name", "summary", "objective")]
    for entry in recipe.passes:
        lines += ["", "[[pass]]", f"name = {_toml(entry.name)}", f"objective = {_toml(entry.objective)}"]
        lines += ["[pass.settings]"] * bool(entry.changed)
        lines += [f"{key} = {_toml(value)}" for key, value in entry.changed.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON is TOML, but for characters beyond 16 bits, which TOML does not write as two, and for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def single(name: str, settings: dict[str, Any], objective: str = "") -> Recipe:
    """A recipe of one pass, as the command line writes it; without an objective, the pass's own. Raises UsageError for
    unknown names or settings."""
    module = registry.load("passes", name)
    objective = objective or getattr(module, "OBJECTIVE", "speed")
    entry = Entry(name, _objective(objective, name), parse(module.Settings, settings, name))
    return Recipe(name, module.SUMMARY, entry.objective, (entry,))


def _objective(value: Any, where: str) -> str:
    if value not in OBJECTIVES:
        raise UsageError(f"recipe {where}: objective is {value!r}; choose from {', '.join(OBJECTIVES)}")
    return str(value)


def _only(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        near = get_close_matches(unknown[0], sorted(known), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; {hint}")
