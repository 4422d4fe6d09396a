"""Teaches a decoder with fewer operations to make the samples that a voice's own decoder makes, and puts it in place.

The rest of the voice stays as it is, so what comes out is a voice of the same family that any tool loads.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, Step, atomic_file
from vivace.core.contracts import Progress
from vivace.core.errors import MissingDependency, ModelError, TextError, UsageError
from vivace.core.machine import cores
from vivace.core.settings import flag, option
from vivace.core.stage import Array, RuntimeOptions, Session, seeded

DECODER, LATENT = "decoder", "latent"
VOICE = "voice.json"
VERSION, OPSET = "1", 17
SAME = 1e-3  # of the peak: how far the graph may be from the module
SHARD = 50  # texts of a file
SAMPLES_SCALE = 32767.0
NOISE, LENGTH = (0.0, 0.667), (0.9, 1.1)  # scales that lessons are drawn with: the listener may ask for any


@dataclass(frozen=True)
class Settings:
    """Command-line flags are made from this."""

    minutes: float = option(60.0, "of training; what was trained before an interruption counts")
    adversarial_from: float = option(0.5, "share of the time after which critics join; 1: never")
    rate: float = option(1e-3, "learning rate at its highest")
    rows: int = option(8, "crops of a batch")
    seed: int = option(0, "of the student's first weights and of the order of lessons")

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 7 * 24 * 60:
            raise UsageError(f"{flag('minutes')} is {self.minutes:g}; it must lie above 0, up to a week")
        if not 0 <= self.adversarial_from <= 1:
            raise UsageError(f"{flag('adversarial_from')} is {self.adversarial_from:g}; it is a share, 0 to 1")
        if not 0 < self.rate <= 0.1:
            raise UsageError(f"{flag('rate')} is {self.rate:g}; it must lie above 0, up to 0.1")
        if not 1 <= self.rows <= 1024:
            raise UsageError(f"{flag('rows')} is {self.rows}; it must be 1 to 1024")


def distill_decoder(
    teacher: Bundle,
    out: Path,
    texts: Sequence[str],
    settings: Settings | None = None,
    *,
    work: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda message, share: None,
) -> Bundle:
    """Lets the teacher speak `texts`, trains a decoder on its latents and samples, and writes the voice with it.

    Lessons, checkpoints, the validation curve and the student alone (decoder.onnx) are kept in `work` (default: beside
    `out`); the same call goes on from there. Raises UsageError for a teacher that is no single-speaker VITS voice,
    MissingDependency without PyTorch.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependency("torch", "torch") from None

    settings, work = settings or Settings(), Path(work or out.with_name(f".{out.name}.work"))
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; give another name, or --force to replace it")
    decoder = teacher_decoder(teacher)
    files = write_pairs(teacher, texts, work / "pairs", lambda message, share: progress(message, 0.1 * share))
    students, school = registry.load("modules", "istft_decoder"), registry.load("modules", "decoder_school")
    torch.manual_seed(settings.seed)
    student = students.from_teacher(decoder)
    plan = school.Plan(
        rows=settings.rows, rate=settings.rate, adversarial_from=settings.adversarial_from, seed=settings.seed
    )
    hop = int(teacher.defaults["hop"])
    taught = school.School(
        student,
        read_pairs(files),
        hop,
        teacher.sample_rate,
        work,
        plan,
        lambda x: decoder.with_features(x)[1],
        teacher.digest,
    )
    taught.train(settings.minutes, lambda message, share: progress(message, 0.1 + 0.9 * share))
    draw_curve(work)
    graph = decoder_graph(taught.student, teacher)
    atomic_file(work / "decoder.onnx", graph.SerializeToString())
    return with_decoder(teacher, graph, out, {**asdict(settings), "texts": len(texts)}, overwrite)


def teacher_decoder(bundle: Bundle) -> Any:
    """The voice's decoder as a module. Raises UsageError for a voice that has none of the kind."""
    import onnx

    if {stage.name for stage in bundle.stages} != {"text", "flow", DECODER} or bundle.voices:
        raise UsageError(f"{bundle.name} cannot teach a decoder: the teacher must be a VITS voice with one speaker")
    if bundle.family == "coqui":  # its folder holds the weights of a HiFi-GAN, which the student is not
        raise UsageError(
            f"{bundle.name} is a Coqui voice, whose format knows no other decoder; write it for Piper (vivace export "
            "--to piper), import that, and let it teach"
        )
    graphs = (onnx.load(str(bundle.file(stage.file))) for stage in bundle.stages)
    return registry.load("modules", "vits").from_onnx(graphs).dec.eval().requires_grad_(False)


