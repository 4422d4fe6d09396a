"""vivace listen: listening tests with people."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivace.cli._common import add_output, find_bundle, model_source, print_json, progress, table
from vivace.core.bundle import MANIFEST, atomic_file
from vivace.core.errors import EXIT_OK, MissingDependency, UsageError
from vivace.core.machine import cache_folder

if TYPE_CHECKING:
    from vivace.listening.results import Results

HELP = """Blind listening tests with people. Order and sides are drawn for each listener; who did not listen is found;
every figure comes with its 95% interval. A test is one file; whoever has it can make links and read results.

  vivace listen power --margin 0.2                        how many listeners and texts that needs
  vivace listen create test.sqlite old=voice new=small    two bundles speak the same texts; rated 1 to 5
  vivace listen create test.sqlite a=clips/a b=clips/b --kind preference
  vivace listen link test.sqlite --listeners 12 --at https://example.org
  vivace listen links test.sqlite                         who was invited, until when, how far they are
  vivace listen serve test.sqlite                         or, beside voices: vivace serve voice --listen test.sqlite
  vivace listen results test.sqlite
  vivace listen export test.sqlite -o ratings.csv
  vivace evaluate small --listened test.sqlite            MOS by listeners beside predicted MOS
"""
MARGINS = {"acr": 0.2, "preference": 0.1}
TITLES = {"acr": "How good does this speech sound?", "preference": "Which one sounds better?"}


def arguments(parser: argparse.ArgumentParser) -> None:
    doors = parser.add_subparsers(dest="door", metavar="DOOR", required=True)

    def door(name: str, summary: str, *, file: bool = True) -> argparse.ArgumentParser:
        made = doors.add_parser(name, help=summary, description=summary)
        if file:
            made.add_argument("test", type=Path, help="file of the test")
        add_output(made, default=argparse.SUPPRESS)  # what stands before the door holds
        return made

    kind: dict[str, Any] = {
        "choices": tuple(MARGINS),
        "default": "acr",
        "help": "one clip, 1 to 5; or which of two (default acr)",
    }
    new = door("create", "make a test")
    new.add_argument("systems", nargs="+", metavar="NAME=SOURCE", help="bundles or models; or folders of clips")
    new.add_argument("--kind", **kind)
    new.add_argument("--title", help="what listeners see above the test (default: the question)")
    new.add_argument("--margin", type=float, help="that counts as equal: MOS (default 0.2), or a share (default 0.1)")
    new.add_argument("--texts", type=int, default=20, help="how many of the built-in sentences (default 20)")
    new.add_argument("--file", type=Path, help="your own sentences instead, one a line")
    new.add_argument("--per-listener", type=int, default=0, help="texts that one listener hears (default: all)")
    new.add_argument("--checks", type=int, default=6, help="damaged clips that show who listens (default 6)")
    new.add_argument("--seed", type=int, default=0, help="of voices and of the order (default 0)")

    link = door("link", "invite listeners: one signed link each")
    link.add_argument("--listeners", type=int, default=0, help="how many (default 1)")
    link.add_argument("--name", action="append", default=[], help="of one listener, for the results; repeat for more")
    link.add_argument("--again", action="store_true", help="new links for those names, who are invited already")
    link.add_argument("--days", type=float, default=14.0, help="until the links expire (default 14)")
    link.add_argument("--at", default="http://127.0.0.1:8000", help="address of the server, as listeners reach it")
    link.add_argument("--results", action="store_true", help="a link to the results instead, for those who ask")

    door("links", "the links that were made: for whom, when, until when, how much was answered")
    door("results", "what the listeners said, and who is counted")
    table_ = door("export", "every trial as CSV")
    table_.add_argument("-o", "--out", type=Path, help="file (default: standard output)")

    need = door("power", "how many listeners and texts a margin needs", file=False)
    need.add_argument("--margin", type=float, help="that counts as equal: MOS (default 0.2), or a share (default 0.1)")
    need.add_argument("--kind", **kind)
    need.add_argument("--power", type=float, default=0.8, help="chance to prove what is true (default 0.8)")
    need.add_argument("--pilot", type=Path, help="a test with some answers: its spread instead of usual ones")

    serve = door("serve", "let listeners in, without a voice to serve")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all networks (default 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="default 8000")


def run(args: argparse.Namespace) -> int:
    return int(_DOORS[args.door](args))


def _create(args: argparse.Namespace) -> int:
    from vivace.listening.design import Design
    from vivace.listening.power import outlook
    from vivace.workflows import texts
    from vivace.workflows.clips import Store as Cache
    from vivace.workflows.listening import from_bundles, from_folders

    margin = MARGINS[args.kind] if args.margin is None else args.margin
    design = Design(args.kind, args.title or TITLES[args.kind], margin, args.per_listener, args.checks)
    sources = [_source(word) for word in args.systems]
    names = [name for name, _ in sources]
    if len(set(names)) < len(names):
        raise UsageError("two systems have the same name; write NAME=SOURCE with different names")
    if args.test.exists():
        raise UsageError(f"{args.test} exists; choose another name: a test that people have answered is never replaced")
    folders = {name: Path(source) for name, source in sources if _holds_clips(source)}
    if folders and len(folders) < len(sources):
        raise UsageError("give bundles, or folders of clips, but not both")
    if folders:
        made = from_folders(args.test, design, folders, seed=args.seed)
    else:
        bundles = {name: find_bundle(source) for name, source in sources}
        said = texts.from_file(args.file) if args.file else texts.evaluation(args.texts)
        with progress(args) as tell:
            cache = Cache(cache_folder() / "evaluate")
            made = from_bundles(args.test, design, bundles, said, seed=args.seed, cache=cache, progress=tell)
    facts = {"test": str(args.test), "texts": len(made.texts), "systems": [s.name for s in made.systems]}
    proves = outlook(args.kind, margin, args.per_listener or len(made.texts))
    if args.json:
        print_json(facts | {"kind": args.kind, "margin": margin, "proves": proves})
    else:
        print(f"{args.test}: {len(made.texts)} texts, {' and '.join(names)}, margin {margin:g}")
        print(f"{proves}; see vivace listen power")
        print(f"invite people: vivace listen link {args.test} --listeners 12 --at ADDRESS")
    return EXIT_OK


def _source(word: str) -> tuple[str, str]:
    name, equals, source = word.partition("=")
    if not equals or not name or not source:
        raise UsageError(f"{word!r} is not NAME=SOURCE, such as old=voice")
    return name, source


def _holds_clips(source: str) -> bool:
    from vivace.workflows.listening import SOUNDS

    path = model_source(source)
    return path.is_dir() and not (path / MANIFEST).exists() and any(f.suffix.lower() in SOUNDS for f in path.iterdir())


def _link(args: argparse.Namespace) -> int:
    from vivace.listening.store import LISTENER, Store

    store, at = Store(args.test), args.at.rstrip("/")
    if not at.startswith(("http://", "https://")):
        raise UsageError(f"--at is {args.at!r}; write an address such as https://example.org")
    if args.again and not args.name:
        raise UsageError("--again is for listeners by --name; see vivace listen links")
    if args.results:
        if args.name or args.listeners:
            raise UsageError("--results is for those who ask, not for listeners; leave --name and --listeners out")
        links = [{"name": "results", "link": f"{at}/listen/results#{store.link(args.days)}"}]
    else:
        count = args.listeners or len(args.name) or 1
        if count < len(args.name) or not 1 <= count <= 1000:
            raise UsageError(f"--listeners is {count}; it must be 1 to 1000, and not below the number of names")
        store.token(LISTENER, "0", args.days)  # before anybody is written down
        names = args.name + [""] * (count - len(args.name))
        numbers = [store.called(name) for name in args.name] if args.again else store.invite_all(names)
        known = store.listeners()
        links = [{"name": known[n], "link": f"{at}/listen#{store.link(args.days, n)}"} for n in numbers]
    if args.json:
        print_json({"links": links})
    else:
        for one in links:
            print(f"{one['name']}\t{one['link']}")
        if any(local in at for local in ("//127.0.0.1", "//localhost")):
            print("these links open on this machine alone; give --at the server's address for others", file=sys.stderr)
    return EXIT_OK


def _links(args: argparse.Namespace) -> int:
    from vivace.listening.store import Store

    found, now = Store(args.test).links(), time.time()
    if args.json:
        times = [{"made": _when(k.made), "expires": _when(k.expires), "expired": k.expires <= now} for k in found]
        print_json({"links": [asdict(link) | one for link, one in zip(found, times, strict=True)]})
    elif not found:
        print(f"no links yet; invite people: vivace listen link {args.test} --listeners 12 --at ADDRESS")
    else:
        rows = [
            [
                "(results)" if k.name is None else k.name,
                _when(k.made),
                f"{_when(k.expires)}{' (expired)' if k.expires <= now else ''}",
                "" if k.name is None else f"{k.answered}/{k.trials}",
            ]
            for k in found
        ]
        table(f"Links of {args.test}", ["who", "made", "expires", "answered"], rows)
    return EXIT_OK


def _when(at: float) -> str:
    """This machine's time, with its zone."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "minutes")


