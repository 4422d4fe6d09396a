from __future__ import annotations

from pathlib import Path

import pytest

from vivace.core.errors import UsageError
from vivace.workflows import recipe


@pytest.mark.parametrize("name", recipe.names())
def test_every_shipped_recipe_loads(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    assert loaded.summary
    assert loaded.passes


def test_the_three_named_recipes_are_shipped() -> None:
    assert {"usual", "small", "balanced"} <= set(recipe.names())


def test_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nobjective = "size"\n[[pass]]\nname = "int8_dynamic"\nobjective = "speed"\n')
    loaded = recipe.load(str(file))
    assert loaded.objective == "size"
    assert loaded.passes[0].objective == "speed"
    assert loaded.passes[0].label == "int8_dynamic"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not toml [", "not TOML"),
        ('name = "x"', "no passes"),
        ('[[pass]]\nname = "int8_dynamik"', "did you mean 'int8_dynamic'"),
        ('[[pass]]\nname = "int8_dynamic"\n[pass.settings]\ncolour = 1', "unknown setting 'colour'"),
        ('[[pass]]\nname = "int8_dynamic"\nobjective = "beauty"', "choose from speed, size"),
        ('[[pass]]\nname = "int8_dynamic"\nsettings = 3', "must be a table"),
        ('nmae = "x"\n[[pass]]\nname = "int8_dynamic"', "unknown key 'nmae'"),
        ('pass = "int8_dynamic"', "no passes"),
    ],
)
def test_what_is_wrong_is_named(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("[", r"\[")):
        recipe.read(text, "mine")


def test_unknown_recipe_and_missing_file() -> None:
    with pytest.raises(UsageError, match=r"known: .*usual"):
        recipe.load("tiny")
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.load("nowhere.toml")


def test_a_single_pass_from_words() -> None:
    plan = recipe.single("int8_dynamic", {}, "size")
    assert plan.passes[0].objective == "size"
    with pytest.raises(UsageError, match="unknown setting"):
        recipe.single("int8_dynamic", {"colour": "red"})
