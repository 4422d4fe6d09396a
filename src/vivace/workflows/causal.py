"""Makes a causal model of one whose decoder looks ahead, so that it may have a cache, and lets it learn what that cost.

A decoder without a causal mask changes all its keys and values with every step, and no cache of them is right. Its
causal copy begins with the same weights and learns to say what the original says of many texts (sequence-level
knowledge distillation, Kim and Rush 2016); how near it comes is measured on texts that it did not learn from.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vivace.core import registry
from vivace.core.bundle import Bundle, atomic_folder
from vivace.core.contracts import Progress
from vivace.core.errors import MissingDependency, UsageError
from vivace.workflows.distill import Settings
from vivace.workflows.import_ import import_model

RATE, BATCH, CLIP = 2e-4, 8, 1.0
HELD_OUT = 0.1  # share of the texts, at least one
STOP_WEIGHT, OWN = 0.1, 0.3  # of the stop head's loss; share of frames that are the copy's own (Bengio et al. 2015)


@dataclass(frozen=True)
class Recovery:
    """`before` and `after` training: mean distance to the original's frames on held-out texts, each step from the
    original's frames before it, as a share of their standard deviation."""

    bundle: Bundle
    before: float
    after: float
    texts: int


def recover(
    folder: Path,
    out: Path,
    texts: Sequence[str],
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = lambda message, share: None,
) -> Recovery:
    """Writes `out`, a bundle of the causal copy of the model in `folder` (config.json and model.safetensors).

    Raises UsageError for a model that is causal or has no stop head, or for fewer than 2 texts; MissingDependency
    without PyTorch.
    """
    try:
        import torch
        from safetensors.torch import load_file, save_file
    except ImportError:
        raise MissingDependency("torch", "torch") from None
    from vivace.workflows._causal_module import Transformer

    settings = settings or Settings()
    with TemporaryDirectory() as work:
        bundle = import_model(folder, Path(work) / "original")
        if bundle.family != "transformer_mel" or bundle.defaults["causal"] or bundle.defaults["timed"]:
            raise UsageError(f"{folder} needs no causal copy: it is causal, or no model with a stop head")
        torch.manual_seed(settings.seed)
        weights = load_file(folder / "model.safetensors")
        teacher, pupil = Transformer(bundle.defaults, weights), Transformer(bundle.defaults, weights)
        lessons = _lessons(teacher, bundle, texts, progress)
        held = lessons[: max(1, round(HELD_OUT * len(lessons)))]
        rest = lessons[len(held) :]
        spread = float(torch.cat([frames for _, frames in lessons]).std())
        before = _distance(pupil, held) / spread
        _train(pupil, rest, settings, lambda message, share: progress(message, 0.3 + 0.7 * share))
        after = _distance(pupil, held) / spread
        made = Path(work) / "copy"
        with atomic_folder(made) as into:
            for file in folder.iterdir():
                if file.is_file() and file.name not in ("config.json", "model.safetensors"):
                    (into / file.name).write_bytes(file.read_bytes())
            config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"causal": True}
            (into / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
            save_file({**weights, **{k: v.contiguous() for k, v in pupil.state().items()}}, into / "model.safetensors")
        return Recovery(import_model(made, out, overwrite=overwrite), before, after, len(rest))


def _lessons(teacher: Any, bundle: Bundle, texts: Sequence[str], progress: Progress) -> list[tuple[Any, Any]]:
    """(tokens [1, tokens], frames [steps, outputs]) of every sentence."""
    import torch

    voice = json.loads(bundle.file("voice.json").read_text(encoding="utf-8"))
    front_end = registry.load("text", voice.get("front_end", "characters"))
    found = []
    for k, text in enumerate(texts):
        for ids in front_end.tokens(text, voice):
            tokens = torch.tensor([list(ids)])
            found.append((tokens, teacher.generate(tokens, causal=False)))
        progress(f"the original speaks {k + 1}/{len(texts)}", 0.3 * (k + 1) / len(texts))
    if len(found) < 2:
        raise UsageError("give at least two sentences: some to learn from, some to measure on")
    return found


def _train(pupil: Any, lessons: Sequence[tuple[Any, Any]], settings: Settings, progress: Progress) -> None:
    import torch
    from torch.nn import functional as F  # noqa: N812

    optimizer = torch.optim.AdamW(pupil.parameters(), RATE, betas=(0.9, 0.98))
    rng, begun, limit, count = random.Random(settings.seed), time.monotonic(), 60 * settings.minutes, 0  # noqa: S311
    while (passed := time.monotonic() - begun) < limit or not count:
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(0.02, 1 - passed / limit)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for tokens, frames in rng.sample(list(lessons), min(BATCH, len(lessons))):
            given, mask = F.pad(frames, (0, 0, 1, 0))[None, :-1], torch.ones_like(tokens, dtype=torch.float32)
            memory = pupil.read(tokens, mask)
            with torch.no_grad():
                own = F.pad(pupil.speak(memory, mask, given, causal=True)[0], (0, 0, 1, 0))[:, :-1]
            mixed = torch.where(torch.rand(1, given.shape[1], 1) < OWN, own, given)
            said, stop = pupil.speak(memory, mask, mixed, causal=True)
            end = torch.zeros_like(stop)
            end[:, -1] = float(len(frames) < pupil.d["max_steps"])  # one that was cut has no end to learn
            loss = (said[0] - frames).abs().mean() + STOP_WEIGHT * F.binary_cross_entropy_with_logits(stop, end)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(pupil.parameters(), CLIP)
        optimizer.step()
        count += 1
        progress(f"step {count}: loss {total / min(BATCH, len(lessons)):.4f}", min(1.0, passed / limit))


def _distance(pupil: Any, lessons: Sequence[tuple[Any, Any]]) -> float:
    import torch
    from torch.nn import functional as F  # noqa: N812

    found = []
    with torch.no_grad():
        for tokens, frames in lessons:
            mask = torch.ones_like(tokens, dtype=torch.float32)
            given = F.pad(frames, (0, 0, 1, 0))[None, :-1]
            said, _ = pupil.speak(pupil.read(tokens, mask), mask, given, causal=True)
            found.append(float((said[0] - frames).abs().mean()))
    return sum(found) / len(found)
