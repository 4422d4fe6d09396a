"""Teaches a small autoregressive student to speak as a Piper voice does, and imports it as a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vivace.core.bundle import Bundle, atomic_folder
from vivace.core.contracts import Progress
from vivace.core.errors import MissingDependency, ModelError, UsageError
from vivace.core.settings import flag, option
from vivace.core.stage import Array
from vivace.workflows._student_shape import StudentShape
from vivace.workflows.import_ import import_model

MEAN, STD = "frames.mean", "frames.std"  # of the teacher's frames: the student's are normalized


@dataclass(frozen=True)
class Settings:
    """Command-line flags are made from this."""

    minutes: float = option(60.0, "of training; what was trained before an interruption counts")
    seed: int = option(0, "of the student's first weights and of the order of lessons")

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 7 * 24 * 60:
            raise UsageError(f"{flag('minutes')} is {self.minutes:g}; it must lie above 0, up to a week")


def distill(
    teacher: Bundle,
    out: Path,
    texts: Sequence[str],
    settings: Settings | None = None,
    *,
    work: Path | None = None,
    shape: StudentShape | None = None,
    overwrite: bool = False,
    progress: Progress = lambda message, share: None,
) -> Bundle:
    """Lets the teacher speak `texts`, trains the student, and writes it: `out` as a bundle, `work`/model as its folder,
    and `work`/student without what is the teacher's.

    Lessons and checkpoints are kept in `work` (default: beside `out`); the same call goes on from there. Raises
    UsageError for a teacher that is no single-speaker Piper voice, MissingDependency without PyTorch.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingDependency("torch", "torch") from None
    from vivace.workflows import _lessons
    from vivace.workflows._school import School

    settings, work = settings or Settings(), Path(work or out.with_name(f".{out.name}.work"))
    files = _lessons.write_lessons(
        teacher, texts, work / "lessons", lambda message, share: progress(message, 0.1 * share)
    )
    lessons = _lessons.read_lessons(files)
    if not lessons:
        raise UsageError("none of the texts can be spoken by this voice")
    ids = [
        i
        for group in json.loads(teacher.file(_lessons.VOICE).read_text(encoding="utf-8"))["phoneme_id_map"].values()
        for i in group
    ]
    shape = shape or StudentShape(max(ids) + 1, lessons[0].frames.shape[1])
    school = School(shape, lessons, work, settings.seed, teacher.digest)
    school.train(settings.minutes, lambda message, share: progress(message, 0.1 + 0.9 * share))
    write_student(teacher, school, work / "student")
    with_vocoder(teacher, work / "student", work / "model")
    return import_model(work / "model", out, overwrite=overwrite)


def write_student(teacher: Bundle, school: object, folder: Path) -> None:
    """The student alone: configuration, and weights in half precision."""
    from safetensors.numpy import save_file

    from vivace.workflows._lessons import VOICE
    from vivace.workflows._school import School

    assert isinstance(school, School)
    voice = json.loads(teacher.file(VOICE).read_text(encoding="utf-8"))
    dropped = [int(i) for i in voice["phoneme_id_map"].get("_", [])]
    given = {name: value for name, value in asdict(school.shape).items() if name != "dropout"}
    config = {
        "model_type": "transformer_mel",
        "sample_rate": teacher.sample_rate,
        "text": {**voice, "front_end": "piper", "dropped": dropped},
        **given,
        "timed": True,
        "causal": True, "positions": "rotary", "norm": "pre", "activation": "gelu",
        "max_steps": 2048,
        "vocoder": "vocoder.onnx",
    }  # fmt: skip
    weights = {
        name: value.numpy().astype(np.float16) for name, value in school.mean.items() if not name.startswith("prior.")
    }
    weights |= {MEAN: school.scale.mean.astype(np.float32), STD: school.scale.std.astype(np.float32)}
    with atomic_folder(folder, overwrite=True) as made:
        (made / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        save_file(weights, made / "model.safetensors")


def with_teacher(teacher: Bundle, student: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """The bundle of a student that was trained before: `student` is what `write_student` made. Raises ModelError for
    another folder."""
    with TemporaryDirectory() as folder:
        with_vocoder(teacher, student, Path(folder) / out.name)
        return import_model(Path(folder) / out.name, out, overwrite=overwrite)


def with_vocoder(teacher: Bundle, student: Path, out: Path) -> None:
    """The student as a model folder that can be imported: with the teacher's flow and decoder behind it. Raises
    ModelError for a folder that holds no student."""
    import onnx
    from safetensors.numpy import load_file

    try:
        weights = load_file(student / "model.safetensors")
        mean, std = weights[MEAN], weights[STD]
    except Exception as error:
        raise ModelError(f"{student} holds no student that `vivace distill` made ({error})") from error
    with atomic_folder(out, overwrite=True) as made:
        for name in ("config.json", "model.safetensors"):
            (made / name).write_bytes((student / name).read_bytes())
        onnx.save(_vocoder(teacher, mean, std), str(made / "vocoder.onnx"))


def _vocoder(teacher: Bundle, mean: Array, std: Array) -> object:
    """The teacher's flow and decoder for normalized frames, without noise: what else the flow is given is constant."""
    import onnx
    from onnx import compose, helper, numpy_helper

    flow, decoder = (onnx.load(str(teacher.file(teacher.stage(name).file))) for name in ("flow", "decoder"))
    flow = compose.add_prefix(flow, "flow/", rename_inputs=False)
    decoder = compose.add_prefix(decoder, "decoder/", rename_outputs=False)
    whole = compose.merge_models(flow, decoder, io_map=[(flow.graph.output[0].name, decoder.graph.input[0].name)])
    graph = whole.graph
    one = np.ones((1, 1, 1), np.float32)
    constants = {
        "log_scale": 0 * one, "prior_noise": 0 * one, "mask": one, "scales": np.array([0, 1, 0], np.float32),
        "student/std": std[None, :, None], "student/mean": mean[None, :, None],
    }  # fmt: skip
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    first = [
        helper.make_node("Mul", ["latent", "student/std"], ["student/scaled"], name="/student/Mul"),
        helper.make_node("Add", ["student/scaled", "student/mean"], ["mean"], name="/student/Add"),
    ]
    nodes = [*first, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("latent", onnx.TensorProto.FLOAT, [1, len(mean), "frames"]))
    return whole