def write_pairs(bundle: Bundle, texts: Sequence[str], folder: Path, progress: Progress) -> list[Path]:
    """Latents and samples: one file for every SHARD texts; those that are there stay. Texts that cannot be spoken are
    left out."""
    folder.mkdir(parents=True, exist_ok=True)
    voice = json.loads(bundle.file(VOICE).read_text(encoding="utf-8"))
    files: list[Path] = []
    sessions: dict[str, Session] = {}
    for start in range(0, len(texts), SHARD):
        part = texts[start : start + SHARD]
        key = hashlib.sha256(f"{bundle.digest} {part}".encode()).hexdigest()[:16]
        files.append(folder / f"{key}.npz")
        if files[-1].is_file():
            continue
        sessions = sessions or {stage.name: _open(bundle, stage.name) for stage in bundle.stages}
        arrays: dict[str, Array] = {}
        for k, text in enumerate(part):
            try:
                for ids in registry.load("text", voice.get("front_end", "piper")).tokens(text, voice):
                    latent, samples = _spoken(sessions, np.array(ids, np.int64), start + k)
                    n = len(arrays) // 2
                    arrays[f"latent.{n}"] = latent.astype(np.float16)
                    arrays[f"samples.{n}"] = np.rint(np.clip(samples, -1, 1) * SAMPLES_SCALE).astype(np.int16)
            except TextError:
                continue
            progress(f"the teacher speaks {start + k + 1}/{len(texts)}", (start + k) / len(texts))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        atomic_file(files[-1], buffer.getvalue())
    for session in sessions.values():
        session.close()
    return files


def read_pairs(files: Sequence[Path]) -> list[Any]:
    """The pairs of `write_pairs`. Raises UsageError if there are none."""
    pair = registry.load("modules", "decoder_school").Pair
    found: list[Any] = []
    for file in files:
        with np.load(file, allow_pickle=False) as data:
            count = len(data.files) // 2
            for k in range(count):
                found.append(pair(data[f"latent.{k}"], (data[f"samples.{k}"] / SAMPLES_SCALE).astype(np.float16)))
    if not found:
        raise UsageError("none of the texts can be spoken by this voice")
    return found


def with_decoder(teacher: Bundle, graph: Any, out: Path, told: dict[str, Any], overwrite: bool = False) -> Bundle:
    """The teacher's voice with another decoder in place of its own. It goes through one file and the importer, which
    proves that it can be cut into stages and windows as any other voice; `told` is kept in its history."""
    import onnx

    family = registry.load("families", teacher.family)

    def change(folder: Path) -> None:
        onnx.save(graph, str(folder / teacher.stage(DECODER).file))

    with TemporaryDirectory() as place:
        swapped = teacher.derive(Path(place) / "swapped", None, change)
        model = family.export(swapped, Path(place) / "file")[0]
        made: Bundle = family.import_(model, Path(place) / "voice")
        return made.derive(out, Step("distill_decoder", VERSION, told), overwrite=overwrite, name=teacher.name)


def decoder_graph(student: Any, teacher: Bundle) -> Any:
    """The student as an ONNX graph with the inputs and outputs of the teacher's decoder. Raises ModelError if its
    samples are not the module's own."""
    import onnx
    import torch
    from onnx import compose

    stage = teacher.stage(DECODER)
    audio = next(iter(stage.outputs))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter tells its own users that it grows old
        torch.onnx.export(
            student, (torch.zeros(1, student.shape.channels, 16),), buffer, input_names=[LATENT], output_names=[audio],
            dynamic_axes={LATENT: {2: "frames"}, audio: {2: "samples"}}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    model = compose.add_prefix(model, "student/", rename_inputs=False, rename_outputs=False)  # its names are its own
    model.graph.name = DECODER
    latent = seeded(0).standard_normal((1, student.shape.channels, 40), np.float32)
    with torch.no_grad():
        right = student(torch.from_numpy(latent)).numpy()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "decoder.onnx"
        onnx.save(model, str(file))
        session = registry.load("runtimes", "onnxruntime").open(stage, file, RuntimeOptions(threads=1))
        made = session.run({LATENT: latent})[audio]
        session.close()
    away = float(np.abs(made - right).max() / max(np.abs(right).max(), 1e-6))
    if made.shape != right.shape or away > SAME:
        raise ModelError(f"the student's graph is {away:.1e} of its peak away from the student ({SAME:.0e} is allowed)")
    return model


def _spoken(sessions: dict[str, Session], ids: Array, seed: int) -> tuple[Array, Array]:
    """One sentence's latent [channels, frames] and samples, with scales drawn from the seed."""
    rng = seeded(seed)
    scales = np.array([rng.uniform(*NOISE), rng.uniform(*LENGTH), 0.0], np.float32)
    feed: dict[str, Array] = {
        "input": ids[None],
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": scales,
        "duration_noise": np.zeros((1, 2, len(ids)), np.float32),
    }
    read = sessions["text"].run(feed)
    noise = rng.standard_normal(read["mean"].shape, np.float32)
    latent = next(iter(sessions["flow"].run({**read, "prior_noise": noise, "scales": scales}).values()))
    samples = next(iter(sessions[DECODER].run({LATENT: latent}).values()))
    return latent[0], np.ravel(samples)


def draw_curve(work: Path) -> None:
    """curve.png beside curve.json: the distances on crops that nothing was learned from, over the minutes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = json.loads((work / "curve.json").read_text(encoding="utf-8"))
    if not points:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in (key for key in points[0] if key not in ("minutes", "steps")):
        axes.plot([p["minutes"] for p in points], [p[name] for p in points], marker=".", label=name)
    axes.set(xlabel="minutes of training", ylabel="distance to the teacher, held-out crops", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(work / "curve.png", dpi=110)


def _open(bundle: Bundle, name: str) -> Session:
    stage = bundle.stage(name)
    opened: Session = registry.load("runtimes", stage.runtime).open(
        stage, bundle.file(stage.file), RuntimeOptions(threads=cores())
    )
    return opened
