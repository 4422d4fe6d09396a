from __future__ import annotations

import re
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from listening.panel import clicker, listen, make
from vivace.core.errors import UsageError
from vivace.listening.design import Design
from vivace.listening.links import LinkRefused
from vivace.listening.results import export, results
from vivace.listening.store import LISTENER, OWNER, Closed, Store

ACR = Design("acr", "which", 0.2)


def test_a_file_for_its_owner(tmp_path: Path) -> None:
    store, _ = make(tmp_path, ACR)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    again = Store(store.path)
    assert (again.design, again.systems, again.texts, again.id) == (store.design, store.systems, store.texts, store.id)
    with pytest.raises(UsageError, match="exists"):
        make(tmp_path, ACR)


@pytest.mark.parametrize("content", [b"", b"no database at all " * 99])
def test_other_files_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(UsageError, match="no listening test"):
        Store(tmp_path / "other")
    with pytest.raises(UsageError, match="does not exist"):
        Store(tmp_path / "nowhere")


@pytest.mark.parametrize("schema", [1, 9])
def test_a_file_of_another_version_is_told(tmp_path: Path, schema: int) -> None:
    store, _ = make(tmp_path, ACR)
    with sqlite3.connect(store.path) as db:
        db.execute("update about set value = ? where key = 'schema'", (str(schema),))
    with pytest.raises(UsageError, match=f"another version of Vivace .schema {schema}"):
        Store(store.path)


def test_links(tmp_path: Path) -> None:
    store, clock = make(tmp_path, ACR)
    who = store.invite("Ann")
    token = store.token(LISTENER, str(who), 1)
    assert store.listener(token) == who
    with pytest.raises(LinkRefused, match="something else"):
        store.admit(token, OWNER)
    with pytest.raises(LinkRefused, match="not known"):
        store.listener(store.token(LISTENER, "7", 1))
    clock.now += 86_401
    with pytest.raises(LinkRefused, match="expired"):
        store.listener(token)
    (tmp_path / "b").mkdir()
    other, _ = make(tmp_path / "b", ACR)
    other._secret = store._secret
    with pytest.raises(LinkRefused, match="another test"):
        store.listener(other.token(LISTENER, "1", 9))
    with pytest.raises(UsageError):
        store.token(LISTENER, "1", 0)


def test_what_is_given_out(tmp_path: Path) -> None:
    store, _ = make(tmp_path, Design("preference", "which", 0.1))
    who = store.invite()
    trial = store.answers(who)[0]
    assert trial.second and {store.clip(who, 0, 0), store.clip(who, 0, 1)} == {
        _data(trial.first), _data(trial.second)
    }  # fmt: skip
    for position in (-1, 999):
        with pytest.raises(Closed):
            store.clip(who, position, 0)
    with pytest.raises(Closed):
        store.clip(who + 1, 0, 0)


def _data(clip: object) -> bytes:
    text, system = clip.text, clip.system  # type: ignore[attr-defined]
    return b"bad-%d" % text if clip.damaged else b"%d-%d" % (system, text)  # type: ignore[attr-defined]


def test_the_last_answer_to_a_trial_counts_once(tmp_path: Path) -> None:
    store, clock = make(tmp_path, ACR)
    who = store.invite()
    for answer in (2, 5, 4):
        store.clip(who, 0, 0)
        clock.now += 3
        store.answer(who, 0, answer)
    (first, *rest) = store.answers(who)
    assert (first.answer, first.times, first.seconds) == (4, 3, 9)
    assert all(trial.answer is None for trial in rest)


@pytest.mark.parametrize(("position", "answer"), [(0, 0), (0, 6), (-1, 3), (10**6, 3)])
def test_answers_that_cannot_be(tmp_path: Path, position: int, answer: int) -> None:
    store, _ = make(tmp_path, ACR)
    who = store.invite()
    with pytest.raises(Closed):
        store.answer(who, position, answer)
    assert all(trial.answer is None for trial in store.answers())


