"""Who may import whom: the rule of docs/architecture.md, held by reading every import statement."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import vivace

SOURCE = Path(vivace.__file__).parent
SISTERS = ("families", "modules", "text", "runtimes", "passes", "metrics")
MAY_IMPORT = {
    "core": {"core"},
    **{sister: {"core", sister} for sister in SISTERS},
    "engine": {"core", "engine"},
    "listening": {"core", "listening"},
    "workflows": {"core", "engine", "listening", "workflows"},
    "server": {"core", "engine", "listening", "server"},
    "cli": {"core", "engine", "listening", "workflows", "server", "cli"},
}
REGISTRY = ("core", "registry.py")
CORE_NEEDS = {"numpy"}  # beside the standard library
DECORATION = {"__version__"}  # what everybody may take from the package itself


def imports(path: Path, root: Path) -> set[str]:
    """Every module that the file imports, also inside functions and as text for import_module, in full dots."""
    package = (root.name, *path.relative_to(root).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) == "import_module" and node.args:
            found.update(_texts(node.args[0]))
    return found


def _texts(module: ast.expr) -> list[str]:
    """What a computed module name begins with; a name that cannot be read could be anything of Vivace."""
    if isinstance(module, ast.IfExp):
        return [*_texts(module.body), *_texts(module.orelse)]
    first = module.values[0] if isinstance(module, ast.JoinedStr) else module
    return [str(first.value) if isinstance(first, ast.Constant) else "vivace."]


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def offences(root: Path) -> list[str]:
    """Each forbidden import below `root` (a package named vivace) as a sentence."""
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).parts
        if len(place) == 1 or place == REGISTRY:
            continue  # the public verbs, and the one door through which everything is reached by name
        layer = place[0]
        for module in sorted(imports(path, root)):
            top, *inner = module.split(".")
            if top == "vivace" and inner and inner[0] not in MAY_IMPORT.get(layer, set()) | DECORATION:
                found.append(f"{'/'.join(place)} imports {module}")
            if layer == "core" and top not in sys.stdlib_module_names | CORE_NEEDS | {"vivace", "__future__"}:
                found.append(f"{'/'.join(place)} imports {module}")
    return found


def test_imports_point_downwards() -> None:
    assert offences(SOURCE) == []


def test_every_folder_has_its_rule() -> None:
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("file", "line", "caught"),
    [
        ("core/a.py", "from vivace.engine.engine import Engine", True),
        ("core/a.py", "import onnx", True),
        ("core/a.py", "import json, numpy as np", False),
        ("families/a.py", "from vivace.text.piper import tokens", True),
        ("families/a.py", "from vivace.text import piper", True),
        ("families/a.py", "from vivace import text", True),
        ("families/a.py", "import vivace.passes._onnx", True),
        ("families/a.py", "from ..metrics import _signal", True),
        ("families/a.py", "from . import _vits_graph", False),
        ("families/a.py", "from ._vits_graph import split", False),
        ("families/a.py", "from vivace.core import registry", False),
        ("families/a.py", "import onnx", False),
        ("families/a.py", "def f():\n    from vivace.engine import engine", True),
        ("families/a.py", "class A:\n    def f(self):\n        if True:\n            import vivace.cli.main", True),
        ("passes/a.py", "import importlib\nimportlib.import_module('vivace.metrics.wer')", True),
        ("passes/a.py", "import importlib\nimportlib.import_module(name)", True),
        ("passes/a.py", "from importlib import import_module\nimport_module(f'vivace.metrics.{name}')", True),
        ("engine/a.py", "from vivace.families import toy", True),
        ("engine/a.py", "from vivace.workflows import gate", True),
        ("workflows/a.py", "from vivace.engine.engine import Engine", False),
        ("workflows/a.py", "from vivace.passes import int8_static", True),
        ("workflows/deep/a.py", "from ...cli import main", True),
        ("cli/a.py", "from vivace import __version__", False),
        ("cli/a.py", "from vivace.workflows.gate import judge", False),
        ("cli/a.py", "from vivace.runtimes import onnxruntime", True),
        ("elsewhere/a.py", "from vivace.core import audio", True),
    ],
)
def test_the_check_sees_what_is_planted(tmp_path: Path, file: str, line: str, caught: bool) -> None:
    path = tmp_path / "vivace" / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n", encoding="utf-8")
    assert bool(offences(tmp_path / "vivace")) == caught


def loaded(code: str) -> set[str]:
    """The top-level modules that are loaded after the code ran in a fresh interpreter."""
    wrapped = f"import sys\n{code}\nprint('\\n' + __import__('json').dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True, check=True, encoding="utf-8")
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


HELP = "import vivace.cli.main as m\ntry:\n    m.main({argv})\nexcept SystemExit as end:\n    assert end.code == 0"


@pytest.mark.parametrize(
    "code",
    [
        "import vivace",
        HELP.format(argv=["--help"]),
        HELP.format(argv=["--version"]),
        HELP.format(argv=["say", "--help"]),
    ],
    ids=["import", "help", "version", "say help"],
)
def test_looking_around_loads_no_runtime(code: str) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "scipy", "faster_whisper", "piper", "matplotlib"}
    assert not heavy & loaded(code)


def test_importing_the_package_loads_not_even_numpy() -> None:
    assert "numpy" not in loaded("import vivace")
    assert "numpy" in loaded("import vivace.core.audio"), "the check itself"


def test_every_public_name_is_there() -> None:
    for name in vivace.__all__:
        assert getattr(vivace, name) is not None