def _results(args: argparse.Namespace) -> int:
    from vivace.listening.results import results
    from vivace.listening.store import Store

    found = results(Store(args.test))
    if args.json:
        print_json(found.plain())
    else:
        _show(found)
    return EXIT_OK


def _show(found: Results) -> None:
    print(
        f"{found.title}: {found.ratings} ratings, listeners that count: {found.counted}, "
        f"screened out: {found.screened_out}, not begun: {found.not_begun}"
    )
    if found.systems:
        rows = [[s.name, *_figures(s.mos)] for s in found.systems]
        table("MOS by listeners (1 to 5)", ["system", "mean", "95% interval", "ratings", "listeners", "clips"], rows)
    acr = found.kind == "acr"
    what = "difference of MOS" if acr else "share that prefers it (a tie counts half)"
    rows = []
    for c in found.comparisons:
        told = "proven" if c.holds else "not proven"
        rows.append([f"{c.system} against {c.reference}", *_figures(c.difference), f"{c.ties:.0%}", told])
    columns = ["comparison", "mean", "95% interval", "pairs", "listeners", "texts", "ties"]
    table(what, [*columns, f"not worse by {found.margin:g}"], rows)
    people = [
        [name, f"{v.answered}/{v.trials}", f"{v.checks_passed}/{v.checks}", str(v.hasty),
         "" if v.agreement is None else f"{v.agreement:.2f}", "yes" if v.counted else f"no: {v.reason}"]
        for name, v in zip(found.names, found.verdicts, strict=True)
    ]  # fmt: skip
    table("Listeners", ["who", "answered", "checks heard", "too fast", "agreement", "counted"], people)
    for who, comment in found.comments:
        print(f"{found.names[who - 1]}: {' '.join(comment.split())!r}")


