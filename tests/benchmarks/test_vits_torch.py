"""The table of PyTorch's passes: made of reports, with what was kept and what was refused and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import vits_torch
from passes import torch_voice
from vivace.workflows import gate, recipe
from vivace.workflows import optimize as module


def test_every_variant_is_a_recipe_with_its_minutes() -> None:
    assert set(vits_torch.WORDS) == set(vits_torch.PLANS)
    for name in vits_torch.PLANS:
        made = vits_torch.made(name, 7.0)
        assert recipe.read(recipe.to_toml(made), name) == recipe.read(recipe.to_toml(made), name)
        minutes = [getattr(entry.settings, "recover_minutes", 0.0) for entry in made.passes]
        assert max(minutes) == (7.0 if "recovered" in name else 0.0)
    assert [entry.objective for entry in vits_torch.made("int8 weights", 1).passes] == ["size"]


def test_a_table_with_a_verdict_in_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few texts, no neural metrics: the road from the passes to the page."""
    voice = torch_voice.make(tmp_path / "tiny")
    monkeypatch.setattr(vits_torch, "SHOWN", {"hiss": 2})
    settings = gate.Settings(texts=2, rounds=3, damage_texts=2)
    monkeypatch.setattr(vits_torch.gate, "Settings", lambda **kw: settings)

    def quick(*args: Any, **kw: Any) -> Any:
        return module.optimize(*args, **kw, metrics=["hiss"], latency={"short": "hello."})

    monkeypatch.setattr(vits_torch, "optimize", quick)
    page = tmp_path / "page.md"
    names = ["modules", "channels 50%", "bf16 compile"]
    asked = [*names, "--model", str(voice.path), "--work", str(tmp_path / "work"), "--page", str(page)]
    assert vits_torch.main(asked) == 0
    said = page.read_text(encoding="utf-8")
    rows = [line for line in said.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 1 + len(names)
    assert all(" kept " in row or " refused " in row for row in rows[1:])
    assert page.with_suffix(".json").is_file()
    again = said
    assert vits_torch.main(asked) == 0  # nothing is done twice
    assert page.read_text(encoding="utf-8") == again
