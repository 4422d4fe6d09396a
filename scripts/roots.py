"""The packages that Vivace with some extras needs itself, one a line, without versions: those come from the lock.

    python scripts/roots.py serve piper > roots.txt
    pip install --require-hashes -r roots.txt -c requirements.lock

Standard library alone. Extras that name Vivace's other extras are followed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w.,-]+)\])?[^;]*(?P<marker>;.*)?")


def roots(project: Path, extras: list[str]) -> list[str]:
    """Sorted. Raises SystemExit for an extra that there is not."""
    about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    known = about["optional-dependencies"]
    found, left, seen = set[str](), list(extras), set[str]()
    needed = list(about["dependencies"])
    while left:
        extra = left.pop()
        if extra not in known:
            raise SystemExit(f"there is no extra {extra}; known: {', '.join(sorted(known))}")
        if extra not in seen:
            seen.add(extra)
            needed += known[extra]
            left += [inner for text in known[extra] for inner in _own(text)]
    for text in needed:
        part = REQUIREMENT.fullmatch(text.strip())
        if part is None:
            raise SystemExit(f"{text!r} cannot be read")
        if part["name"] != about["name"]:
            inner = f"[{part['extras']}]" if part["extras"] else ""
            found.add(f"{part['name']}{inner}{' ' + part['marker'] if part['marker'] else ''}")
    return sorted(found)


def _own(text: str) -> list[str]:
    part = REQUIREMENT.fullmatch(text.strip())
    return part["extras"].split(",") if part and part["name"] == "vivace" and part["extras"] else []


if __name__ == "__main__":
    print("\n".join(roots(Path(__file__).parents[1] / "pyproject.toml", sys.argv[1:])))
