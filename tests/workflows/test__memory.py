from __future__ import annotations

import mmap
from dataclasses import replace

import pytest

from vivace.core import machine
from vivace.core.errors import VivaceError
from vivace.workflows import _memory


def test_this_process_is_measured(tiny):
    loaded, peak = _memory.measure(tiny.path, "a text", 1)
    assert 5 < loaded <= peak


def test_more_texts_together_hold_more(fast_steps):
    """Their caches at least; in processes of their own, so that nothing else is counted."""
    words = "some words."
    (_, one), (_, many) = (_memory.peak_memory(fast_steps, words, 1, together) for together in (1, 256))
    assert many > one + 256 * 0.06


def test_memory_that_is_held_shows():
    before = machine.resident("VmRSS")
    with mmap.mmap(-1, 64_000_000) as held:  # fresh pages: an array might reuse freed ones
        held.write(b"x" * 64_000_000)
        assert machine.resident("VmRSS") - before > 50
        assert machine.resident("VmHWM") >= machine.resident("VmRSS") - 1


@pytest.mark.parametrize("status", ["missing", "empty"])
def test_without_proc_the_system_is_asked(tmp_path, monkeypatch, status):
    usual = machine.resident("VmHWM")
    (tmp_path / "empty").touch()
    monkeypatch.setattr(machine, "PROC", tmp_path / status)
    assert machine.resident("VmHWM") >= 0.9 * usual


def test_the_child_prints_its_figures(tiny, monkeypatch, capsys):
    class Input:
        buffer = __import__("io").BytesIO("Ä text".encode())

    monkeypatch.setattr(_memory.sys, "argv", ["_memory", str(tiny.path), "1", "2"])
    monkeypatch.setattr(_memory.sys, "stdin", Input)
    _memory.main()
    loaded, peak = _memory.json.loads(capsys.readouterr().out)
    assert 5 < loaded <= peak


def test_a_child_that_fails_says_why(tiny, tmp_path):
    lost = replace(tiny, path=tmp_path / "nowhere")
    with pytest.raises(VivaceError, match=r"memory could not be measured: .*is no bundle"):
        _memory.peak_memory(lost, "a text", 1)


@pytest.mark.voice
def test_a_real_voice(real_voice):
    loaded, peak = _memory.peak_memory(real_voice, "Good morning, says the “miller”.", 1)
    assert real_voice.size / 1e6 < loaded < peak < 2000
