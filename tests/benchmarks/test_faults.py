"""The faults benchmark: what it calls an end, and its page."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("uvicorn")

import faults
import load
from vivace.core import machine


class Server(BaseHTTPRequestHandler):
    """Answers whole, cut, away or not at all, in turn."""

    turn = 0

    def do_POST(self) -> None:
        type(self).turn += 1
        if self.turn == 4:
            return
        self.send_response(503 if self.turn == 3 else 200)
        self.send_header("X-Vivace-Variant", "fast")
        self.send_header("Content-Length", "4" if self.turn == 2 else "2")
        self.end_headers()
        self.wfile.write(b"xy")

    def log_message(self, *_: object) -> None:
        pass


def test_how_answers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        monkeypatch.setattr(load, "PORT", server.server_port)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        answers = [faults.ask("hello", k) for k in range(4)]
        server.shutdown()
    assert [a.end for a in answers] == ["whole", "cut", "503", "nothing"]
    assert [bool(a.first) for a in answers] == [True, True, False, False]
    assert faults.ends(answers) == {"503 by fast": 1, "cut by fast": 1, "nothing": 1, "whole by fast": 1}


def test_the_page() -> None:
    killed = {
        "kills": 3,
        "gap_s": [0.1, 0.3, 0.2],
        "up_s": [0.8, 0.9, 0.7],
        "back_s": [1.0, 2.0, 1.5],
        "wait_s": [0.5, 0.5, 0.9],
    }
    page = faults.page(
        {
            "machine": machine.describe(), "name": "joe", "fast": "f" * 64, "safe": "5" * 64,
            "killed": killed | {"answers": {"cut by fast": 2, "whole by safe": 7}},
            "starved": {"answers": {"whole by safe": 5}, "failures": 4.0, "back_s": 1.25},
            "none": {"answers": {"whole by safe": 6}, "failures": 3.0, "wait_s": [0.2, 0.5, 0.3]},
            "damaged": {"variant_up": 0.0, "breaker_state": 2.0, "answers": {"whole by safe": 9}},
        }
    )  # fmt: skip
    assert "| 0.20 (0.30 at most) | 0.80 (0.90 at most) | 1.50 (2.00 at most) | 0.50 (0.90 at most) |" in page
    assert "5 whole by safe" in page and "1.25 s after that" in page
    assert "6 whole by safe; 3 failures in" in page and "original spoke: 0.30 (0.50 at most) s" in page
    assert "2 cut by fast, 7 whole by safe" in page and "`vivace_breaker_state` 2" in page
