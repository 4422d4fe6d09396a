"""The table of PyTorch's passes: made of reports, with what was kept and what was refused and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vits_torch
from vivace.core.bundle import Bundle
from vivace.core.report import Report
from vivace.workflows import recipe

MACHINE = {"cpu": "a CPU", "flags": ["avx2"], "cores": 2, "memory_gb": 8, "python": "3.11"}


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def variant(size: float, speed: float | None) -> dict[str, Any]:
    scores = {name: interval(3.0) for name in vits_torch.SHOWN}
    return {"size_mb": size, "overall": None if speed is None else interval(speed), "scores": scores}


def report(trials: list[dict[str, Any]], applied: int) -> Report:
    details: dict[str, Any] = {"noise_floor": [], "sensitivity": [], "verdict": "said"}
    details |= {"variants": [variant(63.2, None), *[variant(40.0, 1.5)] * applied], "trials": trials}
    packages = {"packages": {"torch": "2.13", "onnxruntime": "1.31"}}
    settings = {"threads": 1, "rounds": 3, "texts": 4, "mos_margin": 0.05}
    return Report("optimize", (), {}, {**MACHINE, **packages}, settings, details, created="2026-01-02T03:04")


def test_every_variant_is_a_recipe_with_its_minutes() -> None:
    assert set(vits_torch.WORDS) == set(vits_torch.PLANS)
    folders = {vits_torch._folder(Path(), name, 7.0) for name in vits_torch.PLANS}
    assert len(folders) == len(vits_torch.PLANS)
    for name in vits_torch.PLANS:
        made = vits_torch.made(name, 7.0)
        assert recipe.read(recipe.to_toml(made), name).passes == made.passes
        minutes = [getattr(entry.settings, "recover_minutes", 0.0) for entry in made.passes]
        assert max(minutes) == (7.0 if "recovered" in name else 0.0)
    assert [entry.objective for entry in vits_torch.made("int8 weights", 1).passes] == ["size"]


def test_a_row_for_each_variant_kept_refused_or_not_applied() -> None:
    kept = {"label": "bf16", "kept": True, "reasons": []}
    worse = {"label": "compile (stages=flow)", "kept": False, "reasons": ["not faster: 0.9x", "worse"]}
    failed = {"label": "bf16", "kept": False, "reasons": ["could not be applied: no bf16 here"]}
    reports = {
        "bf16": report([kept], 1),
        "bf16 compile": report([kept, worse], 2),
        "compile": report([failed], 0),
    }
    said = vits_torch.page(reports, dict.fromkeys(reports, 30.0), 60)
    rows = [line for line in said.splitlines() if line.startswith("| ")][2:]
    assert rows[0].startswith("| the original, ONNX Runtime fp32 | 63.2 |  | 1 | 3.00 [2.90, 3.10] |")
    assert "| 40.0 | 30.0 | 1.50 [1.40, 1.60] |" in rows[1]
    assert rows[1].endswith("| kept | faster or smaller, and not worse |")
    assert rows[2].endswith("| refused | compile: not faster: 0.9x; compile: worse |")
    assert "|  |  |  |  |  |  | refused | bf16: could not be applied: no bf16 here |" in rows[3]


def test_what_is_there_is_not_made_again(toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def optimize(bundle: Bundle, out: Path, plan: recipe.Recipe, *args: Any, **kw: Any) -> None:
        made.append(plan.name)
        found = report([{"label": plan.name, "kept": True, "reasons": []}], 1)
        (out / "evidence").mkdir(parents=True)
        (out / "evidence" / "report.json").write_text(found.to_json(), encoding="utf-8")
        shutil.copytree(bundle.path, out.with_name(f".{out.name}.work") / "01-child")

    monkeypatch.setattr(vits_torch, "optimize", optimize)
    page = tmp_path / "page.md"
    asked = ["modules", "channels 50% recovered", "--model", str(toy.path), "--work", str(tmp_path / "work")]
    for _ in range(2):
        assert vits_torch.main([*asked, "--page", str(page), "--recover-minutes", "5"]) == 0
    assert made == ["modules", "channels-50-recovered"]
    figures = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(figures) == {"modules", "channels 50% recovered"}
    assert 0 < figures["modules"]["gzip_mb"] < toy.size / 1e6
    assert "Recovery: 5 minutes each" in page.read_text(encoding="utf-8")
