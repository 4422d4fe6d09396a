"""Character error rate: like `wer`, but a word that is nearly right counts as nearly right."""

from __future__ import annotations

from vivace.core.audio import Audio
from vivace.core.errors import MissingDependency
from vivace.metrics._asr import comparison

SUMMARY = "character error rate of the transcript (Whisper tiny.en, English; may exceed 1)"
NEEDS = frozenset({"text"})
UNIT = ""
BETTER = "down"


def score(audio: Audio, text: str, reference: Audio | None) -> float:
    """Wrong, missing and added characters for each character of `text`, after both were normalized.

    Raises ValueError if `text` holds no word, or the audio is not finite or shorter than 0.1 s; MissingDependency.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingDependency("jiwer", "eval") from error
    return float(jiwer.cer(*comparison(audio, text)))