def test_one_name_is_one_listener(tmp_path: Path) -> None:
    store, _ = make(tmp_path, ACR)
    assert store.invite(" Ann ") == 1 and store.listeners() == {1: "Ann"}
    for taken in ("Ann", "ann ", "ANN"):
        with pytest.raises(UsageError, match=f"{taken.strip()!r} is invited already.*--again"):
            store.invite_all(["Bob", taken])
    with pytest.raises(UsageError, match="'bob' is there twice"):
        store.invite_all(["Bob", "bob"])
    with pytest.raises(UsageError, match="'Listener 3' is what those without a name are called"):
        store.invite("Listener 3")
    assert store.listeners() == {1: "Ann"}, "all or nobody"
    assert store.invite_all(["", "Bob", ""]) == [2, 3, 4]
    assert store.listeners() == {1: "Ann", 2: "listener 2", 3: "Bob", 4: "listener 4"}


def test_links_are_written_down(tmp_path: Path) -> None:
    store, clock = make(tmp_path, ACR, texts=3)
    begun = clock.now
    ann, bob = store.invite_all(["Ann", "Bob"])
    first = store.link(14, ann)
    store.link(1)
    clock.now += 3600
    again = store.link(2, ann)
    store.link(2, bob)
    assert store.listener(first) == store.listener(again) == ann, "a new link is the same listener"
    store.answer(ann, 0, 3)
    found = [(link.name, link.made - begun, link.expires - begun, link.answered, link.trials) for link in store.links()]
    day = 86_400
    assert found == [
        ("Ann", 0, 14 * day, 1, 9), (None, 0, day, 0, 0), ("Ann", 3600, 3600 + 2 * day, 1, 9),
        ("Bob", 3600, 3600 + 2 * day, 0, 9),
    ]  # fmt: skip
    with pytest.raises(UsageError):
        store.link(0, ann)
    assert len(store.links()) == 4
    assert store.admit(store.link(1), OWNER)
    assert [store.called(name) for name in ("ann", " Bob")] == [ann, bob]
    with pytest.raises(UsageError, match="nobody called 'Cid' is invited; see vivace listen links"):
        store.called("Cid")


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    store, _ = make(tmp_path, ACR)
    failed: list[BaseException] = []

    def one() -> None:
        try:
            who = store.invite()
            for position in range(10):
                store.answer(who, position, 3)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(store.listeners()) == 8
    assert sum(trial.answer == 3 for trial in store.answers()) == 80


def test_comments_are_text(tmp_path: Path) -> None:
    store, _ = make(tmp_path, ACR)
    who = store.invite()
    bad = "<script>alert(1)</script>'; drop table answers; --"
    store.comment(who, bad)
    assert store.comments() == [(who, bad)] and results(store).comments == ((who, bad),)
    for _ in range(199):
        store.comment(who, "again")
    with pytest.raises(Closed, match="all there is room for"):
        store.comment(who, "one more")


def test_csv_holds_everything(tmp_path: Path) -> None:
    import csv

    store, clock = make(tmp_path, Design("preference", "which", 0.1), texts=4)
    listen(store, clock, clicker(1, (-1, 0, 1)), name="=cmd()")
    store.invite()
    rows = list(csv.DictReader(export(store).splitlines()))
    assert len(rows) == 16 and {row["name"] for row in rows} == {"'=cmd()", "listener 2"}
    assert all(row["answer"] == "" and row["at"] == "" and row["seconds"] == "" for row in rows[8:])
    for row in rows[:8]:
        said = {"-1": row["first"], "0": "neither", "1": row["second"]}[row["answer"].lstrip("'")]
        assert row["preferred"] == said and row["seconds"] == "4.0" and row["times_answered"] == "1"
    assert sum("(damaged)" in row["first"] + row["second"] for row in rows[:8]) == 4


def test_every_column_of_the_csv_is_explained(tmp_path: Path) -> None:
    store, _ = make(tmp_path, ACR, texts=3)
    page = (Path(__file__).parents[2] / "docs/listening.md").read_text(encoding="utf-8")
    table = page.partition("## The CSV")[2].partition("\n## ")[0]
    explained = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines() if line[:1] == "|"))
    assert explained == export(store).splitlines()[0].split(",")
