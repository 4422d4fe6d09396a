"""The whole report as words and tables, in the order they are read. HTML and Markdown draw the same view."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vivace.core.report import Report
from vivace.workflows import _report_compare as compare
from vivace.workflows import _report_gate as gate
from vivace.workflows import _report_generic as generic
from vivace.workflows import _report_listening as people
from vivace.workflows import _report_search as search
from vivace.workflows._report_story import Outcome, Story, outcome
from vivace.workflows._report_tables import Table, label, number, plain

PREDICTOR = "DistillMOS (Stahl and Gamper, ICASSP 2025), weights variant 7"

GLOSSARY = (
    ("RTF", "real-time factor: seconds of computing for each second of speech; below 1 is faster than speech."),
    ("TTFA", "time to first audio: from the request to the first samples when speech is streamed."),
    ("p50, p95", "the latency that half, and 95 in 100, of the runs stay within."),
    (
        "Predicted MOS",
        f"mean opinion score as predicted by {PREDICTOR}, from 1 (bad) to 5 (excellent). A neural prediction: "
        "no listener was asked. It over-rates buzzy voices and does not hear that words are missing, so other metrics "
        "guard beside it.",
    ),
    ("Word error rate (WER)", "share of words that a speech recognizer got wrong; a guard, hardly a quality measure."),
    ("Ratio, ×", "for speed: the old time divided by the new; 2× takes half the time."),
    ("Interval", "figures in smaller type are 95% intervals; differences are paired by text."),
    ("Margin", "how much worse a pass may be; it is refused where the interval of the difference reaches beyond."),
    ("Noise floor", "how far the same model differs from itself when only the seed of its noise changes."),
    ("↑ ↓", "higher is better, lower is better."),
)
_SCORED = {"Predicted MOS": "predicted_mos", "Word error rate (WER)": "wer"}  # explained where a report has the score
# The keys of an optimize report's details that have a section of their own.
_SECTIONS = {"command", "texts", "recipe", "budget", "margins", "variants", "trials", "noise_floor", "sensitivity"}
_SECTIONS |= {"attribution", "imported", "budget_met", "verdict", "seconds", "resumed", "final", "search"}


@dataclass(frozen=True)
class View:
    """Everything a report shows, apart from plots and sound. A part that a report has no data for is empty."""

    title: str
    created: str
    command: str
    details: tuple[Table, ...]
    measurements: tuple[Table, ...]
    machine: Table | None
    settings: Table | None
    facts: tuple[tuple[str, str], ...] = ()
    outcome: Outcome | None = None
    comparison: tuple[Table, ...] = ()
    trials: tuple[gate.Trial, ...] = ()
    trials_title: str = "Passes, in the order they were tried"
    trials_lead: str = "Each pass was measured against what had been kept before it."
    search: tuple[Table, ...] = ()
    search_lead: str = ""
    variants: Table | None = None
    listeners: Table | None = None
    listeners_lead: str = ""
    attribution: Table | None = None
    sizes: Table | None = None
    proofs: tuple[Table, ...] = ()
    glossary: tuple[tuple[str, str], ...] = ()


def view(report: Report) -> View:
    """The view of any report; the sections of an optimization where the details have its shape."""
    story = story_of(report)
    shown = {*(_SECTIONS if story else {"command"}), "listening"}
    plainly = View(
        title=f"Vivace {report.kind} report",
        created=_date(report.created),
        command=str(report.details.get("command") or ""),
        details=generic.details({k: v for k, v in report.details.items() if k not in shown}),
        measurements=generic.measurements(report),
        machine=generic.machine(report),
        settings=generic.settings(report),
        listeners=people.listeners(report.details),
        listeners_lead=people.lead(report.details),
        glossary=_glossary(report, story),
    )
    if story is None:
        return plainly
    proofs = (gate.sensitivity(story), gate.noise_floor(story), gate.margins(story))
    if story.searched:
        plainly = replace(
            plainly,
            trials_title="Candidates, in the order they were judged",
            trials_lead="Each was judged against the original; the first that passed was kept.",
            search=search.tables(story.details),
            search_lead=search.lead(story.details),
        )
    return replace(
        plainly,
        facts=_facts(story),
        outcome=outcome(story),
        comparison=compare.comparison(story),
        trials=gate.trials(story),
        variants=compare.variants(story),
        attribution=compare.attribution(story),
        sizes=compare.sizes(story),
        proofs=tuple(t for t in proofs if t),
    )


def _glossary(report: Report, story: Story | None) -> tuple[tuple[str, str], ...]:
    measured = {m.name.rpartition("/")[2] for m in report.measurements} | set(story.metrics if story else ())
    return tuple(entry for entry in GLOSSARY if _SCORED.get(entry[0]) in (None, *measured))


def story_of(report: Report) -> Story | None:
    """The story of an optimize report; None for any other kind, or where nothing was tried."""
    told = report.kind == "optimize" and (report.details.get("variants") or report.details.get("trials"))
    return Story(report.details) if told else None


def _facts(story: Story) -> tuple[tuple[str, str], ...]:
    details = story.details
    recipe, texts = details.get("recipe") or {}, details.get("texts") or {}
    facts = []
    if recipe.get("name"):
        summary = f": {recipe['summary']}" if recipe.get("summary") else ""
        facts.append(("Recipe", f"{recipe['name']}{summary}"))
    if recipe.get("objective"):
        facts.append(("Objective", plain(recipe["objective"])))
    if texts.get("evaluation") is not None:
        facts.append(("Evaluation texts", f"{texts['evaluation']} ({texts.get('source') or 'unnamed source'})"))
    if story.metrics:
        facts.append(("Metrics", ", ".join(label(m) for m in story.metrics)))
    if details.get("seconds") is not None:
        part = " (it went on with the work of an earlier run)" if details.get("resumed") else ""
        facts.append(("Time taken", _duration(details["seconds"]) + part))
    return tuple(facts)


def _duration(seconds: float) -> str:
    return f"{number(seconds, 0)} s" if seconds < 120 else f"{number(seconds / 60, 0)} min"


def _date(created: str) -> str:
    """An ISO time without what nobody reads."""
    return created.replace("T", " ").replace("+00:00", " UTC")
