"""Typed, frozen settings: one source for defaults, command-line flags, recipe keys, help and history.

A settings class is a frozen dataclass whose fields are str, int, float, bool or tuple[str, ...], each with
`metadata={"help": ..., "choices": ...}`. An unknown key or an impossible value is a UsageError.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from vivace.core.errors import UsageError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Option:
    """One setting as people see it."""

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help; the only way settings are declared."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def describe(settings: type[Any]) -> list[Option]:
    """The options of a settings class, in the order they were declared."""
    types = typing.get_type_hints(settings)
    return [
        Option(f.name, _name(types[f.name]), f.default, f.metadata.get("help", ""), f.metadata.get("choices", ()))
        for f in dataclasses.fields(settings)
    ]


def parse(settings: type[T], values: Mapping[str, Any], owner: str, *, flags: bool = False) -> T:
    """Settings from plain values (TOML, JSON or `key=value` text); `owner` names the pass in error messages, which
    speak of settings, or with `flags` of command-line flags."""
    types = typing.get_type_hints(settings)
    known = {f.name: f for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    parsed = {}
    for key, value in values.items():
        if key not in known:
            near = get_close_matches(key, list(known), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise UsageError(f"{owner}: unknown setting {key!r}; {hint}")
        where = f"{owner}: {flag(key)}" if flags else f"{owner}: setting {key!r}"
        parsed[key] = _convert(value, types[key], where)
        choices = known[key].metadata.get("choices", ())
        wrong = [v for v in _as_tuple(parsed[key]) if choices and v not in choices]
        if wrong:
            raise UsageError(f"{where} is {wrong[0]!r}; choose from {', '.join(choices)}")
    return settings(**parsed)


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def _convert(value: Any, kind: Any, where: str) -> Any:
    try:
        if typing.get_origin(kind) is tuple:
            items = value.split(",") if isinstance(value, str) else value
            if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
                raise TypeError
            return tuple(item.strip() for item in items if item.strip())
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError
        converted = kind(value)
        lost = kind is int and isinstance(value, float) and converted != value  # 3.7 is not 3
        if lost or (kind is float and not math.isfinite(converted)):
            raise ValueError
        return converted
    except (ValueError, KeyError, TypeError, OverflowError):
        finite = " and finite" if kind is float else ""
        raise UsageError(f"{where} is {value!r}; it must be {_name(kind)}{finite}") from None


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _name(kind: Any) -> str:
    names = {str: "text", int: "int", float: "float", bool: "bool"}
    return "a list" if typing.get_origin(kind) is tuple else names[kind]
