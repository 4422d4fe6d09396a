"""The process of an arm of the comparison: its protocol, its clock and its memory."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _peers import arm as program
from _peers.arms import Arm, ArmError, Process


class Talker:
    """A voice of three pieces of one second; making each takes what the clock says."""

    rate = 10

    def __init__(self, ticks: list[float]) -> None:
        self.ticks, self.given = ticks, 0

    def imports(self) -> str:
        return "talker 1"

    def load(self) -> None:
        pass

    def speak(self, text: str, seed: int, stream: bool, give: Callable[[Any], bool]) -> None:
        if text == "bad":
            raise RuntimeError("no such word")
        for _ in range(0 if text == "mute" else 3):
            self.given += 1
            if not give(np.full(10, seed, np.float32)):
                return


def asked(voice: Talker, monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any]) -> list[dict[str, Any]]:
    ticks = iter(voice.ticks)
    monkeypatch.setattr(program.time, "perf_counter", lambda: next(ticks))
    out = io.StringIO()
    program.serve(voice, io.StringIO("".join(json.dumps(line) + "\n" for line in lines)), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_speech_is_timed_to_its_first_piece_and_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # The third piece is there at 3.5 s, when two seconds of audio were made: playing cannot begin before 1.5 s.
    (told,) = asked(Talker([0, 0.5, 1.0, 3.5, 3.6]), monkeypatch, {"do": "speak", "text": "hi"})
    assert told == {
        "seconds": 3.6,
        "audio": 3.0,
        "first": 0.5,
        "first_audio": 1.0,
        "gapless": 1.5,
        "chunks": 3,
        "rate": 10,
    }


def test_early_stops_at_the_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    voice = Talker([0, 0.5, 0.6])
    (told,) = asked(voice, monkeypatch, {"do": "speak", "text": "hi", "early": True})
    assert voice.given == told["chunks"] == 1
    assert told["gapless"] is None and told["audio"] == 1.0


def test_a_clip_is_kept_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked(Talker([0.0] * 5), monkeypatch, {"do": "speak", "text": "hi", "seed": 7, "out": str(tmp_path / "a.npy")})
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.full(30, 7, np.float32))


def test_a_fault_is_an_answer_and_the_next_line_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"do": "speak", "text": "bad"}, {"do": "speak", "text": "mute"}, {"do": "dance"}, {"do": "load"}]
    told = asked(Talker([0.0, 0.0, 0.0, 1.0, 3.0, 6.0]), monkeypatch, *lines, {"do": "quit"}, {"do": "load"})
    assert told[0] == {"error": "RuntimeError: no such word"}
    assert "no audio for 'mute'" in told[1]["error"]
    assert "'dance' is no command" in told[2]["error"]
    assert told[3] == {"import_s": 2.0, "load_s": 3.0, "version": "talker 1"}
    assert len(told) == 4  # nothing after quit


def test_memory_is_what_this_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    (told,) = asked(Talker([]), monkeypatch, {"do": "memory"})
    assert 0 < told["now_mb"] <= told["peak_mb"]


def test_a_pool_speaks_all_texts_and_tells_their_length(make_toy: Callable[..., Any]) -> None:
    pool = program.KINDS["pool"](str(make_toy(seed=3).path), 1)
    program.answer(pool, {"do": "load"})
    told = [program.answer(pool, {"do": "speak_all", "texts": said}) for said in (["One."], ["One.", "One and two."])]
    assert 0 < 2 * told[0]["audio"] < told[1]["audio"]
    pool.pool.close()


ECHO = """
import sys, json
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "quit": break
    if asked["do"] == "die": sys.exit(9)
    told = {"error": "cannot"} if asked["do"] == "fail" else {"heard": asked}
    print(json.dumps(told), flush=True)
"""


def test_a_process_is_asked_and_its_end_is_told() -> None:
    with Process(Arm("plain ORT", "plain", "o", 1, "2"), command=[sys.executable, "-c", ECHO]) as process:
        assert process.loaded == {"heard": {"do": "load"}}
        assert process.ready > 0
        assert 1 < process.proportional_mb < 1000
        assert process.speak("hé", rested=False, seed=2) == {"heard": {"do": "speak", "text": "hé", "seed": 2}}
        with pytest.raises(ArmError, match="plain ORT @1: cannot"):
            process.ask("fail")
        with pytest.raises(ArmError, match=r"its process ended \(exit code 9\) at 'die'"):
            process.ask("die")
