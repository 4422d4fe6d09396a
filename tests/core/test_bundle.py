from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.bundle_maker import SAMPLE, STAGES, fill
from vivace.core.bundle import (
    EVIDENCE,
    Bundle,
    Step,
    atomic_file,
    atomic_folder,
    open_bundle,
    write_bundle,
)
from vivace.core.errors import BundleError


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_what_was_written_is_opened(made: Bundle) -> None:
    opened = open_bundle(made.path)
    assert opened == made
    assert opened.stages == STAGES
    assert opened.history == SAMPLE.history
    assert set(opened.files) == {"stages/text.onnx", "stages/decoder.onnx", "voice.json"}


def test_tuples_in_settings_are_what_the_disk_makes_of_them(tmp_path: Path) -> None:
    step = Step("int8", "1", {"op_types": ("Conv", "MatMul")})
    written = write_bundle(tmp_path / "voice", replace(SAMPLE, defaults={"range": (0, 1)}, history=(step,)), fill)
    assert open_bundle(written.path) == written


def test_size_counts_the_stage_files_only(made: Bundle) -> None:
    assert made.size == 10 * len("text") + 10 * len("decoder")


def test_stage_by_name(made: Bundle) -> None:
    assert made.stage("decoder") == STAGES[1]
    with pytest.raises(BundleError, match="no stage 'vocoder'; it has text, decoder"):
        made.stage("vocoder")


def test_the_folder_is_readable_by_others(made: Bundle) -> None:
    assert made.path.stat().st_mode & 0o777 == 0o755


# --- digest ---


def test_digest_ignores_name_history_evidence_and_place(tmp_path: Path, made: Bundle) -> None:
    def with_evidence(folder: Path) -> None:
        fill(folder)
        (folder / EVIDENCE).mkdir()
        (folder / EVIDENCE / "report.json").write_text("{}", encoding="utf-8")

    other = write_bundle(tmp_path / "b", replace(SAMPLE, name="bob", history=()), with_evidence)
    assert other.digest == made.digest
    assert set(other.evidence) == {"evidence/report.json"}
    assert open_bundle(other.path) == other


@pytest.mark.parametrize(
    "change",
    [
        {"family": "piper"},
        {"sample_rate": 16000},
        {"voices": ("ann",)},
        {"defaults": {"noise_scale": 0.6, "hop": 80}},
        {"stages": (replace(STAGES[0], runtime="openvino"), STAGES[1])},
    ],
)
def test_digest_follows_meaning(tmp_path: Path, made: Bundle, change: dict[str, Any]) -> None:
    assert write_bundle(tmp_path / "b", replace(SAMPLE, **change), fill).digest != made.digest


def test_a_bundle_from_before_stages_had_options_keeps_its_digest(made: Bundle) -> None:
    """As it was computed then: a manifest of that time opens, and is the same voice."""
    assert made.digest == "7249ca201bc02ab2fc4c11e8702a89d5448c89049363709f9c843157330bff59"
    assert "options" not in (made.path / "manifest.json").read_text(encoding="utf-8")
    assert open_bundle(made.path).stages[0].options == {}


def test_options_of_a_stage_are_part_of_its_meaning(tmp_path: Path, made: Bundle) -> None:
    stages = (replace(STAGES[0], options={"precision": "bf16"}), STAGES[1])
    child = made.derive(tmp_path / "child", None, stages=stages)
    assert child.digest != made.digest
    assert open_bundle(child.path).stages == stages
    assert child.derive(tmp_path / "back", None, stages=STAGES).digest == made.digest


def test_digest_follows_file_contents(tmp_path: Path, made: Bundle) -> None:
    def changed(folder: Path) -> None:
        fill(folder)
        (folder / "voice.json").write_text("{} ", encoding="utf-8")

    assert write_bundle(tmp_path / "b", SAMPLE, changed).digest != made.digest


# --- derive ---


def test_derive_makes_a_child_with_history_and_leaves_the_parent(tmp_path: Path, made: Bundle) -> None:
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    stages = (replace(STAGES[0], precision="int8"), STAGES[1])
    child = made.derive(
        tmp_path / "child",
        Step("int8", "1", {"rows": 4}, seconds=2.5),
        lambda folder: (folder / "stages/text.onnx").write_bytes(b"small") and None,
        stages=stages,
    )
    assert open_bundle(child.path) == child
    assert child.history == (*made.history, Step("int8", "1", {"rows": 4}, made.digest, 2.5))
    assert child.file("stages/text.onnx").read_bytes() == b"small"
    assert child.file("voice.json").read_bytes() == b"{}"
    assert {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()} == before


