"""The page's files and headers, and the evidence of bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from server.conftest import Served, ask, serving  # noqa: E402
from vivace.core.bundle import MANIFEST, open_bundle, write_bundle  # noqa: E402
from vivace.server.service import Settings  # noqa: E402

Make = Callable[..., Path]
STATIC = Path(__import__("vivace.server", fromlist=["x"]).__file__).parent / "static"


def test_the_page_is_there_and_brings_everything_itself(served: Served) -> None:
    page = httpx.get(f"{served.url}/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    found = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert "/static/speak.js" in found
    for address in found:
        assert address.startswith("/") and httpx.get(f"{served.url}{address}").status_code == 200


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda f: f.name)
def test_files_name_no_other_host_and_write_no_markup(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|\sstyle=", text), "the policy would refuse it"


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/", "/static/..%2Fpage.py", "/static/%2e%2e/app.py", "/static/../page.py"]
)
def test_there_is_no_other_file(served: Served, path: str) -> None:
    assert httpx.get(served.url + path).status_code == 404


def test_one_variant_is_asked_by_its_name(served: Served) -> None:
    for name in ("fast", "safe"):
        assert ask(served, variant=name).headers["X-Vivace-Variant"] == name
    wrong = ask(served, variant="other")
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "variant"
    assert "known: fast, safe" in wrong.json()["error"]["message"]


@pytest.fixture
def proven(make_variant: Make, tmp_path: Path) -> Path:
    """A bundle with evidence, among it a file that is no part of a report, and one that leads elsewhere."""
    plain = open_bundle(make_variant("proven"))
    outside = tmp_path / "secret.flac"
    outside.write_bytes(b"secret")

    def fill(folder: Path) -> None:
        for name in plain.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(plain.file(name).read_bytes())
        (folder / "evidence" / "audio").mkdir(parents=True)
        (folder / "evidence" / "report.html").write_text("<script>parent</script>", encoding="utf-8")
        (folder / "evidence" / "audio" / "a.flac").write_bytes(b"fLaC")
        (folder / "evidence" / "recipe.toml").write_text("x = 1", encoding="utf-8")
        (folder / "evidence" / "out.flac").symlink_to(outside)

    return write_bundle(tmp_path / "proven", plain, fill).path


def test_evidence(make_variant: Make, proven: Path) -> None:
    with serving(Settings({"toy": [proven, make_variant("plain")]}, keys=("key",))) as served:
        assert httpx.get(f"{served.url}/v1/evidence").status_code == 401
        found = httpx.get(f"{served.url}/v1/evidence", headers={"Authorization": "Bearer key"}).json()["data"]
        assert [(e["variant"], e["url"] is None) for e in found] == [("proven", False), ("plain", True)]
        url = served.url + found[0]["url"]
        page = httpx.get(url)
        assert page.status_code == 200 and page.headers["content-security-policy"].startswith("sandbox allow-scripts;")
        assert httpx.get(url.replace("report.html", "audio/a.flac")).headers["content-type"] == "audio/flac"
        for name in ("recipe.toml", "out.flac", "..%2F" + MANIFEST, "%2E%2E%2f" + MANIFEST, "audio/b.flac", ""):
            assert httpx.get(url.replace("report.html", name)).status_code == 404, name
        base, token = url.removesuffix("/report.html").rsplit("/", 1)
        for wrong in (token[:-2] + "AA", "x", token.replace("evidence", "listener")):
            answer = httpx.get(f"{base}/{wrong}/report.html")
            assert answer.status_code == 403 and json.loads(answer.text)["error"]["message"].startswith("this link")
