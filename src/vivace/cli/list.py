"""vivace list: what is registered."""

from __future__ import annotations

import argparse
from typing import Any

from vivace.cli._common import print_json, table
from vivace.core import registry
from vivace.core.errors import EXIT_OK
from vivace.core.settings import describe

HELP = """Lists what Vivace knows. With a kind, in full: the settings of every pass, what every metric needs.

  vivace list            everything, a line each
  vivace list passes     with all settings and their defaults
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=[*registry.KINDS, "recipes"], help="only this kind, in full")


def run(args: argparse.Namespace) -> int:
    kinds = [args.kind] if args.kind else [*registry.KINDS, "recipes"]
    found = {kind: _entries(kind) for kind in kinds}
    if args.json:
        print_json(found)
        return EXIT_OK
    for kind, entries in found.items():
        rows = [[e["name"], e["summary"]] for e in entries]
        if args.kind == "passes":
            for e in entries:
                settings = [[s["name"], s["type"], str(s["default"]), _meaning(s)] for s in e["settings"]]
                table(f"{e['name']}: {e['summary']}", ["setting", "type", "default", "meaning"], settings)
        elif args.kind == "recipes":
            rows = [[e["name"], e["summary"], "\n".join(e["passes"])] for e in entries]
            table("Recipes", ["recipe", "what it is", "passes"], rows)
        elif args.kind == "metrics":
            rows = [[e["name"], e["unit"], e["better"], ", ".join(e["needs"]), e["summary"]] for e in entries]
            table("Metrics", ["metric", "unit", "better", "needs", "what it is"], rows)
        else:
            table(kind.capitalize(), ["name", "what it is"], rows)
    return EXIT_OK


def _meaning(setting: dict[str, Any]) -> str:
    return f"{setting['help']} ({', '.join(setting['choices'])})" if setting["choices"] else str(setting["help"])


def _entries(kind: str) -> list[dict[str, Any]]:
    if kind == "recipes":
        from vivace.workflows import recipe

        loaded = [recipe.load(n) for n in recipe.names()]
        return [{"name": r.name, "summary": r.summary, "passes": [e.label for e in r.passes]} for r in loaded]
    found = []
    for name in registry.names(kind):
        module = registry.load(kind, name)
        entry: dict[str, Any] = {"name": name, "summary": module.SUMMARY}
        if kind == "passes":
            entry["settings"] = [vars(o) for o in describe(module.Settings)]
        if kind == "metrics":
            entry |= {"unit": module.UNIT, "better": module.BETTER, "needs": sorted(module.NEEDS)}
        found.append(entry)
    return found
