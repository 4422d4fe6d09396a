"""What Piper's JSON says of reading, said as Coqui's config: the same rows of the embedding for the same text."""

from __future__ import annotations

from typing import Any

import pytest

from vivace.core import registry
from vivace.core.errors import ModelError
from vivace.families._vits_spelling import coqui_from_piper, piper_from_coqui

TEXTS = (
    "Hello there.",
    '"I have repaired clocks," the old woman said, "and I cannot stop!"',
    "It costs 12 dollars; why? Nobody knows: perhaps (or not) it's late.",
)


def english() -> dict[str, Any]:
    ids = pytest.importorskip("piper.phoneme_ids").DEFAULT_PHONEME_ID_MAP
    return {"espeak": {"voice": "en-us"}, "phoneme_type": "espeak", "phoneme_id_map": {**ids}}


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_text_takes_the_same_rows(text: str) -> None:
    piper = english()
    fields, rows = coqui_from_piper(piper)
    wanted = list(registry.load("text", "piper").tokens(text, piper))
    found = [[rows[i] for i in ids] for ids in registry.load("text", "coqui").tokens(text, fields)]
    assert found == wanted


def test_there_and_back() -> None:
    piper = english()
    fields, rows = coqui_from_piper(piper)
    back = piper_from_coqui(fields)
    assert back["espeak"] == piper["espeak"]
    assert back["num_symbols"] == len(rows)
    for symbol, ids in back["phoneme_id_map"].items():
        assert [rows[i] for i in ids] == list(piper["phoneme_id_map"][symbol]), symbol


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phoneme_type": "pinyin"}, "no phoneme_type 'pinyin'"),
        ({"vowel_clusters": [["a", "ɪ"]]}, "no vowel_clusters"),
        ({"phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3, 4]}}, "'a' has"),
        ({"phoneme_type": "text", "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "\u0308": [3]}}, "apart from its"),
    ],
)
def test_what_coqui_cannot_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        coqui_from_piper({**english(), **change})


def test_what_piper_cannot_say() -> None:
    fields, _ = coqui_from_piper(english())
    with pytest.raises(ModelError, match="blank between ids"):
        piper_from_coqui({**fields, "add_blank": False})
    with pytest.raises(ModelError, match="takes 'ç' apart"):
        piper_from_coqui({**fields, "phoneme_language": "de"})
