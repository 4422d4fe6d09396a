import ctypes
import json
import subprocess
import sys
import types
from typing import Any

import pytest

from vivace.text import _espeak
from vivace.text import piper as front_end

pytest.importorskip("piper")
import piper
from piper import espeakbridge
from piper.config import PiperConfig
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from piper.phonemize_espeak import ESPEAK_DATA_DIR
from piper.voice import PiperVoice

TEXTS = ["One, two: three.", "Is it? Yes!", "A 3.5 per cent rise, 12 in all; the U.S.A.", "été привет", "The rest."]
LANGUAGES = ("en-us", "de", "es")


def voice(language: str) -> dict[str, Any]:
    return {"num_symbols": 256, "num_speakers": 1, "audio": {"sample_rate": 22050}} | {
        "espeak": {"voice": language},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
    }


def test_speaking_keeps_no_tuple() -> None:
    _espeak.keep_memory()
    espeakbridge.initialize(str(ESPEAK_DATA_DIR))
    espeakbridge.set_voice("en-us")
    for text in TEXTS:
        espeakbridge.get_phonemes(text)
    before = sys.getallocatedblocks()
    for _ in range(200):
        for text in TEXTS:
            espeakbridge.get_phonemes(text)
    assert sys.getallocatedblocks() - before < 100  # two blocks for each of 1,800 clauses, if they are kept


def test_only_a_reference_too_many_is_given_back() -> None:
    class Mark:
        pass

    for extra in (0, 1):
        mark = Mark()
        clause: Any = (mark, ".", True)
        clauses = [clause]
        for _ in range(extra):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(clause))
        del clause
        whole = sys.getrefcount(mark)
        assert _espeak.freed(clauses)[0][0] is mark
        assert sys.getrefcount(mark) == whole
        clauses.clear()
        assert sys.getrefcount(mark) == whole - 1  # the tuple is gone


def test_a_voice_is_set_once_until_another_one_or_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def set_voice(name: str) -> None:
        seen.append(name)
        if name == "none":
            raise RuntimeError("no such voice")

    fake = types.SimpleNamespace(
        initialize=lambda data: seen.append("start"), set_voice=set_voice, get_phonemes=lambda text: [(text, ".", True)]
    )
    monkeypatch.setattr(piper, "espeakbridge", fake)
    _espeak.keep_memory.__wrapped__()
    for name in ("de", "de", "en", "en", "de"):
        fake.set_voice(name)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            fake.set_voice("none")
    fake.set_voice("de")
    fake.initialize("data")
    fake.set_voice("de")
    assert seen == ["de", "en", "de", "none", "none", "de", "start", "de"]
    assert fake.get_phonemes("a") == [("a", ".", True)]


def test_a_piper_tts_that_nobody_has_looked_at_keeps_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(initialize=print, set_voice=print, get_phonemes=print)
    monkeypatch.setattr(piper, "espeakbridge", fake)
    monkeypatch.setattr(_espeak, "version", lambda name: "9.0.0")
    _espeak.keep_memory.__wrapped__()
    assert fake.get_phonemes is print and fake.set_voice is not print


def test_phonemes_are_those_of_piper_tts_as_it_comes() -> None:
    script = (
        "import json, sys; from piper.config import PiperConfig; from piper.voice import PiperVoice\n"
        "texts, voices = json.load(sys.stdin)\n"
        "made = [[v.phonemize(t) for t in texts] for v in"
        " [PiperVoice(session=None, config=PiperConfig.from_dict(v)) for v in voices]]\n"
        "json.dump(made, sys.stdout)"
    )
    settings = [voice(language) for language in LANGUAGES]
    given = json.dumps([TEXTS * 2, settings])
    plain = subprocess.run(
        [sys.executable, "-c", script], input=given, capture_output=True, check=True, encoding="utf-8", timeout=60
    )
    _espeak.keep_memory()
    ours = [
        [PiperVoice(session=None, config=PiperConfig.from_dict(one)).phonemize(t) for t in TEXTS * 2]  # type: ignore[arg-type]
        for one in settings
    ]
    assert ours == json.loads(plain.stdout)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("end", [".", "..", "...", " ..", "?..", '"..', "a.."])
def test_no_text_begins_with_the_dots_that_ended_the_one_before(language: str, end: str) -> None:
    alone = list(front_end.tokens("a", voice(language)))
    list(front_end.tokens(f"word{end}", voice(language)))
    assert list(front_end.tokens("a", voice(language))) == alone
    _espeak.phonemes("a", language)  # as Coqui voices are read
    alone_here = _espeak.phonemes("a", language)
    _espeak.phonemes(f"word{end}", language)
    assert _espeak.phonemes("a", language) == alone_here


def test_two_last_dots_sound_as_one() -> None:
    assert list(front_end.tokens("Nada..", voice("es"))) == list(front_end.tokens("Nada.", voice("es")))
