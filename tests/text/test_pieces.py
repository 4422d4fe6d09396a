"""The ids are those of the sentencepiece library; sentences end with the end, and none is too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from families.speecht5_maker import CHARACTERS, sentencepiece
from vivace.core.errors import ModelError, TextError
from vivace.families._speecht5_tokenizer import read_tokenizer
from vivace.text import pieces


def voice(folder: Path, **normalizer: Any) -> dict[str, Any]:
    (folder / "spm_char.model").write_bytes(sentencepiece(**normalizer))
    return read_tokenizer(folder, 2, 60, 40)


def words(ids: list[int]) -> str:
    return "".join(["?<>$#", "\u2581", *CHARACTERS][i if i < 4 else i - 3] if i > 3 else f"<{i}>" for i in ids)


def test_ids_of_a_sentence(tmp_path: Path) -> None:
    assert [words(s) for s in pieces.tokens("hi  the XYZe.", voice(tmp_path))] == ["▁hi▁the▁<3>e.<2>"]
    plain = voice(tmp_path, prefix=0)
    assert [words(s) for s in pieces.tokens("hi. What", plain)] == ["hi.<2>", "<3>hat<2>"]


def test_normal_forms_and_small_letters(tmp_path: Path) -> None:
    found = pieces.tokens("ﬁsh WAS", voice(tmp_path, form="nmt_nfkc_cf"))
    assert [words(s) for s in found] == ["▁fish▁was<2>"]


def test_numbers_are_spelled_where_the_tokenizer_does(tmp_path: Path) -> None:
    plain = voice(tmp_path)
    assert words(next(pieces.tokens("take 21", plain))) == "▁take▁<3><2>"
    assert words(next(pieces.tokens("take 21", plain | {"spell": True}))) == "▁take▁twenty<3>one<2>"


def test_long_sentences_are_cut(tmp_path: Path) -> None:
    found = list(pieces.tokens("word " * 60, voice(tmp_path)))
    assert all(len(s) <= 60 for s in found)
    assert "".join(words(s) for s in found).replace("<2>", "") == "▁word" * 60


def test_settings_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lack 'characters'"):
        next(pieces.tokens("hi", {}))
    with pytest.raises(TextError):
        next(pieces.tokens("XYZ", voice(tmp_path)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from([*CHARACTERS, " ", "X", "é", "漢", "\u2581"]), max_size=30))
@pytest.mark.parametrize("normalizer", [{}, {"prefix": 0}, {"squeeze": 0}], ids=str)
def test_ids_are_those_of_the_library(tmp_path: Path, normalizer: dict[str, int], text: str) -> None:
    library = pytest.importorskip("sentencepiece")
    settings_ = voice(tmp_path, **normalizer)
    theirs = library.SentencePieceProcessor(model_proto=sentencepiece(**normalizer)).encode(text)
    assert pieces.ids(text, settings_["characters"], 3, settings_) == theirs
