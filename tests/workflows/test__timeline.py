from __future__ import annotations

import json
from itertools import pairwise

import pytest

from vivace.core.errors import VivaceError
from vivace.workflows._timeline import SECONDS, write_timeline

TEXTS = {"short": "a.", "long": "some more words. and more."}


def written(bundle, path, texts=TEXTS):
    write_timeline(bundle, path / "trace.json", texts=texts)
    return json.loads((path / "trace.json").read_text(encoding="utf-8"))


def tracks(made):
    """The complete events of each track, by process and name."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in made["traceEvents"] if e["name"] == "thread_name"}
    found = {(pid, name): [] for (pid, _), name in names.items()}
    for event in made["traceEvents"]:
        if event["ph"] == "X":
            found[event["pid"], names[event["pid"], event["tid"]]].append(event)
    return found


def ends(event):
    return event["ts"] + event["dur"]


@pytest.fixture(params=["toy", "tiny", "fast_steps", "slow_steps"])
def made(request, tmp_path):
    return written(request.getfixturevalue(request.param), tmp_path)


def test_it_has_the_form_that_viewers_read(made):
    assert made["displayTimeUnit"] == "ms"
    for event in made["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert event["args"]
        if event["ph"] == "X":
            assert isinstance(event["tid"], int)
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert set(event["args"]) == {"rows", "prefix"}
    processes = [e["args"]["name"] for e in made["traceEvents"] if e["name"] == "process_name"]
    assert [name.partition(": ")[2] for name in processes] == ["one text at a time", "all texts together"]


def test_what_a_step_is_made_of_lies_inside_it(made):
    """Viewers put overlapping events of one track below each other only if one holds the other."""
    for (_, name), events in tracks(made).items():
        open_until = []
        for event in events:
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or ends(event) <= open_until[-1] + 1e-6
            assert name == "engine" or not open_until  # a stage runs once at a time
            assert event["name"] == "step" or open_until or name != "engine"
            open_until.append(ends(event))
        assert all(a["ts"] <= b["ts"] for a, b in pairwise(events))


def test_every_run_of_a_stage_lies_inside_a_step(made):
    found = tracks(made)
    for (pid, name), events in found.items():
        steps = [event for event in found[pid, "engine"] if event["name"] == "step"]
        assert events, name
        for event in events:
            assert any(step["ts"] <= event["ts"] and ends(event) <= ends(step) + 1e-6 for step in steps)


def test_the_frames_before_and_the_rows_are_told(fast_steps, tmp_path):
    found = tracks(written(fast_steps, tmp_path))
    alone, together = found[1, "decode"], found[2, "decode"]
    assert [event["args"]["prefix"] for event in alone] == [*range(48)] * 2  # of both texts
    assert {event["args"]["rows"] for event in alone} == {1}
    assert max(event["args"]["rows"] for event in together) == 2
    assert {event["name"] for event in together} == {"decode"}
    assert {event["name"] for event in found[1, "engine"]} == {"step", "encode", "advance", "render"}
    assert len(found[1, "vocoder"]) == 2
    assert SECONDS > 1


def test_a_text_that_cannot_be_spoken_leaves_no_file(tiny, tmp_path):
    with pytest.raises(VivaceError, match="nothing to say"):
        written(tiny, tmp_path, {"empty": "."})
    assert not (tmp_path / "trace.json").exists()
