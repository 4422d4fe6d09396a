"""A listening test from bundles that speak the same texts, or from folders that hold the same clips."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vivace.core.audio import Audio
from vivace.core.bundle import Bundle
from vivace.core.contracts import Progress
from vivace.core.errors import UsageError
from vivace.core.report import Measurement, Report
from vivace.listening.damage import damaged
from vivace.listening.design import Design
from vivace.listening.results import mos_of
from vivace.listening.store import Recording, Store, System, create
from vivace.workflows.clips import Store as Cache
from vivace.workflows.clips import spoken

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
LONGEST = 60.0  # seconds of a clip: nobody rates longer ones
NAME, UNIT = "listener_mos", "MOS by listeners"

Clips = tuple[list[str], list[Audio]]  # texts, and what says them


def from_bundles(
    out: Path,
    design: Design,
    bundles: Mapping[str, Bundle],
    texts: Sequence[str],
    *,
    seed: int = 0,
    cache: Cache | None = None,
    progress: Progress = lambda message, share: None,
) -> Store:
    """Every bundle speaks every text with the same seeds. Raises UsageError for what makes no test."""
    systems = [System(name, bundle.digest) for name, bundle in bundles.items()]
    if len({system.digest for system in systems}) < len(systems):
        raise UsageError("two of the bundles are the same model; compare different ones")
    made = [spoken(b, texts, seed=seed, store=cache, progress=progress).audio for b in bundles.values()]
    return _create(out, design, systems, list(texts), [list(audio) for audio in made], seed)


def from_folders(out: Path, design: Design, folders: Mapping[str, Path], *, seed: int = 0) -> Store:
    """Files of one name are the same text, said by each system. Its words are read from NAME.txt beside the clip of the
    first folder, if there. Raises UsageError for files that cannot be read or have no fellow."""
    found = {name: _files(folder) for name, folder in folders.items()}
    first = next(iter(found.values()))
    for name, files in found.items():
        if odd := sorted(set(files) ^ set(first)):
            raise UsageError(f"{odd[0]} is not in every folder ({folders[name]}); each system needs the same clips")
    stems = sorted(first)
    texts = [_words(first[stem]) for stem in stems]
    made = [[_read(files[stem]) for stem in stems] for files in found.values()]
    return _create(out, design, [System(name) for name in folders], texts, made, seed)


def _create(
    out: Path, design: Design, systems: list[System], texts: list[str], made: list[list[Audio]], seed: int
) -> Store:
    if len(systems) < 2 or (design.kind == "preference" and len(systems) > 2):
        raise UsageError(f"{len(systems)} systems make no such test; compare two (with --kind acr, two or more)")
    if len(texts) < 2:
        raise UsageError("one text is no test; give two at least, and better twenty")
    recordings = [
        Recording(system, text, False, audio.seconds, _flac(audio))
        for system, clips in enumerate(made)
        for text, audio in enumerate(clips)
    ]
    for text in range(min(len(texts), 2 * design.checks)):
        bad = damaged(made[0][text], seed + text)
        recordings.append(Recording(0, text, True, bad.seconds, _flac(bad)))
    return create(out, design, systems, texts, recordings, seed=seed)


def heard(digests: Sequence[str], store: Store) -> dict[str, dict[str, Any]]:
    """What people said of these bundles. Raises UsageError with the reason if that is nothing."""
    if found := {digest: said for digest in digests if (said := mos_of(store, digest))}:
        return found
    if store.design.kind != "acr":
        raise UsageError(f"{store.path} asked for preferences, which are no MOS; see vivace listen results")
    if not {system.digest for system in store.systems} & set(digests):
        raise UsageError(f"{store.path} was not made from this bundle; name one that it was made from")
    raise UsageError(f"{store.path} holds no ratings of this bundle that count yet; see vivace listen results")


def with_listeners(report: Report, store: Store) -> Report:
    """The report with what people said: a figure of its own beside the predicted ones, and for an optimization the MOS
    of every variant that they heard. It says whether they heard the sentences that the other figures were taken on.
    Raises UsageError if the test is about none of its bundles."""
    digests = [str(v.get("digest")) for v in report.details.get("variants") or ()]
    digests = digests or [report.bundles[role] for role in ("bundle",) if role in report.bundles]
    same = {"same_sentences": report.details.get("texts") == store.texts}
    found = [{"digest": digest, **said, **same} for digest, said in heard(digests, store).items()]
    figures = tuple(map(measurement, found)) if report.kind == "evaluate" else ()
    details = {**report.details, "listening": found}
    return replace(report, measurements=(*report.measurements, *figures), details=details)


def measurement(found: Mapping[str, Any]) -> Measurement:
    """What people said of a bundle, as a figure of a report."""
    people, out = found["listeners"], found["screened_out"]
    scope = f"{people} listeners, {found['clips']} clips" + (f", {out} screened out" if out else "")
    scope += "" if found["same_sentences"] else ", of other sentences"
    return Measurement(NAME, found["mos"], UNIT, "up", found["ratings"], found["low"], found["high"], scope)


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SOUNDS:
            if file.stem in found:
                raise UsageError(f"{folder} holds {file.stem} twice; keep one of {found[file.stem].name}, {file.name}")
            found[file.stem] = file
    if not found:
        raise UsageError(f"{folder} holds no clips ({', '.join(SOUNDS)})")
    return found


def _words(file: Path) -> str:
    beside = file.with_suffix(".txt")
    return beside.read_text(encoding="utf-8-sig").strip() if beside.is_file() else file.stem


def _read(file: Path) -> Audio:
    import soundfile

    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UsageError(f"{file} cannot be read as audio ({error}); write it as WAV or FLAC") from None
    audio = Audio(samples.mean(axis=1), rate)
    if not 0.1 <= audio.seconds <= LONGEST:
        raise UsageError(f"{file} lasts {audio.seconds:.1f} s; clips of a test last 0.1 to {LONGEST:g} s")
    return audio


def _flac(audio: Audio) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, audio.samples.clip(-1, 1), audio.rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
