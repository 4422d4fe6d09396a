"""The documentation is true: its Python blocks run, its links lead somewhere.

A comment on the line before a block says what is special: `<!-- not run -->`, `<!-- voice -->` (needs the real voice),
or `<!-- file: families/tune.py -->` (an extension, registered for the blocks that follow on the page).
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vivace.core import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("code")) + 1, found["mark"] or "", found["code"])
        for found in BLOCK.finditer(text)
    ]


def runnable() -> Iterator[object]:
    for page in PAGES:
        files: list[Block] = []
        for block in blocks(page):
            if block.mark == "not run":
                continue
            marks = [pytest.mark.voice] if block.mark == "voice" else []
            yield pytest.param(block, tuple(files), id=str(block), marks=marks)
            if block.mark.startswith("file: "):
                files.append(block)


def run(block: Block, name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    padding = "\n" * (block.line - 1)  # so that tracebacks name the line of the page
    exec(compile(padding + block.code, str(block.page), "exec"), vars(module))
    return module


def clear_registry() -> None:
    for cached in (registry.load, registry._third_party):
        cached.cache_clear()


@pytest.mark.parametrize(("block", "files"), runnable())
def test_a_block_runs(block: Block, files: tuple[Block, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    points: dict[str, list[EntryPoint]] = {}
    for number, file in enumerate(files):
        kind, name = file.mark.removeprefix("file: ").removesuffix(".py").split("/")
        run(file, f"docs_extension_{number}", monkeypatch)
        group = f"vivace.{kind}"
        points.setdefault(group, []).append(EntryPoint(name, f"docs_extension_{number}", group))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.get(group, []))
    clear_registry()
    try:
        run(block, "docs_block", monkeypatch)
    finally:
        monkeypatch.undo()
        clear_registry()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    targets = [t.partition("#")[0] for t in LINK.findall(text) if not re.match(r"[a-z]+:", t)]
    assert [t for t in targets if t and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_comment_before_a_block_is_understood(page: Path) -> None:
    for block in blocks(page):
        known = block.mark in ("", "not run", "voice") or re.fullmatch(r"file: [a-z]+/[a-z_0-9]+\.py", block.mark)
        assert known, f"{block}: {block.mark}"


def test_there_are_blocks_to_run() -> None:
    """Else a change of the pattern above would turn all of this off."""
    assert len(list(runnable())) >= 5


def test_a_wrong_block_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nassert x == 2\n```\n", encoding="utf-8")
    (block,) = blocks(page)
    assert (block.line, block.mark) == (4, "")
    with pytest.raises(AssertionError):
        run(block, "docs_block", monkeypatch)
