"""Labelled clips: folders and manifests, and what is wrong with them in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from vivace.core.errors import UsageError
from vivace.workflows.dataset import read


def clip(path: Path, rate: int = 8000, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(round(rate * seconds)) * 0.1)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def test_a_folder_names_its_labels(tmp_path: Path) -> None:
    clip(tmp_path / "yes" / "a.wav")
    clip(tmp_path / "no" / "b.flac", rate=16000)
    (tmp_path / "no" / "notes.txt").write_text("not a clip", encoding="utf-8")
    data = read(tmp_path)
    assert [(item.name, item.label) for item in data.items] == [("no/b.flac", "no"), ("yes/a.wav", "yes")]
    assert data.classes(("yes", "no")).tolist() == [1, 0]
    clips = data.clips(8000)
    assert [c.rate for c in clips] == [8000, 8000]
    assert [len(c.samples) for c in clips] == [4000, 4000]
    with pytest.raises(UsageError, match="does not know the label 'no'"):
        data.classes(("yes", "maybe"))


def test_a_manifest_names_labels_and_groups(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    (tmp_path / "manifest.csv").write_text("path,label,group\na.wav,yes,ann\n", encoding="utf-8")
    for path in (tmp_path, tmp_path / "manifest.csv"):
        (item,) = read(path).items
        assert (item.label, item.group) == ("yes", "ann")


def test_the_digest_names_the_sound(tmp_path: Path) -> None:
    clip(tmp_path / "yes" / "a.wav")
    before = read(tmp_path).digest
    assert read(tmp_path).digest == before
    clip(tmp_path / "yes" / "a.wav", seconds=0.4)
    assert read(tmp_path).digest != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.wav,yes\n", "no column 'path'"),
        ("path,label\nb.wav,yes\n", "line 2: 'b.wav' is not there"),
        ("path,label\na.wav,\n", "line 2.*no label"),
        ("path,label\n", "no labelled clip"),
    ],
)
def test_a_wrong_manifest_is_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    clip(tmp_path / "a.wav")
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        read(tmp_path)


def test_what_is_no_set_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no labelled clip"):
        read(tmp_path)
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match=r"a.wav is no readable sound file"):
        read(tmp_path).clips(8000)
