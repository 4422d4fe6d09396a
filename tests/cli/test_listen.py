from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from listening.panel import Clock, listen, rater
from vivace.cli import main as cli
from vivace.core.errors import EXIT_OK, EXIT_USAGE
from vivace.listening.store import Store


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two voices and a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k, name in enumerate(("old", "new")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"toy": 1, "seed": k}), encoding="utf-8")
        assert cli.main(["import", str(tmp_path / f"{name}.json"), "-o", str(tmp_path / name), "-q"]) == EXIT_OK
    words = [f"old={tmp_path / 'old'}", f"new={tmp_path / 'new'}", "--texts", "5", "--checks", "2", "-q"]
    assert cli.main(["listen", "create", str(tmp_path / "t.sqlite"), *words]) == EXIT_OK
    return tmp_path


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert cli.main(["listen", *map(str, words), "--json"]) == EXIT_OK
    return json.loads(capsys.readouterr().out)


def test_from_creating_to_the_result(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = made / "t.sqlite"
    links = as_json(capsys, "link", test, "--listeners", 2, "--name", "Ann", "--at", "https://x.example/")["links"]
    assert [one["name"] for one in links] == ["Ann", "listener 2"]
    assert all(re.match(r"https://x\.example/listen#listener\.", one["link"]) for one in links)
    store = Store(test)
    assert [store.listener(one["link"].partition("#")[2]) for one in links] == [1, 2]
    (owner,) = as_json(capsys, "link", test, "--results", "--days", 1)["links"]
    assert "/listen/results#results." in owner["link"]
    clock = Clock()
    for k in range(5):
        listen(store, clock, rater(k, 1.0, [0.0] * 5), pause=60)
    found = as_json(capsys, "results", test)
    assert found["counted"] == 5 and found["ratings"] == 50 and found["comparisons"][0]["difference"]["mean"] > 0
    assert cli.main(["listen", "results", str(test)]) == EXIT_OK
    told = capsys.readouterr().out
    assert "MOS by listeners" in told and "new against old" in told and "Ann" in told
    assert "not begun: 2" in told and "no: has not begun" in told
    assert cli.main(["listen", "export", str(test), "-o", str(made / "r.csv")]) == EXIT_OK
    assert capsys.readouterr().out == f"{made / 'r.csv'}: 84 trials\n"
    assert as_json(capsys, "export", test, "-o", made / "r.csv") == {"file": str(made / "r.csv"), "trials": 84}
    assert len(list(csv.DictReader((made / "r.csv").open(encoding="utf-8")))) == 7 * 12
    assert as_json(capsys, "export", test)["csv"] == (made / "r.csv").read_text(encoding="utf-8")
    words = ["evaluate", str(made / "new"), "--metrics", "silence", "-q", "--listened", str(test)]
    assert cli.main([*words, "-o", str(made / "e.json")]) == EXIT_OK
    told = capsys.readouterr().out
    assert "What people said" in told and f"{found['systems'][1]['mos']['mean']:.2f}" in told
    assert "5 sentences" in told and "the same sentences as the metrics" in told
    evaluated = json.loads((made / "e.json").read_text(encoding="utf-8"))
    assert [m["name"] for m in evaluated["measurements"]] == ["silence", "listener_mos"]
    assert (
        evaluated["details"]["texts"] == store.texts and "other sentences" not in evaluated["measurements"][1]["scope"]
    )
    assert cli.main([*words, "--texts", "3", "-o", str(made / "e.json")]) == EXIT_OK
    assert "other sentences than the metrics" in " ".join(capsys.readouterr().out.split())
    evaluated = json.loads((made / "e.json").read_text(encoding="utf-8"))
    assert evaluated["measurements"][1]["scope"].endswith("clips, of other sentences")
    pilot = as_json(capsys, "power", "--pilot", test, "--margin", "0.5")
    assert pilot["spread"]["rest"] > 0 and pilot["needs"]


def test_what_people_heard_is_what_is_scored(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --listened: the test's own sentences and seed, hence its very clips."""
    sources = [f"old={made / 'old'}", f"new={made / 'new'}"]
    words = ["--texts", "4", "--checks", "2", "--seed", "7", "-q"]
    assert cli.main(["listen", "create", str(made / "seven"), *sources, *words]) == EXIT_OK
    store, clock = Store(made / "seven"), Clock()
    for k in range(3):
        listen(store, clock, rater(k, 1.0, [0.0] * 4), pause=60)
    words = ["--metrics", "silence", "-q", "--listened", str(made / "seven"), "--json"]
    capsys.readouterr()
    assert cli.main(["evaluate", str(made / "new"), *words]) == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert (found["settings"]["seed"], found["details"]["texts"]) == (7, store.texts)
    assert cli.main(["evaluate", str(made / "new"), *words, "--seed", "1"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 1
    (made / "third.json").write_text(json.dumps({"toy": 1, "seed": 9}), encoding="utf-8")
    assert cli.main(["evaluate", str(made / "third.json"), *words, "--metrics", "nothing"]) == EXIT_USAGE
    assert "was not made from this bundle" in capsys.readouterr().err


def test_links_are_listed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = made / "t.sqlite"
    assert cli.main(["listen", "links", str(test)]) == EXIT_OK
    assert "no links yet" in capsys.readouterr().out
    (ann, _) = as_json(capsys, "link", test, "--name", "Ann", "--listeners", 2)["links"]
    as_json(capsys, "link", test, "--results", "--days", 0.00001)
    (again,) = as_json(capsys, "link", test, "--name", "ann", "--again", "--days", 1)["links"]
    store = Store(test)
    assert again["name"] == "Ann" and store.listeners() == {1: "Ann", 2: "listener 2"}
    assert [store.listener(one["link"].partition("#")[2]) for one in (ann, again)] == [1, 1]
    store.answer(1, 0, 3)
    time.sleep(1)
    found = as_json(capsys, "links", test)["links"]
    assert [(one["name"], one["answered"], one["trials"], one["expired"]) for one in found] == [
        ("Ann", 1, 12, False), ("listener 2", 0, 12, False), (None, 0, 0, True), ("Ann", 1, 12, False),
    ]  # fmt: skip
    made_at = [datetime.fromisoformat(one["made"]) for one in found]
    assert sorted(made_at) == made_at and all(abs(time.time() - at.timestamp()) < 60 for at in made_at)
    assert round((datetime.fromisoformat(found[0]["expires"]) - made_at[0]).total_seconds() / 86_400) == 14
    assert cli.main(["listen", "links", str(test)]) == EXIT_OK
    told = capsys.readouterr().out
    assert told.count("Ann") == 2 and "1/12" in told and "expired" in told and "(results)" in told


@pytest.mark.parametrize("door", ["create", "link", "links", "results", "export", "power", "serve"])
def test_every_door_tells_of_json(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["listen", door, "--help"])
    told = capsys.readouterr().out
    assert "--json" in told and "--quiet" in told


def test_preferences_between_folders(tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("old", "new"):
        (made / f"clips {name}").mkdir()
        for k in range(3):
            out = made / f"clips {name}" / f"{k}.wav"
            assert cli.main(["say", str(made / name), "a few words", "-o", str(out), "-q"]) == EXIT_OK
    sources = [f"{name}={made / f'clips {name}'}" for name in ("old", "new")]
    found = as_json(capsys, "create", made / "p.sqlite", *sources, "--kind", "preference")
    assert found["texts"] == 3 and found["margin"] == 0.1
    assert Store(made / "p.sqlite").design.title == "Which one sounds better?"


def test_power(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", "power", "--margin", "0.25"]) == EXIT_OK
    told = capsys.readouterr().out
    assert "listeners who pass" in told and "80% power" in told
    assert cli.main(["listen", "power", "--margin", "0.001"]) == EXIT_OK
    assert "out of reach" in capsys.readouterr().out
    needs = as_json(capsys, "power", "--kind", "preference")["needs"]
    assert needs[0]["listeners"] * needs[0]["texts"] == needs[0]["pairs"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "t.sqlite", "old=old", "new=new"], "is never replaced"),
        (["create", "u.sqlite", "old", "new=new"], "'old' is not NAME=SOURCE"),
        (["create", "u.sqlite", "a=old", "a=new"], "same name"),
        (["create", "u.sqlite", "a=old", "b=clips"], "not both"),
        (["create", "u.sqlite", "a=old", "b=nowhere"], "does not exist"),
        (["create", "u.sqlite", "a=old", "b=new", "--margin", "9"], "between 0 and 4"),
        (["link", "t.sqlite", "--at", "javascript:alert(1)"], "write an address"),
        (["link", "t.sqlite", "--days", "0"], "not possible"),
        (["link", "t.sqlite", "--listeners", "1", "--name", "a", "--name", "b"], "must be 1 to 1000"),
        (["link", "t.sqlite", "--name", "Ann", "--name", "ann"], "'ann' is there twice"),
        (["link", "t.sqlite", "--name", "Ann", "--again"], "nobody called 'Ann' is invited"),
        (["link", "t.sqlite", "--again"], "--again is for listeners by --name"),
        (["link", "t.sqlite", "--name", "Ann", "--results"], "--results is for those who ask"),
        (["results", "nowhere.sqlite"], "does not exist"),
        (["power", "--pilot", "t.sqlite"], "too small"),
        (["power", "--pilot", "t.sqlite", "--kind", "preference"], "pass --kind acr"),
        (["serve", "old.json"], "no listening test"),
    ],
)
def test_wrong_words(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(made)
    Path("clips").mkdir()
    (made / "clips" / "a.wav").write_bytes(b"")
    capsys.readouterr()
    assert cli.main(["listen", *words]) == EXIT_USAGE
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not Path("u.sqlite").exists() and Store(made / "t.sqlite").listeners() == {}


def test_a_server_for_listeners_alone(made: Path) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    words = [sys.executable, "-m", "vivace.cli.main", "listen", "serve", str(made / "t.sqlite"), "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ)
    try:
        assert process.stderr
        line = next(line for line in process.stderr if "listeners are welcome" in line)
        url = re.search(r"http://\S+", line)[0]  # type: ignore[index]
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                assert httpx.get(f"{url}/health/live").json() == {"status": "live"}
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        store = Store(made / "t.sqlite")
        headers = {"Authorization": f"Bearer {store.token('listener', str(store.invite()), 1)}"}
        assert len(httpx.get(f"{url}/listen/api/test", headers=headers).json()["trials"]) == 12
        assert "<title>Listening test" in httpx.get(f"{url}/listen").text
        assert httpx.get(f"{url}/v1/models").status_code == 404
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
