"""vivace say: text to speech, to a file, a pipe or the speaker."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from vivace.cli._common import MODEL_HELP, find_bundle, print_json, write_out
from vivace.core.audio import Audio, join
from vivace.core.errors import EXIT_OK, MissingDependency, UsageError, VivaceError
from vivace.core.speech import FIRST_CHUNK, Request
from vivace.core.stage import RuntimeOptions

HELP = """Speaks a text.

  vivace say sample "Hello there." -o hello.wav        to a file (wav, flac, ogg or mp3 by its name)
  echo "Hello there." | vivace say voice - -o - | aplay   a WAV with its true length on standard output
  vivace say voice --file book.txt --raw | aplay -r 22050 -f S16_LE   raw PCM, as it is made
  vivace say voice "Hello there." --play               to the speaker

The RTF that it tells is a first run's, with all that is prepared once: `vivace benchmark` measures warm ones.
"""
AHEAD = 8  # chunks that are made before they are played
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("text", nargs="?", help="the text; - reads standard input")
    parser.add_argument("--file", type=Path, help="read the text from a UTF-8 file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--out", help="wav, flac, ogg or mp3 file; - writes WAV to standard output")
    where.add_argument("--raw", action="store_true", help="16-bit PCM to standard output, as it is made")
    where.add_argument("--play", action="store_true", help="to the speaker, as it is made")
    parser.add_argument("--voice", default="", help="speaker name or number of a model with several")
    parser.add_argument("--speed", type=float, default=1.0, help="above 1 is faster (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise: the same seed, the same samples (default 0)")
    parser.add_argument("--noise-scale", type=float, help="variation of the sound (default: the voice's own)")
    parser.add_argument("--noise-w", type=float, help="variation of the durations (default: the voice's own)")
    parser.add_argument("--max-seconds", type=float, default=7200.0, help="cut the audio there (default 7200)")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores (default)")


def run(args: argparse.Namespace) -> int:
    from vivace.engine.engine import Engine

    text = _text(args)
    streaming = args.raw or args.play
    if not (args.out or streaming):
        raise UsageError("say where the speech should go: -o FILE, -o -, --raw or --play")
    suffix = Path(args.out or "").suffix.lower()
    if args.out and args.out != "-" and suffix not in FORMATS:
        raise UsageError(f"{args.out}: the name must end in {', '.join(FORMATS)}")
    if args.json and (args.raw or args.out == "-"):
        raise UsageError("--json and audio cannot share standard output; write the audio to a file")
    request = Request(
        "say",
        text,
        voice=args.voice,
        speed=args.speed,
        seed=args.seed,
        noise_scale=args.noise_scale,
        noise_w=args.noise_w,
        chunk_frames=FIRST_CHUNK if streaming else 0,
        max_seconds=args.max_seconds,
    )
    bundle = find_bundle(args.model)
    known = bundle.voices or (bundle.name,)
    if args.voice and args.voice not in (*known, bundle.name):
        raise UsageError(f"unknown voice {args.voice!r}; known: {', '.join(known)}")
    with Engine(bundle, RuntimeOptions(threads=args.threads)) as engine:
        begun = time.perf_counter()
        pieces = _pieces(engine, request)
        if args.raw:
            seconds = _pipe(pieces)
        elif args.play:
            seconds = _play(pieces, bundle.sample_rate)
        else:
            audio = join(list(pieces))
            seconds = audio.seconds
            if args.out == "-":
                sys.stdout.buffer.write(audio.wav())
                sys.stdout.buffer.flush()
            else:
                write_out(Path(args.out), _encoded(audio, FORMATS[suffix]))
        took = time.perf_counter() - begun
    if args.json:
        print_json({"seconds": seconds, "took": took, "rtf": took / seconds, "file": args.out})
    elif not args.quiet:
        told = f"{seconds:.2f} s of speech in {took:.2f} s (RTF {took / seconds:.3f}, cold)"
        print(f"{args.out}: {told}" if args.out not in (None, "-") else told, file=sys.stderr)
    return EXIT_OK


def _text(args: argparse.Namespace) -> str:
    if (args.text is None) == (args.file is None):
        raise UsageError("give the text one way only: as an argument, as - for standard input, or by --file")
    try:
        if args.file:
            return str(args.file.read_text(encoding="utf-8"))
        return sys.stdin.buffer.read().decode("utf-8") if args.text == "-" else str(args.text)
    except OSError as error:
        raise UsageError(f"{args.file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError("the text is not UTF-8; convert it with iconv first") from None


def _pieces(engine: object, request: Request) -> Iterator[Audio]:
    from vivace.engine.engine import Engine, stream

    assert isinstance(engine, Engine)
    for event in stream(engine, request):
        if event.audio is not None:
            yield event.audio
        if event.reason == "length":
            print(f"vivace: cut after {request.max_seconds:g} s (--max-seconds)", file=sys.stderr)


def _pipe(pieces: Iterator[Audio]) -> float:
    seconds = 0.0
    for audio in pieces:
        sys.stdout.buffer.write(audio.pcm16())
        sys.stdout.buffer.flush()
        seconds += audio.seconds
    return seconds


def _play(pieces: Iterator[Audio], rate: int) -> float:
    try:
        import sounddevice
    except ImportError:
        raise MissingDependency("sounddevice", "speaker") from None
    except OSError as error:
        raise VivaceError(f"no sound: {error}; install PortAudio, or write a file with -o") from None
    seconds = 0.0
    waiting: deque[Future[None]] = deque()
    try:
        with (
            sounddevice.OutputStream(samplerate=rate, channels=1, dtype="float32") as speaker,
            # Writing lasts as long as playing: in a thread of its own, so that the next chunk is made meanwhile.
            ThreadPoolExecutor(1) as writer,
        ):
            try:
                for audio in pieces:
                    waiting.append(writer.submit(speaker.write, audio.samples[:, None]))
                    seconds += audio.seconds
                    if len(waiting) > AHEAD:
                        waiting.popleft().result()
                for written in waiting:
                    written.result()
            except (KeyboardInterrupt, sounddevice.PortAudioError):  # after any other fault, what was made is played
                writer.shutdown(wait=False, cancel_futures=True)
                speaker.abort()
                raise
    except sounddevice.PortAudioError as error:
        raise VivaceError(f"no speaker here ({error}); write a file with -o") from None
    return seconds


def _encoded(audio: Audio, form: str) -> bytes:
    import soundfile

    if form == "WAV":
        return audio.wav()
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.samples.clip(-1, 1), audio.rate, format=form)
    return buffer.getvalue()
