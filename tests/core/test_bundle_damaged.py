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

from core.bundle_maker import SAMPLE, STAGES, fill
from vivace.core import bundle as module
from vivace.core.bundle import (
    EVIDENCE,
    MANIFEST,
    Bundle,
    Step,
    open_bundle,
    write_bundle,
)
from vivace.core.errors import BundleError
from vivace.core.stage import Stage, TensorSpec


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
    options=st.dictionaries(words, json_values, max_size=2),
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
