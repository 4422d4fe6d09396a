"""The evidence of a report for people: `report.html` (one file, nothing loaded from anywhere) and `report.md`,
beside `report.json` for programs."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from vivace.core.bundle import atomic_file
from vivace.core.errors import MissingDependency
from vivace.core.report import Report
from vivace.workflows import _report_pictures as pictures
from vivace.workflows import _report_sound as sound
from vivace.workflows._report_markdown import markdown
from vivace.workflows._report_story import outcome
from vivace.workflows._report_view import story_of, view

_LOG = logging.getLogger(__name__)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes report.json, report.md and report.html into `folder`; returns what was written.

    Clips that the report names and that lie in `folder` become part of the page. Without the extra "report"
    the page is left out and a warning is logged. Raises BundleError if a file cannot be written or a clip not read.
    """
    folder = Path(folder)
    written = {"report.json": report.to_json() + "\n", "report.md": render_markdown(report)}
    for name, text in written.items():
        atomic_file(folder / name, text.encode())
    try:
        page = render_html(report, sound.read(story_of(report), folder))
    except MissingDependency as error:
        _LOG.warning("report.html was not written: %s", error)
    else:
        written["report.html"] = page
        atomic_file(folder / "report.html", page.encode())
    return [folder / name for name in written]


def render_html(report: Report, audio: Mapping[str, bytes]) -> str:
    """The whole page. `audio` holds the encoded clips by the file names that the report uses.

    Raises MissingDependency without matplotlib and jinja2, BundleError for a clip that is no audio.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise MissingDependency("jinja2", "report") from None
    story = story_of(report)
    heard = sound.listenings(story, audio) if story else ()
    script = _data("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_data("report.html.j2")).render(
        view=view(report),
        heard=heard,
        plots=pictures.plots(report, story),
        spectrograms=pictures.spectrograms(heard, audio),
        linked=any(not clip.source.startswith("data:") for one in heard for clip in one.clips),
        style=_data("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_markdown(report: Report) -> str:
    """The words and figures of the page; needs no extra."""
    return markdown(view(report))


def verdict(details: Mapping[str, Any]) -> str:
    """The verdict of an optimization in one sentence, from the details of its report."""
    from vivace.workflows._report_story import Story

    return outcome(Story(details)).sentence


def _data(name: str) -> str:
    return (files("vivace.workflows") / "data" / name).read_text(encoding="utf-8")
