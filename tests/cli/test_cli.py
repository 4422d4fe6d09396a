"""Every verb on the toy voice, in this process: output, exit code, one-line errors, nothing half-written."""

from __future__ import annotations

import io
import json
import sys
import threading
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from vivace.cli import main as cli
from vivace.core.bundle import EVIDENCE, Step, open_bundle
from vivace.core.errors import EXIT_BUDGET_NOT_MET, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from vivace.workflows import profile
from vivace.workflows._ceiling import Ceiling


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voice")
    (folder / "toy.json").write_text(json.dumps({"toy": 1, "seed": 1, "voices": ["ann", "bob"]}), encoding="utf-8")
    assert cli.main(["import", str(folder / "toy.json"), "-o", str(folder / "bundle"), "-q"]) == EXIT_OK
    return folder / "bundle"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def as_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = EXIT_OK) -> Any:
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--json" in told
    assert len(told) > 300


def test_a_profile_with_its_trace_and_its_plot(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "ceiling", lambda *_, **__: Ceiling({"fp32": 1e6}, 1e6, 1))
    monkeypatch.setattr(profile, "peak_memory", lambda *_: (50.0, 60.0))
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.html"
    words = ["profile", str(voice), "--runs", "1", "--trace", str(trace), "--plot", str(plot)]
    told = as_json(capsys, *words)
    assert told["settings"]["batches"] == [1, 2, 4, 8]
    assert told["details"]["decode"] is None
    assert json.loads(trace.read_text(encoding="utf-8"))["otherData"]["digest"] == told["bundles"]["bundle"]
    assert "<svg" in plot.read_text(encoding="utf-8")


