"""What a pruned decoder has forgotten, it learns again from the one that it was: distillation, no recordings needed.

The teacher's own text and flow stages make latents of sentences, each with several noises and paces, and its decoder
their samples. Checkpoints are kept in the cache folder: the same pass on the same voice goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core import machine, registry
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import TextError, UsageError
from vivace.core.stage import Array, RuntimeOptions, Session, seeded

NOISE, LENGTH = (0.0, 0.667), (0.9, 1.1)  # scales that lessons are drawn with: the listener may ask for any
LESSONS = 300  # as many at least: sentences are spoken several times if they are few
ONE_SPEAKER = "a decoder of several speakers cannot recover here; set recover_minutes=0"
MINUTES = "minutes of learning from the unpruned decoder (0: none); the same pass goes on where it was"
TEXTS = "a file with a sentence in each line to learn from; none: the calibration sentences"


def check(owner: str, minutes: float, texts: str) -> None:
    """Raises UsageError for settings that cannot be."""
    if minutes < 0:
        raise UsageError(f"{owner}: recover_minutes is {minutes:g}; it must be 0 or more")
    if texts and not minutes:
        raise UsageError(f"{owner}: recover_texts is set and recover_minutes is not; set both")


def recovered(
    student: Any, teacher: Bundle, told: Mapping[str, Any], minutes: float, texts: str, rate: float, context: Context
) -> Any:
    """The student after `minutes`, those before an interruption included. `told` are the settings that made it. If the
    loss becomes no number, learning stops there, with the last good weights. Raises UsageError if there is nothing to
    learn from."""
    school = registry.load("modules", "decoder_school")
    key = hashlib.sha256(json.dumps([teacher.digest, dict(told)], sort_keys=True).encode()).hexdigest()[:32]
    folder = machine.cache_folder() / "recovery" / key
    pairs = [school.Pair(latent, samples) for latent, samples in lessons(teacher, texts, context)]
    plan, hop = school.Plan(rate=rate), int(teacher.defaults["hop"])
    taught = school.School(student, pairs, hop, teacher.sample_rate, folder, plan, teacher=teacher.digest)
    try:
        return taught.train(minutes, lambda message, share: context.progress(f"recovering: {message}", share))
    except school.Diverged as error:
        context.progress(str(error), 1.0)
        student.load_state_dict(taught.mean)  # a step whose loss is no number is not taken
        return student.eval()


def lessons(teacher: Bundle, texts: str, context: Context) -> Iterator[tuple[Array, Array]]:
    """Latents [channels, frames] and samples of the teacher, in half precision."""
    tokens = list(_tokens(teacher, texts, context))
    if not tokens:
        raise UsageError(f"none of the sentences in {texts or 'the calibration set'} can be spoken by this voice")
    rounds = -(-LESSONS // len(tokens))
    sessions = {stage.name: _open(teacher, stage.name, context.threads) for stage in teacher.stages}
    try:
        # One sentence's takes side by side: those that are held out then share none with those that are learned from.
        for k, (ids, speaker) in enumerate(one for one in tokens for _ in range(rounds)):
            context.progress(f"the teacher speaks {k + 1}/{len(tokens) * rounds}", k / (len(tokens) * rounds))
            latent, samples = _spoken(sessions, ids, speaker, k)
            yield latent.astype(np.float16), samples.astype(np.float16)
    finally:
        for session in sessions.values():
            session.close()


def _tokens(teacher: Bundle, texts: str, context: Context) -> Iterator[tuple[Array, Array]]:
    """The tokens of sentences, and who speaks them."""
    first = np.zeros(1, np.int64)
    if not texts:
        for row in context.calibration("text"):
            for k, length in enumerate(row["input_lengths"]):
                yield row["input"][k, :length], row["sid"][k : k + 1] if "sid" in row else first
        return
    try:
        lines = Path(texts).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"recover_texts: {texts} cannot be read ({error}); give a text file") from None
    voice = json.loads(teacher.file("voice.json").read_text(encoding="utf-8"))
    front_end = registry.load("text", voice.get("front_end", "piper"))
    for line in filter(str.strip, lines):
        try:
            for ids in front_end.tokens(line, voice):
                yield np.array(ids, np.int64), first
        except TextError:  # a line that cannot be spoken teaches nothing
            continue


def _spoken(sessions: dict[str, Session], ids: Array, speaker: Array, seed: int) -> tuple[Array, Array]:
    rng = seeded(seed)
    scales = np.array([rng.uniform(*NOISE), rng.uniform(*LENGTH), 0.0], np.float32)
    feed: dict[str, Array] = {
        "input": ids[None],
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": scales,
        "sid": speaker,
        "duration_noise": np.zeros((1, 2, len(ids)), np.float32),
    }
    feed |= sessions["text"].run(feed)
    feed["prior_noise"] = rng.standard_normal(feed["mean"].shape, np.float32)
    feed |= sessions["flow"].run(feed)
    samples = next(iter(sessions["decoder"].run(feed).values()))
    return feed["latent"][0], np.ravel(samples)


def _open(bundle: Bundle, name: str, threads: int) -> Session:
    stage = bundle.stage(name)
    opened: Session = registry.load("runtimes", stage.runtime).open(
        stage, bundle.file(stage.file), RuntimeOptions(threads=threads)
    )
    return opened
