"""Puts a decoder that was taught by this voice (`vivace distill --decoder`) in place of the voice's own.

The rest of the voice stays as it is. Whether the student speaks as well as its teacher, the gate finds out.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vivace.core import registry
from vivace.core.bundle import Bundle, Step
from vivace.core.contracts import Context
from vivace.core.errors import ModelError, UsageError
from vivace.core.settings import option
from vivace.core.stage import Array, RuntimeOptions, Session, Stage, seeded

SUMMARY = "Replaces the decoder by a cheaper one that was taught by it (vivace distill --decoder)"
NEEDS: frozenset[str] = frozenset()
VERSION = "1"
DECODER, LATENT = "decoder", "latent"
SAME = 1e-4  # of what a frame changes at most: so little may it change beyond the voice's windows


@dataclass(frozen=True)
class Settings:
    file: str = option("", "the student: decoder.onnx, as vivace distill --decoder writes it into its work folder")

    def __post_init__(self) -> None:
        if self.file and not Path(self.file).is_file():
            raise UsageError(
                f"student_decoder: {self.file} is no file; give the decoder.onnx of vivace distill --decoder"
            )


def accepts(stage: Stage, settings: Settings) -> str | None:
    if stage.name != DECODER or set(stage.inputs) != {LATENT}:
        return "is no decoder of one speaker's latent"
    return None if settings.file else "no student is given; name its file: --set file=decoder.onnx"


def apply(bundle: Bundle, out: Path, settings: Settings, context: Context) -> Bundle:
    """Raises UsageError where there is no decoder or no student, ModelError for a student of another voice's kind."""
    if not settings.file:
        raise UsageError("student_decoder: no student is given; name its file: --set file=decoder.onnx")
    reasons = {stage.name: accepts(stage, settings) for stage in bundle.stages}
    if all(reasons.values()):
        raise UsageError("student_decoder: " + "; ".join(f"stage {n}: {reason}" for n, reason in reasons.items()))
    stage, file = bundle.stage(DECODER), Path(settings.file)
    student = replace(stage, runtime="onnxruntime", precision="fp32", options={})
    content = _read(bundle, file, student, context.threads)

    def change(folder: Path) -> None:
        (folder / stage.file).write_bytes(content)

    stages = tuple(student if each is stage else each for each in bundle.stages)
    told = {**asdict(settings), "file": file.name, "sha256": hashlib.sha256(content).hexdigest()}
    return bundle.derive(out, Step("student_decoder", VERSION, told), change, stages=stages)


def _read(bundle: Bundle, file: Path, stage: Stage, threads: int) -> bytes:
    """The file, once it has been seen to take the voice's latents, to make as many samples of a frame, and to look no
    further than the voice's windows reach: they are then equal to the whole."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"student_decoder: {file} cannot be read ({error.strerror})") from None
    own = bundle.stage(DECODER)
    overlap, hop = int(bundle.defaults["overlap"]), int(bundle.defaults["hop"])
    sessions = [_open(each, path, threads) for each, path in ((own, bundle.file(own.file)), (stage, file))]
    latent = seeded(0).standard_normal((1, _channels(file), 2 * overlap + 16), np.float32)
    far = latent.copy()
    far[:, :, 0] += 10
    try:
        teacher, whole, moved = (
            _samples(s, x) for s, x in zip((*sessions, sessions[1]), (latent, latent, far), strict=True)
        )
    except Exception as error:
        raise ModelError(f"{file} and this voice take other latents ({str(error).splitlines()[0][:120]})") from error
    finally:
        for session in sessions:
            session.close()
    if whole.shape != teacher.shape:
        raise ModelError(f"{file} makes {whole.size / latent.shape[-1]:g} samples of a frame; this voice has {hop}")
    change = np.abs(moved - whole)
    if change[(overlap + 1) * hop :].max() > SAME * change.max():
        raise ModelError(f"{file} looks further than {overlap} frames, for which this voice was imported")
    return content


def _open(stage: Stage, path: Path, threads: int) -> Session:
    opened: Session = registry.load("runtimes", stage.runtime).open(stage, path, RuntimeOptions(threads=threads))
    return opened


def _samples(session: Session, latent: Array) -> Array:
    return np.asarray(next(iter(session.run({LATENT: latent}).values()))).reshape(-1)


def _channels(file: Path) -> int:
    """Of the latent [batch, channels, frames] that the file asks for; 1 where it does not say."""
    import onnx

    inputs = onnx.load(str(file), load_external_data=False).graph.input
    return next((i.type.tensor_type.shape.dim[1].dim_value or 1 for i in inputs if i.name == LATENT), 1)
