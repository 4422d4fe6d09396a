from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivace.core import bundle as module
from vivace.core.bundle import (
    EVIDENCE,
    MANIFEST,
    Bundle,
    Step,
    atomic_file,
    atomic_folder,
    open_bundle,
    write_bundle,
)
from vivace.core.errors import BundleError
from vivace.core.stage import Stage, TensorSpec

STAGES = (
    Stage("text", "stages/text.onnx", inputs={"ids": TensorSpec("int64", ("batch", "n"))}, frame_rate=100.0),
    Stage("decoder", "stages/decoder.onnx", precision="int8", outputs={"wave": TensorSpec("float32", (1, "t"))}),
)
SAMPLE = Bundle(
    Path("unused"),
    "ann",
    "toy",
    8000,
    STAGES,
    voices=("ann", "bob"),
    defaults={"noise_scale": 0.5, "hop": 80},
    history=(Step("first", "1", {"rows": 8}, "abc", 0.5),),
)


def fill(folder: Path) -> None:
    (folder / "stages").mkdir()
    for stage in STAGES:
        (folder / stage.file).write_bytes(stage.name.encode() * 10)
    (folder / "voice.json").write_text("{}", encoding="utf-8")


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "voice", SAMPLE, fill)


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


# --- opening what is damaged ---


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "none")


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "voice.onnx").write_bytes(b"x")
    with pytest.raises(BundleError):
        open_bundle(tmp_path / "voice.onnx")


@pytest.mark.parametrize("name", ["stages/text.onnx", "stages/decoder.onnx", "voice.json"])
def test_one_changed_byte_is_found(made: Bundle, name: str) -> None:
    data = bytearray(made.file(name).read_bytes())
    data[-1] ^= 1
    made.file(name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}.* was changed"):
        open_bundle(made.path)
    assert open_bundle(made.path, verify=False) == made


def test_changed_evidence_is_found(tmp_path: Path, made: Bundle) -> None:
    def evidence(folder: Path) -> None:
        (folder / EVIDENCE).mkdir()
        (folder / EVIDENCE / "report.json").write_text('{"mos": 3}', encoding="utf-8")

    proven = made.derive(tmp_path / "proven", None, evidence)
    proven.file("evidence/report.json").write_text('{"mos": 5}', encoding="utf-8")
    with pytest.raises(BundleError, match="was changed"):
        open_bundle(proven.path)


def test_a_missing_file_is_found(made: Bundle) -> None:
    made.file("voice.json").unlink()
    with pytest.raises(BundleError, match=r"lacks its file 'voice\.json'"):
        open_bundle(made.path)


def test_a_file_that_cannot_be_read_is_a_sentence(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(module, "_sha256", unreadable)
    with pytest.raises(BundleError, match="Permission denied"):
        open_bundle(made.path)


def edit(bundle: Bundle, change: dict[str, Any]) -> None:
    data = json.loads((bundle.path / MANIFEST).read_text(encoding="utf-8"))
    (bundle.path / MANIFEST).write_text(json.dumps({**data, **change}), encoding="utf-8")


def test_a_newer_schema_says_update(made: Bundle) -> None:
    edit(made, {"schema": 99})
    with pytest.raises(BundleError, match=r"schema 99.*update Vivace"):
        open_bundle(made.path)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "5", '"x"', "\x00", "[" * 100_000])
def test_a_manifest_that_is_no_object(made: Bundle, text: str) -> None:
    (made.path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError):
        open_bundle(made.path)


def test_a_manifest_that_is_no_text(made: Bundle) -> None:
    (made.path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError):
        open_bundle(made.path)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "a/../../outside"])
@pytest.mark.parametrize("where", ["files", "evidence", "stage"])
def test_a_path_out_of_the_bundle_is_refused(made: Bundle, name: str, where: str, verify: bool) -> None:
    """Even with digests that fit: whoever sends a bundle can compute them."""
    (made.path.parent / "outside").write_text("secret", encoding="utf-8")
    forged = made
    if where == "stage":
        forged = replace(made, stages=(replace(STAGES[0], file=name), STAGES[1]))
    else:
        sha = module._sha256(Path(made.path / name)) if Path(made.path / name).is_file() else "0"
        forged = replace(made, **{where: {**getattr(made, where), name: sha}})
    forged = replace(forged, digest=module._digest(forged))
    (made.path / MANIFEST).write_text(json.dumps(module._to_json(forged)), encoding="utf-8")
    with pytest.raises(BundleError, match="outside"):
        open_bundle(made.path, verify=verify)