def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["sing"], ["say"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == EXIT_USAGE
    capsys.readouterr()


def test_import_and_info(voice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = as_json(capsys, "info", str(voice))
    assert told["family"] == "toy"
    assert told["size"] > 0
    assert cli.main(["info", str(voice)]) == EXIT_OK
    assert "Stages" in capsys.readouterr().out
    assert cli.main(["import", str(voice.with_name("toy.json")), "-o", str(voice)]) == EXIT_FAILURE
    assert "--force" in capsys.readouterr().err


def test_a_model_file_is_imported_on_the_fly(voice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = as_json(capsys, "info", str(voice.with_name("toy.json")))
    again = as_json(capsys, "info", str(voice.with_name("toy.json")))
    assert first["digest"] == again["digest"]


@pytest.mark.parametrize(("suffix", "kind"), [("wav", "WAV"), ("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3")])
def test_say_to_a_file(voice: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    out = tmp_path / f"a.{suffix}"
    assert cli.main(["say", str(voice), "one two three.", "-o", str(out), "-q"]) == EXIT_OK
    found = soundfile.info(out)
    assert found.format.startswith(kind) or kind == "MP3"
    assert found.duration > 0.1


def test_say_is_seeded_and_takes_a_voice(voice: Path, tmp_path: Path) -> None:
    def said(name: str, *words: str) -> bytes:
        assert cli.main(["say", str(voice), "one two.", "-o", str(tmp_path / name), "-q", *words]) == EXIT_OK
        return (tmp_path / name).read_bytes()

    assert said("a.wav", "--seed", "1") == said("b.wav", "--seed", "1")
    assert said("c.wav", "--seed", "2") != said("a.wav", "--seed", "1")
    assert said("d.wav", "--voice", "bob") != said("e.wav", "--voice", "ann")


class Pipe:
    """A standard output that keeps bytes."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def test_say_to_a_pipe(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, raw = Pipe(), Pipe()
    monkeypatch.setattr(sys, "stdout", whole)
    assert cli.main(["say", str(voice), "one two three.", "-o", "-", "-q"]) == EXIT_OK
    monkeypatch.setattr(sys, "stdout", raw)
    assert cli.main(["say", str(voice), "one two three.", "--raw", "-q"]) == EXIT_OK
    with wave.open(io.BytesIO(whole.buffer.getvalue())) as file:
        frames = file.readframes(file.getnframes())
        assert file.getnframes() * 2 == len(frames)  # the header's length is the true one
    assert len(frames) == len(raw.buffer.getvalue())


class Speaker:
    """Stands in for the package sounddevice. Its first write lasts until a second chunk was made."""

    class PortAudioError(Exception):
        pass

    def __init__(self, fault: str = "") -> None:
        self.heard: list[Any] = []
        self.fault, self.aborted = fault, 0
        self.second = threading.Event()

    def OutputStream(self, **settings: Any) -> Speaker:  # noqa: N802 - its name in the package
        assert settings["channels"] == 1
        return self

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, samples: Any) -> None:
        if self.fault:
            raise self.PortAudioError(self.fault)
        assert self.second.wait(10), "nothing is made while the first chunk is played"
        self.heard.append(samples)

    def abort(self) -> None:
        self.aborted += 1


def made_by_say(monkeypatch: pytest.MonkeyPatch, speaker: Speaker) -> list[Any]:
    """The pieces of audio that `say` makes, as they come; the second one lets the speaker go on."""
    from vivace.cli import say

    made: list[Any] = []
    true = say._pieces

    def pieces(*args: Any) -> Iterator[Any]:
        for audio in true(*args):
            made.append(audio)
            if len(made) == 2:
                speaker.second.set()
            yield audio

    monkeypatch.setattr(say, "_pieces", pieces)
    monkeypatch.setitem(sys.modules, "sounddevice", speaker)
    return made


def test_say_makes_the_next_chunk_while_it_plays(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker()
    made = made_by_say(monkeypatch, speaker)
    assert cli.main(["say", str(voice), "one two three. four five six.", "--play", "-q"]) == EXIT_OK
    assert len(made) > 2
    assert [len(samples) for samples in speaker.heard] == [len(audio.samples) for audio in made]


def test_say_without_a_speaker_says_so(
    voice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speaker = Speaker(fault="no device")
    made_by_say(monkeypatch, speaker)
    assert cli.main(["say", str(voice), "one two three.", "--play", "-q"]) == EXIT_FAILURE
    assert "no speaker here (no device)" in capsys.readouterr().err
    assert speaker.aborted == 1


def test_say_reads_files_and_standard_input(voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("one two.\r\nthree four.", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one two."), encoding="utf-8"))
    assert cli.main(["say", str(voice), "--file", str(tmp_path / "text.txt"), "-o", str(tmp_path / "a.wav")]) == EXIT_OK
    assert cli.main(["say", str(voice), "-", "-o", str(tmp_path / "b.wav")]) == EXIT_OK


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["say", "{v}", "one."], EXIT_USAGE, "where the speech should go"),
        (["say", "{v}", "-o", "a.wav"], EXIT_USAGE, "give the text"),
        (["say", "{v}", "one.", "-o", "a.xyz"], EXIT_USAGE, "must end in .wav"),
        (["say", "{v}", "one.", "--voice", "eve", "-o", "a.wav"], EXIT_USAGE, "unknown voice 'eve'"),
        (["say", "{v}", "~~", "-o", "a.wav"], EXIT_FAILURE, "no letter or digit"),
        (["say", "{v}", "one.", "--speed", "0", "-o", "a.wav"], EXIT_USAGE, "speed is 0.0"),
        (["say", "{v}", "--file", "gone.txt", "-o", "a.wav"], EXIT_USAGE, "gone.txt cannot be read"),
        (["say", "gone", "one.", "-o", "a.wav"], EXIT_USAGE, "gone does not exist"),
        (["import", "gone", "-o", "x"], EXIT_USAGE, "gone does not exist"),
        (["export", "gone", "-o", "x"], EXIT_USAGE, "gone does not exist"),
        (["evaluate", "gone"], EXIT_USAGE, "gone does not exist"),
        (["evaluate", "{v}", "--reference", "gone"], EXIT_USAGE, "gone does not exist"),
        (["evaluate", "{v}", "--texts", "0"], EXIT_USAGE, "--texts is 0; choose 1 to 120"),
        (["benchmark", "{v}", "gone"], EXIT_USAGE, "gone does not exist"),
        (["profile", "gone"], EXIT_USAGE, "gone does not exist"),
        (["optimize", "gone", "-o", "x", "--recipe", "usual"], EXIT_USAGE, "gone does not exist"),
        (["report", "gone"], EXIT_USAGE, "gone does not exist"),
        (["info", "."], EXIT_USAGE, "is no bundle"),
        (["info", "{v}/manifest.json"], EXIT_USAGE, "no family knows"),
        (["evaluate", "{v}", "--metrics", "cliping"], EXIT_USAGE, "did you mean 'clipping'"),
        (["benchmark", "{v}", "{v}"], EXIT_USAGE, "named twice"),
        (["benchmark", "{v}", "--rounds", "1"], EXIT_USAGE, "at least 3"),
        (["optimize", "{v}", "-o", "x", "--recipe", "tiny"], EXIT_USAGE, "unknown recipe 'tiny'"),
        (["optimize", "{v}", "-o", "x", "--pass", "int8_dinamic"], EXIT_USAGE, "did you mean 'int8_dynamic'"),
        (["optimize", "{v}", "-o", "x", "--pass", "int8_dynamic", "--set", "a=1"], EXIT_USAGE, "unknown setting 'a'"),
        (["optimize", "{v}", "-o", "x", "--pass", "int8_dynamic", "--set", "a"], EXIT_USAGE, "not key=value"),
        (["optimize", "{v}", "-o", "x", "--recipe", "usual", "--set", "a=1"], EXIT_USAGE, "belong to --pass"),
        (
            ["optimize", "{v}", "-o", "x", "--recipe", "usual", "--texts", "many"],
            EXIT_USAGE,
            "--texts is 'many'; it must be int",
        ),
        (
            ["optimize", "{v}", "-o", "x", "--recipe", "usual", "--texts", "0"],
            EXIT_USAGE,
            "--texts is 0; the gate needs",
        ),
        (
            ["optimize", "{v}", "-o", "x", "--recipe", "usual", "--mos-margin", "nan"],
            EXIT_USAGE,
            "--mos-margin is 'nan'",
        ),
        (["optimize", "{v}", "-o", "x", "--recipe", "usual", "--mos-margin", "2"], EXIT_USAGE, "--mos-margin is 2.0"),
        (["profile", "{v}", "--batches", "x"], EXIT_USAGE, "--batches"),
        (["report", "{v}"], EXIT_USAGE, "holds no evidence"),
        (["report", "gone.json"], EXIT_USAGE, "gone.json does not exist"),
        (["report", "{v}/voice.json"], EXIT_USAGE, "is no report"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    voice: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(v=voice) for word in words]) == code
    err = capsys.readouterr().err
    assert told in err
    assert err.startswith("vivace: ") and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_json(capsys, "info", "gone", code=EXIT_USAGE)
    assert told["exit_code"] == EXIT_USAGE
    assert "gone does not exist" in told["error"]


def test_one_byte_changed_is_seen(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(voice, tmp_path / "copy")
    stage = next((tmp_path / "copy" / "stages").iterdir())
    data = bytearray(stage.read_bytes())
    data[len(data) // 2] ^= 1
    stage.write_bytes(data)
    assert cli.main(["info", str(tmp_path / "copy")]) == EXIT_FAILURE
    assert "was changed" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, voice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vivace.cli import info

    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupt)
    assert cli.main(["info", str(voice)]) == EXIT_INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_json(capsys, "list")
    assert "piper" in [e["name"] for e in told["families"]]
    assert {"usual", "small", "balanced"} <= {e["name"] for e in told["recipes"]}
    for kind in ("passes", "metrics"):
        assert cli.main(["list", kind]) == EXIT_OK
    out = capsys.readouterr().out
    assert "op_types" in out
    assert "predicted_mos" in out


def test_evaluate_export_and_benchmark(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("one two three.\nfour five six.\n", encoding="utf-8")
    words = ["evaluate", str(voice), "--reference", str(voice), "--file", str(tmp_path / "texts.txt")]
    words += ["--metrics", "clipping,duration_ratio", "-o", str(tmp_path / "e.json"), "-q"]
    told = as_json(capsys, *words)
    assert {m["name"] for m in told["measurements"]} == {"clipping", "duration_ratio"}
    assert cli.main([*words[:-3], "-q"]) == EXIT_OK
    assert "95% interval" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "e.json"), "-o", str(tmp_path / "r")]) == EXIT_OK
    assert (tmp_path / "r" / "report.html").exists()
    assert as_json(capsys, "export", str(voice), "-o", str(tmp_path / "out"))["files"]
    assert cli.main(["benchmark", str(voice), "--rounds", "3", "-q"]) == EXIT_OK
    assert "RTF" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [True, False])
def test_export_says_that_nothing_was_kept(
    voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    def judged(folder: Path) -> None:
        (folder / EVIDENCE).mkdir()
        (folder / EVIDENCE / "report.json").write_text("{}", encoding="utf-8")

    step = Step("graph_cleanup", "1", {}) if kept else None
    open_bundle(voice).derive(tmp_path / "result", step, judged)
    assert cli.main(["export", str(tmp_path / "result"), "-o", str(tmp_path / "out")]) == EXIT_OK
    assert ("no pass was kept in" in capsys.readouterr().err) != kept


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_export_says_what_was_not_proven(
    voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str
) -> None:
    def judged(folder: Path) -> None:
        (folder / EVIDENCE).mkdir()
        (folder / EVIDENCE / "report.json").write_text("{}", encoding="utf-8")

    bundle = open_bundle(voice)
    stages = tuple(replace(s, runtime=runtime if s.name == "decoder" else s.runtime) for s in bundle.stages)
    bundle.derive(tmp_path / "result", Step("place", "1", {}), judged, stages=stages)
    assert cli.main(["export", str(tmp_path / "result"), "-o", str(tmp_path / "out")]) == EXIT_OK
    told = capsys.readouterr().err
    assert ("judged with its decoder in openvino; other tools" in told) == (runtime == "openvino")


def test_one_text_proves_nothing(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("one two three.\n", encoding="utf-8")
    words = ["optimize", str(voice), "-o", str(tmp_path / "o"), "--recipe", "usual", "-q"]
    assert cli.main([*words, "--evaluation", str(tmp_path / "one.txt")]) == EXIT_USAGE
    assert "there is 1 evaluation text; the gate needs at least 2" in capsys.readouterr().err


def test_optimize_and_report(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An INT8 pass on a voice this small is never faster by three: the budget is not met, whatever was kept."""
    (tmp_path / "texts.txt").write_text("one two three.\nfour five six.\nseven eight.\n", encoding="utf-8")
    words = ["optimize", str(voice), "-o", str(tmp_path / "o"), "--pass", "int8_dynamic", "--min-speedup", "50"]
    words += ["--metrics", "clipping,duration_ratio", "--evaluation", str(tmp_path / "texts.txt")]
    words += ["--rounds", "3", "--damage-texts", "2", "-q"]
    assert cli.main(words) == EXIT_BUDGET_NOT_MET
    out = capsys.readouterr().out
    assert "int8_dynamic" in out
    assert "report.html" in out
    assert cli.main(["report", str(tmp_path / "o")]) == EXIT_OK
    assert "int8_dynamic" in capsys.readouterr().out
    assert as_json(capsys, "report", str(tmp_path / "o"))["kind"] == "optimize"
    written = as_json(capsys, "report", str(tmp_path / "o"), "-o", str(tmp_path / "r"))["files"]
    assert {Path(file).name for file in written} == {"report.html", "report.md", "report.json", "audio"}
    assert (tmp_path / "r" / "audio").is_dir()
    assert cli.main(["report", str(tmp_path / "o"), "-o", str(tmp_path / "r"), "--force"]) == EXIT_OK
    assert f"plays the clips in {tmp_path / 'r' / 'audio'}: keep that folder" in capsys.readouterr().out


def test_optimize_says_that_it_goes_on(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vivace.workflows import optimize as workflow

    def interrupt(*_: object, **__: object) -> None:
        workflow.work_folder(tmp_path / "o").mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "optimize", interrupt)
    words = ["optimize", str(voice), "-o", str(tmp_path / "o"), "--recipe", "usual"]
    told = []
    for more in ([], [], ["-q"]):
        assert cli.main([*words, *more]) == EXIT_INTERRUPTED
        told.append("goes on where an earlier run stopped" in capsys.readouterr().err)
    assert told == [False, True, False]
