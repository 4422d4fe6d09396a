"""Figures with their meaning (Measurement) and a set of them with the machine they were taken on (Report)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["up", "down", "none"]
SCHEMA = 1


@dataclass(frozen=True)
class Measurement:
    """One figure: `value` in `unit`, from `n` observations, with its 95% interval where one was computed.

    `scope` says what it was taken on, for instance "medium text, 1 thread" or "100 sentences".
    """

    name: str
    value: float
    unit: str = ""
    better: Better = "none"
    n: int = 1
    low: float | None = None
    high: float | None = None
    scope: str = ""


@dataclass(frozen=True)
class Report:
    """What a verb found. `bundles` maps a role ("parent", "child", ...) to a digest; `details` is plain JSON
    whose shape belongs to the verb named by `kind`."""

    kind: str
    measurements: tuple[Measurement, ...]
    bundles: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    def get(self, name: str, scope: str = "") -> Measurement:
        """The measurement of that name (and scope, if given). Raises KeyError."""
        for m in self.measurements:
            if m.name == name and scope in ("", m.scope):
                return m
        raise KeyError(name)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Report:
        """Raises ValueError for anything that `to_json` of this schema did not write."""
        data = json.loads(text)
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"it has schema {data['schema']}, this Vivace reads {SCHEMA}")
            data["measurements"] = tuple(Measurement(**m) for m in data["measurements"])
            return Report(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a field is missing or wrong: {error}") from None