def test_derive_without_a_step_copies_and_drops_evidence(tmp_path: Path, made: Bundle) -> None:
    def evidence(folder: Path) -> None:
        (folder / EVIDENCE).mkdir()
        (folder / EVIDENCE / "a.txt").write_text("a", encoding="utf-8")

    proven = made.derive(tmp_path / "proven", None, evidence)
    copy = proven.derive(tmp_path / "copy", None)
    assert proven.digest == copy.digest == made.digest
    assert proven.evidence
    assert not copy.evidence
    assert not (copy.path / EVIDENCE).exists()


def test_derive_over_itself(made: Bundle) -> None:
    child = made.derive(made.path, Step("again", "1"), overwrite=True)
    assert open_bundle(made.path) == child
    assert leftovers(made.path.parent) == []


def test_derive_from_a_parent_that_lost_a_file_names_it(tmp_path: Path, made: Bundle) -> None:
    made.file("voice.json").unlink()
    with pytest.raises(BundleError, match=r"voice\.json"):
        made.derive(tmp_path / "child", None)
    assert not (tmp_path / "child").exists()


# --- writing ---


def test_a_bundle_is_not_overwritten_unasked(made: Bundle) -> None:
    with pytest.raises(BundleError, match="exists; choose another name or pass --force"):
        write_bundle(made.path, SAMPLE, fill)
    assert open_bundle(made.path) == made


def test_overwriting_leaves_only_the_new_bundle(made: Bundle) -> None:
    (made.path / "stray").write_text("x", encoding="utf-8")
    new = write_bundle(made.path, replace(SAMPLE, name="new"), fill, overwrite=True)
    assert open_bundle(made.path) == new
    assert not (made.path / "stray").exists()
    assert leftovers(made.path.parent) == []


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(BundleError, match="is no bundle"):
        write_bundle(home, SAMPLE, fill, overwrite=True)
    assert (home / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_an_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert open_bundle(write_bundle(tmp_path / "empty", SAMPLE, fill, overwrite=True).path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "taken", SAMPLE, fill, overwrite=overwrite)
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def test_a_bundle_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "voice"

    def slow(folder: Path) -> None:
        fill(folder)
        write_bundle(out, replace(SAMPLE, name="rival"), fill)

    with pytest.raises(BundleError, match="exists"):
        write_bundle(out, SAMPLE, slow)
    assert open_bundle(out).name == "rival"
    assert leftovers(tmp_path) == []


def test_a_stage_without_its_file_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"stages/text\.onnx of a stage was not written"):
        write_bundle(tmp_path / "voice", SAMPLE, lambda folder: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(error):
        write_bundle(tmp_path / "voice", SAMPLE, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_overwriting_leaves_the_old_bundle(made: Bundle) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(made.path, SAMPLE, interrupted, overwrite=True)
    assert open_bundle(made.path) == made
    assert leftovers(made.path.parent) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BundleError, match=r"cannot write .*voice.*No space left"):
        write_bundle(tmp_path / "voice", SAMPLE, full)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rename_puts_the_old_bundle_back(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == made.path and not self.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="Input/output error"):
        write_bundle(made.path, replace(SAMPLE, name="new"), fill, overwrite=True)
    monkeypatch.undo()
    assert open_bundle(made.path) == made
    assert leftovers(made.path.parent) == []


def test_an_unwritable_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(BundleError, match="cannot write to"):
        write_bundle(tmp_path / "file" / "below" / "voice", SAMPLE, fill)


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    assert open_bundle(write_bundle(tmp_path / "a" / "b" / "voice", SAMPLE, fill).path)


def test_atomic_folder_gives_a_folder_for_anything(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "demo") as folder:
        (folder / "x").write_text("1", encoding="utf-8")
        assert not (tmp_path / "demo").exists()
    with atomic_folder(tmp_path / "demo", overwrite=True) as folder:
        (folder / "y").write_text("2", encoding="utf-8")
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["y"]


# --- single files ---


def test_atomic_file_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    atomic_file(path, b"one")
    atomic_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


def test_atomic_file_keeps_the_old_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.bin"
    atomic_file(path, b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BundleError, match="No space left"):
        atomic_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.bin"]


def test_atomic_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(BundleError, match="cannot write"):
        atomic_file(tmp_path / "file" / "x", b"")
