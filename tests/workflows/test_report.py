import copy
import dataclasses
import html
import importlib.util
import json
import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vivace.core.errors import BundleError, MissingDependency
from vivace.core.report import Measurement, Report
from vivace.workflows import _report_sound as sound
from vivace.workflows import report as reports
from vivace.workflows._report_markdown import text as markdown_text
from vivace.workflows._report_view import view

VOID = {"meta", "br", "input", "link", "img", "hr"}


class Page(HTMLParser):
    """A parsed page that insists on proper nesting."""

    def __init__(self, source):
        super().__init__()
        self.stack, self.tags, self.words, self.script, self.style = [], [], [], "", ""
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        inside = self.stack[-1] if self.stack else ""
        if inside == "script":
            self.script += data
        elif inside == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def sample():
    """The module `report_sample.py`: a whole optimize report and its clips."""
    spec = importlib.util.spec_from_file_location("report_sample", Path(__file__).with_name("report_sample.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def optimized(sample):
    return sample.report()


@pytest.fixture(scope="module")
def audio(sample):
    return sample.audio()


@pytest.fixture(scope="module")
def source(optimized, audio):
    return reports.render_html(optimized, audio)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def changed(report, **details):
    return dataclasses.replace(report, details={**report.details, **details})


def test_the_page_says_the_verdict_first_with_its_figures(page):
    verdict = (
        "3 of 5 passes kept: size 63.2 → 21.5 MB, 1.74× as fast at 1 thread (1.72 to 1.76×, all texts), "
        "predicted MOS 4.21 → 4.16 (4.10 to 4.22), word error rate 5.0% → 4.5% (2.7 to 6.3%); "
        "the budget asked for (at least 1.4× as fast and at most 22 MB) is met."
    )
    assert verdict in page.text
    assert page.text.index("Budget met") < page.text.index(verdict) < page.text.index("Original against final")


def test_the_page_loads_nothing(source, page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value[:80])
    assert "@import" not in page.style and "url(" not in page.style
    assert not page.all("link") and not page.all("iframe")
    assert set(re.findall(r"https?://[^\"'\s<]+", source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    policy = page.all("meta")[2]["content"]
    assert policy.startswith("default-src 'none'") and "unsafe-inline'; script" in policy


def test_markup_in_texts_stays_text(source, page, sample):
    assert sample.MARKUP not in source and html.escape(sample.MARKUP, quote=False) in source.replace("&#34;", '"')
    assert "<b>seven" not in source and "The lighthouse keeper counted <b>seven</b> ships & one boat." in page.text
    assert len(page.all("script")) == 1


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [a["href"][1:] for a in page.all("a")]
    wanted += [a[side] for a in page.all("div") if a.get("class") == "ab" for side in ("data-a", "data-b")]
    wanted += [a["xlink:href"][1:] for a in page.all("use")]
    assert wanted and set(wanted) <= set(ids)


def test_the_page_can_be_read_without_seeing_it(page):
    assert len(page.all("h1")) == 1 and page.all("html") == [{"lang": "en"}]
    assert len(page.all("caption")) == len(page.all("table")) > 15
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in page.all("th"))
    plots = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(plots) == 6 and all(len(a["aria-label"]) > 20 for a in plots)
    assert all("aria-label" in clip for clip in page.all("audio"))
    assert any("63.2" in a["aria-label"] and "4.16" in a["aria-label"] for a in plots)


def test_every_variant_and_trial_is_named_with_its_reasons(optimized, page):
    markdown = reports.render_markdown(optimized)
    for variant in optimized.details["variants"]:
        assert variant["label"] in page.text and variant["label"] in markdown
    for trial in optimized.details["trials"]:
        for reason in trial["reasons"]:
            assert reason in page.text and markdown_text(reason) in markdown
        assert f"{trial['pass']}" in markdown
    assert page.text.count("✕ refused") >= 2 and markdown.count(": refused") == 2 and markdown.count(": kept") == 3


def test_page_and_markdown_hold_the_same_figures(optimized, page):
    markdown = reports.render_markdown(optimized)
    shown = view(optimized)
    tables = [*shown.comparison, *shown.proofs, shown.variants, shown.attribution, *shown.measurements]
    tables += [shown.machine, shown.settings, *(t for trial in shown.trials for t in trial.tables)]
    for table in tables:
        assert markdown_text(table.caption) in markdown
        for cell in (cell for row in table.rows for cell in row):
            for words in filter(None, (cell.text, cell.note)):
                assert " ".join(words.split()) in page.text
                assert markdown_text(words) in markdown


def test_what_was_the_optimizers_is_told(optimized):
    assert view(optimized).sizes is None
    first, last = (optimized.details["variants"][k]["size_mb"] for k in (0, 5))
    imported = {"file_mb": 200.0, "optimizer_mb": 130.0}
    told = dataclasses.replace(optimized, details={**optimized.details, "imported": imported})
    sizes = view(told).sizes
    assert [row[1].text for row in sizes.rows] == ["200.0", "70.0", f"{first:.1f}", f"{last:.1f}"]
    assert [row[2].text for row in sizes.rows][:2] == ["–", "0.35×"]
    markdown = reports.render_markdown(told)
    assert sizes.caption in markdown and "optimizer's state" in markdown
    assert sizes.caption in Page(reports.render_html(told, {})).text


def test_a_score_is_always_called_predicted(optimized, page):
    for words in (page.text, reports.render_markdown(optimized)):
        alone = [m.start() for m in re.finditer(r"\bMOS\b", words)]
        assert alone and all(words[at - 10 : at].lower() == "predicted " for at in alone)
        assert "DistillMOS (Stahl and Gamper, ICASSP 2025), weights variant 7" in words


def test_words_of_a_voice_are_not_explained_to_a_classifier(optimized):
    explained = dict(view(optimized).glossary)
    assert {"Predicted MOS", "Word error rate (WER)", "RTF"} <= set(explained)
    found = Measurement("accuracy", 0.92, "share", "up", 400)
    details = {k: v for k, v in optimized.details.items() if k not in ("variants", "trials")}
    plain = dict(view(dataclasses.replace(optimized, measurements=(found,), details=details)).glossary)
    assert set(explained) - set(plain) == {"Predicted MOS", "Word error rate (WER)"}


def test_pairs_to_compare_are_the_original_and_the_final(page, audio):
    clips = {a["id"]: a["src"] for a in page.all("audio")}
    assert len(clips) == len(audio) == 18
    pairs = [a for a in page.all("div") if a.get("class") == "ab"]
    for k, pair in enumerate(pairs):
        for side, variant in (("data-a", 0), ("data-b", 5)):
            assert clips[pair[side]] == sound._sources([f"audio/v{variant}-{k}.flac"], audio).popitem()[1]
    assert len(pairs) == 3


def test_the_page_stays_small(source):
    assert 500_000 < len(source) < 6_000_000


def test_write_report_leaves_three_files_and_reads_the_clips(optimized, audio, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "v0-0.flac").write_bytes(audio["audio/v0-0.flac"])
    written = reports.write_report(optimized, tmp_path)
    assert [p.name for p in written] == ["report.json", "report.md", "report.html"]
    assert Report.from_json(written[0].read_text(encoding="utf-8")) == Report.from_json(optimized.to_json())
    assert json.loads(written[0].read_text(encoding="utf-8"))["details"]["final"] == "v5"
    assert written[1].read_text(encoding="utf-8") == reports.render_markdown(optimized)
    page = Page(written[2].read_text(encoding="utf-8"))
    assert len(page.all("audio")) == 1 and page.all("audio")[0]["src"].startswith("data:audio/flac;base64,")


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_the_page_is_left_out_with_a_warning(optimized, tmp_path, monkeypatch, caplog, missing):
    for name in [n for n in sys.modules if n.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependency, match=rf"{missing} is not installed; run: pip install 'vivace\[report\]'"):
        reports.render_html(optimized, {})
    written = reports.write_report(optimized, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert [p.name for p in written] == ["report.json", "report.md"]
    assert "report.html was not written" in caplog.text and "vivace[report]" in caplog.text


def test_a_clip_outside_the_folder_is_refused(optimized, tmp_path):
    variants = copy.deepcopy(optimized.details["variants"])
    variants[0]["clips"][0]["file"] = "../secret.flac"
    with pytest.raises(BundleError, match="outside its folder"):
        reports.write_report(changed(optimized, variants=variants), tmp_path)


@pytest.mark.parametrize(
    ("details", "word"),
    [
        ({}, "Budget met"),
        ({"budget_met": False}, "Budget missed"),
        ({"budget": {}}, "Improved"),
        ({"budget": {}, "trials": []}, "Nothing kept"),
    ],
)
def test_the_outcome_is_worded(optimized, details, word):
    assert f"**{word}.**" in reports.render_markdown(changed(optimized, **details))


def test_what_stood_in_the_way_is_told_where_a_budget_is_missed(optimized):
    told = "Budget not met: 1.3x is below the asked 1.4x."
    assert told not in reports.render_markdown(changed(optimized, verdict=told))
    assert told in reports.render_markdown(changed(optimized, verdict=told, budget_met=False))


def test_verdict_equals_the_sentence_of_the_report(optimized):
    assert markdown_text(reports.verdict(optimized.details)) in reports.render_markdown(optimized)


def test_a_gate_that_let_damage_through_is_cautioned_about(optimized):
    assert "Caution" not in reports.render_markdown(optimized)
    proofs = [{**proof, "refused": k > 0} for k, proof in enumerate(optimized.details["sensitivity"])]
    told = reports.render_markdown(changed(optimized, sensitivity=proofs))
    assert "Caution: The gate did not refuse 1 of 4 deliberate damages: white noise, 30 dB below speech." in told
    assert "Caution: The machine was busy: 31%" in reports.render_markdown(changed(optimized, waited_share=0.31))
    floor = [{"metric": "wer", "difference": {"value": 0.0, "low": -0.02, "high": 0.02, "n": 9}, "margin": 0.01}]
    told = reports.render_markdown(changed(optimized, noise_floor=floor))
    assert "Caution: Word error rate: another seed alone may differ by more than the margin." in told


def test_where_nothing_was_kept_the_original_stands_alone(optimized, audio):
    variants = [{**v, "kept": k == 0} for k, v in enumerate(optimized.details["variants"])]
    trials = [{**t, "kept": False} for t in optimized.details["trials"]]
    report = changed(optimized, variants=variants, trials=trials, final="v0", budget_met=False)
    page = Page(reports.render_html(report, {k: v for k, v in audio.items() if k.endswith("-0.flac")}))
    assert "0 of 5 passes kept: size 63.2 MB, predicted MOS 4.21" in page.text
    assert "Final ÷ original" not in page.text and not [a for a in page.all("div") if a.get("class") == "ab"]
    assert len(page.all("audio")) == 6


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"variants": [], "trials": []},
        {"variants": [{"id": "v0"}], "trials": [{"pass": "int8"}]},
        {"variants": [{"id": "v0", "size_mb": 3.0, "kept": True}, {"id": "v1", "size_mb": 2.0, "kept": True}]},
        {
            "variants": [{"id": "v0", "scores": {"wer": None}}],
            "sensitivity": [{"damage": "hiss"}],
            "margins": {"x": {}},
        },
    ],
)
def test_reports_with_little_in_them_are_shown(details):
    report = Report("optimize", (), details=details)
    Page(reports.render_html(report, {}))
    assert reports.render_markdown(report).startswith("# Vivace optimize report\n")


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(20))
def test_any_missing_value_is_survived(optimized, seed, share):
    chance = random.Random(seed)

    def thinned(value):
        if isinstance(value, dict):
            kept = {key: v for key, v in value.items() if chance.random() > share / 2}
            return {key: None if chance.random() < share / 2 else thinned(v) for key, v in kept.items()}
        return [thinned(v) for v in value] if isinstance(value, list) else value

    details = thinned(optimized.details)
    assert reports.render_markdown(Report("optimize", (), details=details))
    if seed % 7 == 0:
        Page(reports.render_html(Report("optimize", (), details=details), {}))


