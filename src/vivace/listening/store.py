"""One listening test in one SQLite file: its clips, its listeners with their trials, and every answer.

Every answer is written before it is confirmed, so that a listener who leaves, or a server that dies, loses nothing. The
file holds the secret that signs the links: it is readable by its owner only, and results travel as CSV.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivace.core.errors import UsageError, VivaceError
from vivace.listening.design import ANSWERS, Clip, Design, Trial, plan
from vivace.listening.links import LinkRefused, Pass, sign, verify

SCHEMA = 2
LISTENER, OWNER = "listener", "results"
MOST_COMMENTS = 200  # of one listener
NAMELESS = "listener"  # and a number
_TABLES = """
create table about (key text primary key, value text not null) strict;
create table systems (id integer primary key, name text not null unique, digest text not null) strict;
create table texts (id integer primary key, text text not null) strict;
create table clips (
  id integer primary key, system integer not null references systems, text integer not null references texts,
  damaged integer not null, seconds real not null, data blob not null
) strict;
create table listeners (id integer primary key, name text not null, created real not null) strict;
create table links (listener integer references listeners, made real not null, expires real not null) strict;
create table trials (
  listener integer not null references listeners, position integer not null, first integer not null references clips,
  second integer references clips, expected text not null, heard real, primary key (listener, position)
) strict;
create table answers (
  listener integer not null, position integer not null, answer integer not null, at real not null,
  times integer not null, primary key (listener, position),
  foreign key (listener, position) references trials (listener, position)
) strict;
create table comments (listener integer not null references listeners, at real not null, comment text not null) strict;
"""


class Closed(VivaceError):
    """What a listener asked for is not theirs to ask."""


@dataclass(frozen=True)
class Recording:
    """One clip to be put into a test. `data`: FLAC."""

    system: int
    text: int
    damaged: bool
    seconds: float
    data: bytes


@dataclass(frozen=True)
class System:
    """What is compared: a name for the results, and the digest of the bundle that spoke ("" if it was none)."""

    name: str
    digest: str = ""


@dataclass(frozen=True)
class Link:
    """A link that was made: for whom (None: to the results), in seconds since 1970; `answered` of `trials` by its
    listener."""

    name: str | None
    made: float
    expires: float
    answered: int
    trials: int


@dataclass(frozen=True)
class Answer:
    """One trial with what was said of it (None: nothing yet). `seconds`: from the moment the server gave the first
    of its clips out until the answer; `length`: of its clips together."""

    listener: int
    position: int
    first: Clip
    second: Clip | None
    expected: str
    answer: int | None
    at: float | None
    times: int
    seconds: float | None
    length: float


def create(
    path: Path,
    design: Design,
    systems: Sequence[System],
    texts: Sequence[str],
    recordings: Sequence[Recording],
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.time,
) -> Store:
    """A new test. Raises UsageError if the file exists, VivaceError if it cannot be written."""
    path = Path(path)
    if path.exists():
        raise UsageError(f"{path} exists; choose another name: a test that people have answered is never replaced")
    about = {
        "schema": SCHEMA, "id": secrets.token_hex(4), "secret": secrets.token_hex(32), "seed": seed,
        "created": clock(), **asdict(design),
    }  # fmt: skip
    try:
        path.touch(mode=0o600, exist_ok=False)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.executescript(_TABLES)
            db.executemany("insert into about values (?, ?)", [(k, json.dumps(v)) for k, v in about.items()])
            db.executemany(
                "insert into systems values (?, ?, ?)", [(k, s.name, s.digest) for k, s in enumerate(systems)]
            )
            db.executemany("insert into texts values (?, ?)", list(enumerate(texts)))
            db.executemany(
                "insert into clips (system, text, damaged, seconds, data) values (?, ?, ?, ?, ?)",
                [(r.system, r.text, int(r.damaged), r.seconds, r.data) for r in recordings],
            )
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error | OSError):
            raise VivaceError(f"{path} cannot be written: {error}") from None
        raise
    return Store(path, clock=clock)


class Store:
    """Opens the file for each call: any number of threads and processes may use it at once. `seed`: with which its
    bundles spoke.

    Raises UsageError for a file that is no listening test, VivaceError where it cannot be read or written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = Path(path), clock
        if not self.path.is_file():
            raise UsageError(f"{path} does not exist; make a test with: vivace listen create")
        try:
            with self._open() as db:
                found = {key: json.loads(value) for key, value in db.execute("select key, value from about")}
                if found["schema"] != SCHEMA:
                    raise UsageError(
                        f"{path} was made by another version of Vivace (schema {found['schema']}, this one reads "
                        f"{SCHEMA}); use that version"
                    )
                self.systems = [System(*row) for row in db.execute("select name, digest from systems order by id")]
                self.texts = [text for (text,) in db.execute("select text from texts order by id")]
                rows = db.execute("select id, system, text, damaged from clips order by id")
                self._clips = {row[0]: Clip(row[0], row[1], row[2], bool(row[3])) for row in rows}
            self.design = Design(*(found[key] for key in ("kind", "title", "margin", "per_listener", "checks")))
            self.id, self.seed = str(found["id"]), int(found["seed"])
            self._secret = bytes.fromhex(found["secret"])
        except (VivaceError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{path} is no listening test of Vivace; make one with: vivace listen create") from None

    def invite(self, name: str = "") -> int:
        """A new listener with trials of their own; the number that their link names. Raises UsageError for a name that
        somebody has."""
        return self.invite_all([name])[0]

    def invite_all(self, names: Sequence[str]) -> list[int]:
        """All of them, or nobody; "" is a listener without a name."""
        with self._open() as db:
            db.execute("begin immediate")  # two at once would get the same number
            known = {name.casefold() for (name,) in db.execute("select name from listeners")}
            new: set[str] = set()
            for name in filter(None, map(str.strip, names)):
                key = name.casefold()
                if key in known:
                    raise UsageError(f"{name!r} is invited already; for a new link that goes on there, add --again")
                if key in new:
                    raise UsageError(f"{name!r} is there twice; give each listener another name")
                if re.fullmatch(rf"{NAMELESS} \d+", key):
                    raise UsageError(f"{name!r} is what those without a name are called; give another name")
                new.add(key)
            return [self._invite(db, name.strip()) for name in names]

    def _invite(self, db: sqlite3.Connection, name: str) -> int:
        number = int(db.execute("select count(*) from listeners").fetchone()[0]) + 1
        called = name or f"{NAMELESS} {number}"
        db.execute("insert into listeners values (?, ?, ?)", (number, called, self._clock()))
        trials = plan(self.design, list(self._clips.values()), number - 1, self.seed)
        db.executemany(
            "insert into trials (listener, position, first, second, expected) values (?, ?, ?, ?, ?)",
            [(number, k, t.first, t.second, t.expected) for k, t in enumerate(trials)],
        )
        return number

    def called(self, name: str) -> int:
        """The listener of this name. Raises UsageError."""
        for number, known in self.listeners().items():
            if known.casefold() == name.strip().casefold():
                return number
        raise UsageError(f"nobody called {name.strip()!r} is invited; see vivace listen links")

    def link(self, days: float, listener: int | None = None) -> str:
        """The token of a new link, which is written down: for a listener, or (None) to the results."""
        role, subject = (OWNER, "all") if listener is None else (LISTENER, str(listener))
        token, now = self.token(role, subject, days), self._clock()
        with self._open() as db:
            db.execute("insert into links values (?, ?, ?)", (listener, now, now + 86_400 * days))
        return token

    def links(self) -> list[Link]:
        """Every link that was made, the first one first."""
        with self._open() as db:
            rows = db.execute(
                "select l.name, k.made, k.expires,"
                " (select count(*) from answers a where a.listener = k.listener),"
                " (select count(*) from trials t where t.listener = k.listener)"
                " from links k left join listeners l on l.id = k.listener order by k.rowid"
            )
            return [Link(*row) for row in rows]

    def token(self, role: str, subject: str, days: float) -> str:
        """What a link holds; `subject` of a listener is the number that `invite` gave."""
        if not 0 < days <= 3650:
            raise UsageError(f"a link for {days:g} days is not possible; give it a part of a day up to ten years")
        return sign(self._secret, role, f"{self.id}-{subject}", self._clock() + 86_400 * days)

    def admit(self, token: str, role: str) -> Pass:
        """Raises LinkRefused."""
        found = verify(self._secret, token, role, self._clock())
        if found.subject.partition("-")[0] != self.id:
            raise LinkRefused("this link is for another test; ask for one for this")
        return found

    def listener(self, token: str) -> int:
        """The listener whose token it is. Raises LinkRefused."""
        number = int(self.admit(token, LISTENER).subject.partition("-")[2])
        with self._open() as db:
            if not db.execute("select 1 from listeners where id = ?", (number,)).fetchone():
                raise LinkRefused("this link is for a listener who is not known here; ask for another")
        return number

    def clip(self, listener: int, position: int, side: int) -> bytes:
        """What is played first (0) or second (1) in a trial. Raises Closed if there is no such thing."""
        column = ("first", "second")[side]
        with self._open() as db:
            row = db.execute(
                f"select clips.data from trials join clips on clips.id = trials.{column}"  # noqa: S608 - two fixed words
                " where listener = ? and position = ?",
                (listener, position),
            ).fetchone()
            if row is None:
                raise Closed(f"this test has no trial {position + 1} for you")
            db.execute(
                "update trials set heard = ? where listener = ? and position = ? and heard is null",
                (self._clock(), listener, position),
            )
        return bytes(row[0])

    def answer(self, listener: int, position: int, answer: int) -> None:
        """Keeps an answer; a second one to the same trial replaces the first. Raises Closed for one that cannot be."""
        if answer not in ANSWERS[self.design.kind]:
            raise Closed(f"{answer} is no answer here; choose one of {', '.join(map(str, ANSWERS[self.design.kind]))}")
        with self._open() as db:
            where = (listener, position)
            if not db.execute("select 1 from trials where listener = ? and position = ?", where).fetchone():
                raise Closed(f"this test has no trial {position + 1} for you")
            db.execute(
                "insert into answers values (?, ?, ?, ?, 1) on conflict (listener, position)"
                " do update set answer = excluded.answer, at = excluded.at, times = times + 1",
                (*where, answer, self._clock()),
            )

    def comment(self, listener: int, comment: str) -> None:
        with self._open() as db:
            (count,) = db.execute("select count(*) from comments where listener = ?", (listener,)).fetchone()
            if count >= MOST_COMMENTS:
                raise Closed(f"you have left {count} comments; that is all there is room for")
            db.execute("insert into comments values (?, ?, ?)", (listener, self._clock(), comment))

    def comments(self) -> list[tuple[int, str]]:
        with self._open() as db:
            return list(db.execute("select listener, comment from comments order by at"))

    def listeners(self) -> dict[int, str]:
        with self._open() as db:
            return dict(db.execute("select id, name from listeners order by id").fetchall())

    def answers(self, listener: int | None = None) -> list[Answer]:
        """Every trial, of one listener or of all, in the order of playing."""
        with self._open() as db:
            rows = db.execute(
                "select t.listener, t.position, t.first, t.second, t.expected, a.answer, a.at, ifnull(a.times, 0),"
                " a.at - t.heard, c.seconds + ifnull(d.seconds, 0) from trials t"
                " left join answers a on a.listener = t.listener and a.position = t.position"
                " join clips c on c.id = t.first left join clips d on d.id = t.second"
                " where ?1 is null or t.listener = ?1 order by t.listener, t.position",
                (listener,),
            ).fetchall()
        clips = self._clips
        return [
            Answer(who, position, clips[first], clips[second] if second else None, *rest)
            for who, position, first, second, *rest in rows
        ]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction: kept if all went well. Raises VivaceError."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=20)) as db, db:
                db.execute("pragma foreign_keys = on")
                yield db
        except sqlite3.DatabaseError as error:
            raise VivaceError(f"{self.path} cannot be used: {error}") from None


def trials_of(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What a listener's page may know of its trials: how many clips, and what was answered. Nothing of systems."""
    return [{"clips": 1 if a.second is None else 2, "answer": a.answer} for a in answers]


__all__ = ["Answer", "Closed", "Link", "Recording", "Store", "System", "Trial", "create", "trials_of"]
