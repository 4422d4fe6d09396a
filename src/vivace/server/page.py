"""What people open in a browser: the page at `/`, the listening tests, and the evidence of each variant.

Plain files without a build step; nothing is fetched from another host, and the policy in every header says so.
"""

from __future__ import annotations

import base64
import hashlib
import time
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from vivace.core.bundle import EVIDENCE, Bundle, open_bundle
from vivace.core.errors import BundleError
from vivace.listening.links import LinkRefused, sign, verify
from vivace.server.service import Service, Settings
from vivace.server.wire import PROBLEMS, ApiError

router, assets = APIRouter(), APIRouter()
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report comes out of a bundle, and a bundle from anybody: in a sandbox it has no origin, so no key and no API.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data: 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
REPORT_TYPES = {".html": "text/html; charset=utf-8", ".flac": "audio/flac", ".wav": "audio/wav"}
PAGES = {"/": "index.html", "/listen": "listen.html", "/listen/results": "results.html"}
HOURS = 12  # that a link to evidence lasts


def page(name: str) -> Response:
    """A file of the page. Raises ApiError for one that there is not."""
    known = {entry.name: entry for entry in (files("vivace.server") / "static").iterdir()}
    kind = TYPES.get(PurePosixPath(name).suffix)
    if kind is None or name not in known:
        raise ApiError(404, "there is no such page")
    headers = HEADERS | {"Content-Security-Policy": POLICY}
    return Response(known[name].read_bytes(), media_type=f"{kind}; charset=utf-8", headers=headers)


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def index() -> Response:
    return page(PAGES["/"])


@assets.get("/static/{name}", include_in_schema=False)
def static(name: str) -> Response:
    return page(name)


@router.get("/v1/evidence", responses=PROBLEMS)
def evidence(request: Request) -> dict[str, Any]:
    """For each variant where its evidence can be seen (a link for some hours), and what it was made by; the link is
    null where `vivace optimize` has left none."""
    service: Service = request.app.state.service
    found = []
    for name, paths in service.settings.models.items():
        for path in paths:
            bundle = open_bundle(path, verify=False)
            token = _token(service.settings, name, path.name)
            there = (path / EVIDENCE / "report.html").is_file()
            found.append({
                "model": name, "variant": path.name,
                "megabytes": round(bundle.size / 1e6, 1 if bundle.size > 1e6 else 2), "sample_rate": bundle.sample_rate,
                "passes": [step.name for step in bundle.history],
                "url": f"/evidence/{token}/report.html" if there else None,
            })  # fmt: skip
    return {"data": found}


@router.get("/evidence/{token}/{name:path}", include_in_schema=False)
def report(token: str, name: str, request: Request) -> Response:
    """The page of a bundle's evidence, and its clips: files that its manifest names, and no others."""
    settings = request.app.state.service.settings
    try:
        subject = verify(_secret(settings), token, "evidence", time.time()).subject
    except LinkRefused as error:
        raise ApiError(403, str(error)) from None
    path = next(
        (p for model, paths in settings.models.items() for p in paths if _subject(model, p.name) == subject), None
    )
    file = _named(open_bundle(path, verify=False), name) if path else None
    kind = REPORT_TYPES.get(file.suffix) if file else None
    if file is None or kind is None:
        raise ApiError(404, "there is no such evidence")
    return FileResponse(file, media_type=kind, headers=HEADERS | {"Content-Security-Policy": REPORT_POLICY})


def _named(bundle: Bundle, name: str) -> Path | None:
    entry = f"{EVIDENCE}/{name}"
    if entry not in bundle.evidence:
        return None
    file = bundle.file(entry)
    try:
        inside = file.resolve(strict=True).is_relative_to((bundle.path / EVIDENCE).resolve(strict=True))
    except OSError:
        raise BundleError(f"{bundle.path} lacks its file {entry!r}; copy it again") from None
    return file if inside else None


def _token(settings: Settings, model: str, variant: str) -> str:
    return sign(_secret(settings), "evidence", _subject(model, variant), time.time() + 3600 * HOURS)


def _subject(model: str, variant: str) -> str:
    return hashlib.sha256(f"{model}\0{variant}".encode()).hexdigest()[:32]


_SECRETS: dict[tuple[str, ...], bytes] = {}


def _secret(settings: Settings) -> bytes:
    """From the keys, so that several processes with the same keys take each other's links; slow (scrypt), so that no
    link helps to guess a key. Without keys everybody may have such a link."""
    if settings.keys not in _SECRETS:
        keys = base64.b64encode("\0".join(settings.keys).encode())
        _SECRETS[settings.keys] = hashlib.scrypt(keys, salt=b"vivace evidence", n=2**14, r=8, p=1)
    return _SECRETS[settings.keys]
