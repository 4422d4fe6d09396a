from __future__ import annotations

from xml.etree import ElementTree

import pytest

from vivace.core.errors import UsageError
from vivace.core.report import Report
from vivace.workflows import profile as workflow
from vivace.workflows._ceiling import Ceiling
from vivace.workflows._profile_plots import plot


@pytest.fixture(params=[1, 6])
def report(tiny, monkeypatch, request):
    """With and without intervals."""
    monkeypatch.setattr(workflow, "ceiling", lambda *_, **__: Ceiling({"fp32": 1e6, "int8": 4e6}, 1e6, 1))
    monkeypatch.setattr(workflow, "peak_memory", lambda *_: (50.0, 60.0))
    texts = {"a<b": "a.", "medium": "medium $x$.", "long": "a long text."}
    return workflow.profile(tiny, texts=texts, batches=(1, 2), runs=request.param)


def test_the_page_stands_alone_and_holds_the_findings(report, tmp_path):
    plot(report, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert report.details["batching"] in page
    assert page.count("<li>") == 3
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "<script" not in page
    for words in ("Roofline", "Time by part", "Latency against text length", "Throughput against batch size"):
        assert words in page


def test_a_model_that_makes_its_frames_step_by_step_has_two_pictures_more(fast_steps, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "ceiling", lambda *_, **__: Ceiling({"fp32": 1e6}, 1e6, 1))
    monkeypatch.setattr(workflow, "peak_memory", lambda *_: (50.0, 60.0))
    report = workflow.profile(fast_steps, texts={"a<b": "a.", "medium": "words."}, batches=(1, 2), runs=6)
    plot(report, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    for words in ("A step of decode against the frames before it", "ms every 100 frames", "Latency against throughput"):
        assert words in page
    for row in report.details["decode"]["by_prefix"]:
        row.update(low=None, high=None)  # as after too few readings
    plot(report, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 5000


def test_pictures_are_valid_files(report, tmp_path):
    plot(report, tmp_path / "p.svg")
    root = ElementTree.fromstring((tmp_path / "p.svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    plot(report, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_read_from_a_file_draws_too(report, tmp_path):
    plot(Report.from_json(report.to_json()), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 5000


def test_other_suffixes_and_reports_are_refused(report, tmp_path):
    with pytest.raises(UsageError, match=r"\.html, \.svg or \.png"):
        plot(report, tmp_path / "p.pdf")
    with pytest.raises(UsageError, match="not of profile"):
        plot(Report("benchmark", ()), tmp_path / "p.svg")
