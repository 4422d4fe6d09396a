from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vivace.core import registry
from vivace.core.errors import UsageError
from vivace.core.settings import Option, describe, parse
from vivace.workflows import recipe

WORDS = st.text(st.characters(codec="utf-8"), max_size=20)  # no lone surrogates: no file holds them


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
    file.write_text(
        'name = "mine"\nobjective = "size"\n[[pass]]\nname = "int8_dynamic"\nobjective = "speed"\n', encoding="utf-8"
    )
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
    assert recipe.single("int8_dynamic", {}).objective == "speed"
    assert recipe.single("weights_int8", {}).objective == "size"  # it can do nothing else
    with pytest.raises(UsageError, match="unknown setting"):
        recipe.single("int8_dynamic", {"colour": "red"})


def values(o: Option) -> st.SearchStrategy[Any]:
    """What may be written for a setting."""
    word = st.sampled_from(list(o.choices)) if o.choices else WORDS
    plain = {
        bool: st.booleans(),
        int: st.integers(0, 10**6),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: word,
        tuple: st.lists(word, max_size=3).map(tuple),
    }
    return plain[type(o.default)]


@st.composite
def entries(draw: st.DrawFn) -> recipe.Entry:
    name = draw(st.sampled_from(registry.names("passes")))
    settings = registry.load("passes", name).Settings
    known = {o.name: o for o in describe(settings)}
    chosen = draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
    try:
        parsed = parse(settings, {key: draw(values(known[key])) for key in sorted(chosen)}, name)
    except UsageError:  # a value that the pass itself refuses
        assume(False)
    return recipe.Entry(name, draw(st.sampled_from(recipe.OBJECTIVES)), parsed)


@example("\N{GRINNING FACE}\x7f", '"\\\\"', "size", list(recipe.single("weights_fp16", {}).passes))
@given(WORDS, WORDS, st.sampled_from(recipe.OBJECTIVES), st.lists(entries(), min_size=1, max_size=4))
def test_a_recipe_that_is_written_is_read_as_it_was(
    name: str, summary: str, objective: str, passes: list[recipe.Entry]
) -> None:
    made = recipe.Recipe(name, summary, objective, tuple(passes))
    assert recipe.read(recipe.to_toml(made), "written") == made


@pytest.mark.parametrize("name", recipe.names())
def test_the_shipped_recipes_survive_being_written(name: str) -> None:
    made = recipe.load(name)
    assert recipe.read(recipe.to_toml(made), name) == made


def test_settings_at_their_default_are_left_out() -> None:
    plan = recipe.single("int8_static", {"stages": ["flow"], "method": "minmax"})
    assert recipe.to_toml(plan).endswith('objective = "speed"\n[pass.settings]\nstages = ["flow"]\n')
    assert "settings" not in recipe.to_toml(recipe.single("weights_fp16", {}))
    assert plan.passes[0].changed == {"stages": ("flow",)}


def test_a_label_is_short_however_many_patterns_there_are() -> None:
    few = recipe.single("int8_static", {"stages": ["flow"], "include": ["a", "b"]}).passes[0]
    many = recipe.single("int8_static", {"stages": ["flow"], "include": ["a", "b", "c"]}).passes[0]
    assert few.label == "int8_static (stages=flow, include=a,b)"
    assert many.label == "int8_static (stages=flow, include=3 patterns)"
