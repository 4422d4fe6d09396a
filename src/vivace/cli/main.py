"""The command line: finds the verb, imports its file, and turns errors into one line and an exit code.

A verb's file has HELP (what `vivace VERB --help` teaches), `arguments(parser)` and `run(args) -> exit code`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from vivace import __version__
from vivace.cli._common import add_output
from vivace.core.errors import EXIT_FAILURE, EXIT_INTERRUPTED, VivaceError

VERBS = {
    "demo": "the whole road on a real voice, with a report to listen to",
    "import": "turn a model into a bundle",
    "info": "show what a bundle holds and how it was made",
    "say": "speak a text to a file, to standard output or to the speaker",
    "profile": "where the time goes, and how far it is from the hardware's limit",
    "optimize": "make a bundle smaller and faster, keeping only what is proven",
    "evaluate": "measure the quality of a voice",
    "benchmark": "time several models side by side",
    "distill": "teach a smaller model by one that speaks: a student, a lighter decoder, a causal copy",
    "serve": "speak over HTTP, as OpenAI's speech interface does",
    "listen": "blind listening tests with people: make, invite, read",
    "report": "show or rebuild the evidence of an optimized bundle",
    "export": "write the model as other tools load it",
    "list": "families, passes, metrics, runtimes and recipes",
}
INTERRUPTED = {"optimize": "interrupted; run it again and it goes on where it was", "serve": "interrupted"}
EPILOG = """exit codes: 0 done, 1 failed, 2 wrong usage, 3 done, but nothing was kept or the budget not met,
  130 interrupted

start here:
  vivace demo                                    the whole road, on a real voice
  vivace import voice.onnx -o voice              a Piper voice becomes a bundle
  vivace optimize voice -o small --recipe small  smaller and faster, or refused with the reason
"""


def parser(verb: str = "") -> argparse.ArgumentParser:
    """The parser of the whole command line, with the arguments of `verb` filled in."""
    top = argparse.ArgumentParser(
        "vivace",
        description="Makes text-to-speech models small and fast, and proves that the voice was not harmed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vivace {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        if name != verb:
            verbs.add_parser(name, help=summary, add_help=False)
            continue
        module = import_module(f"vivace.cli.{name}_" if name == "import" else f"vivace.cli.{name}")
        sub = verbs.add_parser(
            name, help=summary, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.arguments(sub)
        add_output(sub)
        sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in words if not word.startswith("-")), "")
    args = parser(verb).parse_args(words)
    if argv is None:  # a process of its own: told to end, it leaves as on Ctrl-C
        signal.signal(signal.SIGTERM, _interrupted)
    try:
        return int(args.run(args))
    except VivaceError as error:
        return _complain(str(error), error.exit_code, args.json)
    except KeyboardInterrupt:
        told = INTERRUPTED.get(verb, "interrupted; nothing was left half-written")
        return _complain(told, EXIT_INTERRUPTED, args.json)
    except BrokenPipeError:  # the reader of our standard output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _complain(message: str, code: int, as_json: bool) -> int:
    line = " ".join(message.split())
    if as_json:
        print(json.dumps({"error": line, "exit_code": code}))
    print(f"vivace: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