def _figures(e: Any) -> list[str]:
    if e is None:
        return ["", "", "0", "0", "0"]
    known = abs(e.low) != float("inf")
    return [
        f"{e.mean:.2f}",
        f"[{e.low:.2f}, {e.high:.2f}]" if known else "unknown",
        *map(str, (e.n, e.listeners, e.texts)),
    ]


def _export(args: argparse.Namespace) -> int:
    from vivace.listening.results import export
    from vivace.listening.store import Store

    store = Store(args.test)
    text = export(store)
    if args.out:
        atomic_file(args.out, text.encode())
        facts = {"file": str(args.out), "trials": len(store.answers())}
        print_json(facts) if args.json else print(f"{args.out}: {facts['trials']} trials")
    elif args.json:
        print_json({"csv": text})
    else:
        print(text, end="")
    return EXIT_OK


def _power(args: argparse.Namespace) -> int:
    from vivace.listening import power

    margin = MARGINS[args.kind] if args.margin is None else args.margin
    spread = _pilot(args.pilot, args.kind) if args.pilot else power.USUAL[args.kind]
    found = power.needs(margin, spread, args.power)
    if args.json:
        print_json({"margin": margin, "power": args.power, "spread": asdict(spread), "needs": list(map(asdict, found))})
        return EXIT_OK
    where = f"measured in {args.pilot}" if args.pilot else "usual; a pilot replaces it: --pilot test.sqlite"
    print(
        f"spread of a difference: {spread.listener:.2f} between listeners, {spread.text:.2f} between texts, "
        f"{spread.rest:.2f} from rating to rating ({where})"
    )
    if not found:
        print(f"a margin of {margin:g} is out of reach with {power.LISTENERS[-1]} listeners; choose a wider one")
        return EXIT_OK
    rows = [[str(n.listeners), str(n.texts), f"{2 * n.pairs if args.kind == 'acr' else n.pairs:,}"] for n in found]
    title = f"to prove 'not worse by {margin:g}' of what is equal, with {args.power:.0%} power: any of these"
    table(title, ["listeners who pass", "texts that each hears", "ratings in all"], rows)
    return EXIT_OK


def _pilot(file: Path, kind: str) -> Any:
    from vivace.listening import power
    from vivace.listening.results import paired, preferred
    from vivace.listening.screening import counted, screen
    from vivace.listening.store import Store

    store = Store(file)
    if store.design.kind != kind:
        raise UsageError(f"{file} is a test of kind {store.design.kind}; pass --kind {store.design.kind}")
    answers = store.answers()
    who = counted(screen(answers))
    good = [a for a in answers if a.answer is not None and not a.expected and a.listener in who]
    return power.measured(paired(good, 1) if kind == "acr" else preferred(good))


def _serve(args: argparse.Namespace) -> int:
    try:
        from vivace.server.process import serve_listening
    except ImportError as error:
        raise MissingDependency(error.name or "fastapi", "serve") from None
    logging.basicConfig(
        level=logging.WARNING if args.quiet else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    serve_listening([args.test], args.host, args.port)
    return EXIT_OK


_DOORS = {
    "create": _create, "link": _link, "links": _links, "results": _results, "export": _export, "power": _power,
    "serve": _serve,
}  # fmt: skip
