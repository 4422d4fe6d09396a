"""vivace serve: bundles over HTTP, as OpenAI's speech interface."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vivace.cli._common import find_bundle
from vivace.core.errors import EXIT_OK, MissingDependency, UsageError
from vivace.core.machine import cores

if TYPE_CHECKING:
    from vivace.server.replicas import Scale

HELP = """Serves bundles over HTTP as OpenAI's speech interface does: any of its clients works unchanged.

  vivace serve joe=voice                         one model, on http://127.0.0.1:8000
  vivace serve joe=fast,balanced,voice           one model with a chain: what fails is left for the next
  vivace serve joe=fast,voice ann=ann --queue 32 two models; with more than 32 requests, new ones are sent away
  vivace serve joe=fast --replicas 1-8           as many processes as the queue asks for, on a Ray cluster

  curl localhost:8000/v1/audio/speech -d '{"model": "joe", "input": "Hello.", "response_format": "wav"}' \\
    -H 'Content-Type: application/json' -o hello.wav

A model without NAME= is called as its voice is. The port answers when every model has spoken once; with --json a
line on standard output says so: {"url": ..., "models": {NAME: [BUNDLE, ...]}}.
Keys: put them into a file, one a line, and name it with --keys; clients send Authorization: Bearer KEY.
/ (the page: type and hear), /health/ready, /metrics (Prometheus), /docs (the interface).
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="[NAME=]BUNDLE[,BUNDLE...]", help="bundles, best first")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all networks (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--queue", type=int, default=64, help="requests that wait or speak at most (default 64)")
    parser.add_argument("--cores", type=int, default=0, help="that speak, 0: all (default); of each replica")
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="SECONDS",
        help="without audio, after which the next bundle is asked (default: as long as it takes)",
    )  # fmt: skip
    parser.add_argument(
        "--deadline", type=float, default=0.0, metavar="SECONDS",
        help="without audio, after which a request is ended that waits for it (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=float, default=20.0, metavar="SECONDS",
        help="for what has begun, when the server is told to end (default 20)",
    )  # fmt: skip
    parser.add_argument(
        "--shed-above", type=int, default=0, metavar="N",
        help="with N requests of a model, its fastest bundle that passed the gate speaks first (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", metavar="SIZE",
        help="for the server and all its processes, such as 800M or 2G; models that do not fit together take turns",
    )  # fmt: skip
    parser.add_argument(
        "--replicas", metavar="N[-M]", help="of each bundle, on Ray Serve; with M, as many as the queue asks for"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", default="", help="of the cluster's head, or auto (default: a Ray of its own, here)"
    )
    parser.add_argument("--keys", type=Path, help="file with the keys that clients must bring, one a line")
    parser.add_argument("--per-minute", type=float, default=0.0, help="requests of one client (default: any number)")
    parser.add_argument("--origin", action="append", default=[], help="of web pages that may call (default: none)")
    parser.add_argument("--wyoming", type=int, metavar="PORT", help="speak Wyoming too (Home Assistant; often 10200)")
    parser.add_argument(
        "--listen", type=Path, action="append", default=[], metavar="TEST", help="a listening test, see vivace listen"
    )
    parser.add_argument("--log-text", action="store_true", help="write what is spoken into the log")


def run(args: argparse.Namespace) -> int:
    try:
        from vivace.server.process import serve
        from vivace.server.service import Settings
    except ImportError as error:
        raise MissingDependency(error.name or "fastapi", "serve") from None

    if args.queue < 1:
        raise UsageError(f"--queue is {args.queue}; it must be at least 1")
    for name in ("cores", "patience", "deadline", "grace", "shed_above", "per_minute"):
        if getattr(args, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(args, name):g}; it must not lie below 0")
    if args.cores > cores() and not args.replicas:
        raise UsageError(f"--cores is {args.cores}; this machine has {cores()}")
    if args.wyoming and args.wyoming == args.port:
        raise UsageError(f"--wyoming and --port are both {args.port}; choose another for one of them")
    settings = Settings(
        models=dict(_chain(text) for text in args.models), queue=args.queue, cores=args.cores, patience=args.patience,
        deadline=args.deadline, grace=args.grace, megabytes=_megabytes(args.memory), keys=_keys(args.keys),
        per_minute=args.per_minute, origins=tuple(args.origin), log_text=args.log_text, listen=tuple(args.listen),
        shed_above=args.shed_above,
    )  # fmt: skip
    if len(settings.models) < len(args.models):
        raise UsageError("two models have the same name; name them: NAME=BUNDLE")
    logging.basicConfig(
        level=logging.WARNING if args.quiet else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )

    def ready(url: str) -> None:
        models = {name: [path.name for path in paths] for name, paths in settings.models.items()}
        print(json.dumps({"url": url, "models": models}), flush=True)

    told = ready if args.json else None
    serve(settings, args.host, args.port, args.wyoming, _scale(args), args.ray, told)
    return EXIT_OK


def _scale(args: argparse.Namespace) -> Scale | None:
    from vivace.server.cluster import span
    from vivace.server.replicas import Scale

    if args.replicas is None:
        if args.ray:
            raise UsageError("--ray is for replicas; say how many: --replicas N or N-M")
        return None
    if args.memory:
        raise UsageError("--memory is for one machine; replicas have what their cluster gives them: leave one out")
    least, most = span(args.replicas)
    return Scale(least, most, args.cores or (1 if args.ray else max(1, cores() // most)))


def _chain(text: str) -> tuple[str, list[Path]]:
    name, equals, bundles = text.rpartition("=")
    found = [find_bundle(part) for part in bundles.split(",") if part]
    if not found or (equals and not name):
        raise UsageError(f"{text!r} lacks a name or a bundle; give [NAME=]BUNDLE[,BUNDLE...]")
    return name or found[0].name, [bundle.path for bundle in found]


def _megabytes(size: str | None) -> float:
    if size is None:
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])B?", size.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"--memory is {size!r}; write a size such as 800M or 2G")
    return float(found[1]) * (1000 if found[2] in "Gg" else 1)


def _keys(file: Path | None) -> tuple[str, ...]:
    """Raises UsageError where keys are asked for and there are none: a server that is open by mistake is the worst."""
    if file is None:
        key = os.environ.get("VIVACE_API_KEY")
        if key is not None and not key.strip():
            raise UsageError("VIVACE_API_KEY is empty; give it a key, or unset it to serve without keys")
        return (key.strip(),) if key else ()
    try:
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in file.read_text(encoding="utf-8").splitlines()]
        found = tuple(line for line in lines if line)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if not found:
        raise UsageError(f"{file} holds no key; write one a line")
    return found