def test_a_benchmark_shows_its_arms_side_by_side():
    on = "medium text (50 characters), 1 threads"
    measurements = tuple(
        Measurement(f"{arm}/{name}", value * factor, unit, "down", 15, low, high, scope)
        for arm, factor in (("original", 1.0), ("small & fast", 0.5))
        for name, value, unit, low, high, scope in (
            ("size", 60.0, "MB", None, None, ""),
            ("latency_p50", 225.0, "ms", None, None, on),
            ("latency_p95", 240.0, "ms", None, None, on),
            ("speedup", 1.0, "x", 0.5, 1.5, on),
        )
    )
    report = Report("benchmark", measurements[:-1], settings={"threads": 1, "yardstick": "original"})
    page = Page(reports.render_html(report, {}))
    assert "small & fast" in page.text and "Measurements" in page.text
    assert [a["aria-label"] for a in page.all("svg") if "role" in a] == [
        f"Median latency: original 225 ms ({on}), small & fast 112 ms ({on})"
    ]
    markdown = reports.render_markdown(report)
    assert "| Latency p50, ms ↓ | 225 | 112 |" in markdown
    assert "| Speedup ↓ | 1.00× (0.50 to 1.50×) | – |" in markdown


def test_an_evaluation_shows_every_text():
    texts = ["<i>one</i>", "two | three"]
    report = Report(
        "evaluate",
        (
            Measurement("predicted_mos", 4.2, "predicted MOS", "up", 2, 4.0, 4.4, "2 sentences"),
            Measurement("pace", 2.0, "s"),
        ),
        bundles={"bundle": "a" * 64},
        details={
            "texts": texts,
            "scores": {"predicted_mos": [4.1, 4.3], "wer": [0.0, 0.25]},
            "skipped": ["mel_distance"],
            "rows": [{"a": 1, "b": "x"}, {"a": 2.5, "c": {"d": None}}],
            "by_name": {"one": {"x": True}},
        },
    )
    page = Page(reports.render_html(report, {}))
    for words in ("<i>one</i>", "4.00 to 4.40", "25.0%", "2 sentences", "mel_distance", "d = –", "By name", "yes"):
        assert words in page.text
    markdown = reports.render_markdown(report)
    assert "| &lt;i&gt;one&lt;/i&gt; | 4.10 | 0.0% |" in markdown and "| two \\| three | 4.30 | 25.0% |" in markdown


def test_long_lists_are_cut_and_say_so():
    report = Report("profile", (), details={"operators": [{"name": f"op{k}", "ms": k} for k in range(600)]})
    markdown = reports.render_markdown(report)
    assert "(the first 500 of 600; report.json has all)" in markdown and "op499" in markdown and "op500" not in markdown