def test_a_stage_whose_file_the_manifest_does_not_list_is_refused(made: Bundle) -> None:
    (made.path / "unlisted.onnx").write_bytes(b"x")
    forged = replace(made, stages=(replace(STAGES[0], file="unlisted.onnx"), STAGES[1]))
    forged = replace(forged, digest=module._digest(forged))
    (made.path / MANIFEST).write_text(json.dumps(module._to_json(forged)), encoding="utf-8")
    with pytest.raises(BundleError, match=r"unlisted\.onnx"):
        open_bundle(made.path)


# --- properties ---

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
specs = st.dictionaries(
    words,
    st.builds(TensorSpec, dtype=words, shape=st.lists(st.integers(0, 99) | words, max_size=4).map(tuple)),
    max_size=2,
)
any_stage = st.builds(
    Stage,
    name=words,
    file=st.sampled_from([stage.file for stage in STAGES]),
    runtime=words,
    precision=words,
    loop=st.sampled_from(["once", "frame"]),
    inputs=specs,
    outputs=specs,
    frame_rate=numbers,
)
any_bundle = st.builds(
    Bundle,
    path=st.just(Path("unused")),
    name=words,
    family=words,
    sample_rate=st.integers(1, 192_000),
    stages=st.lists(any_stage, max_size=3).map(tuple),
    voices=st.lists(words, max_size=3).map(tuple),
    defaults=st.dictionaries(words, json_values, max_size=3),
    history=st.lists(
        st.builds(Step, words, words, st.dictionaries(words, json_values, max_size=2), words, numbers), max_size=2
    ).map(tuple),
)
in_one_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_folder
@given(any_bundle)
def test_any_bundle_survives_the_disk(tmp_path: Path, bundle: Bundle) -> None:
    written = write_bundle(tmp_path / "any", bundle, fill, overwrite=True)
    opened = open_bundle(tmp_path / "any")
    assert opened == written
    assert replace(opened, path=bundle.path, files={}, digest="") == bundle


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def mutated(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """`value` with what is at `path` replaced, or deleted where `change` is DELETE."""
    if not path:
        return change
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and change is DELETE:
        del copy[path[0]]
    else:
        copy[path[0]] = mutated(copy[path[0]], path[1:], change)
    return copy


DELETE = object()


@settings(in_one_folder, max_examples=300)
@given(st.data())
def test_a_damaged_manifest_is_an_error_or_the_same_model(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "voice"
    shutil.rmtree(folder, ignore_errors=True)
    made = write_bundle(folder, SAMPLE, fill)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    place = data.draw(st.sampled_from(places(manifest)[1:]))
    change = data.draw(st.just(DELETE) | json_values)
    (folder / MANIFEST).write_text(json.dumps(mutated(manifest, place, change)), encoding="utf-8")
    for verify in (True, False):
        try:
            opened = open_bundle(folder, verify=verify)
        except BundleError as error:
            assert "\n" not in str(error)
            continue
        # Name and history carry no meaning for the model, and so are not under the digest; their types still hold.
        assert isinstance(opened.name, str)
        assert all(isinstance(step, Step) and isinstance(step.seconds, int | float) for step in opened.history)
        if verify:
            assert replace(opened, name=made.name, history=made.history, evidence={}) == made


@settings(in_one_folder, max_examples=100)
@given(st.data())
def test_a_manifest_with_a_damaged_byte_is_never_another_exception(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "voice"
    shutil.rmtree(folder, ignore_errors=True)
    made = write_bundle(folder, SAMPLE, fill)
    raw = bytearray((folder / MANIFEST).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / MANIFEST).write_bytes(bytes(raw))
    try:
        opened = open_bundle(folder)
    except BundleError:
        return
    assert opened.digest == made.digest
