"""One speaker in a process of its own: `python arm.py KIND MODEL THREADS`, then a JSON object a line, in and out.

    {"do": "load"}                                    -> import_s, load_s, version
    {"do": "speak", "text": ..., "seed": 1,
     "stream": false, "early": false, "out": null}    -> seconds, audio, first, first_audio, gapless, chunks, rate
    {"do": "speak_all", "texts": [...]}               -> audio; of kind "pool" alone
    {"do": "memory"}                                  -> now_mb, peak_mb
    {"do": "quit"}

Every road begins at text and ends at float samples. Nothing is imported before "load", so that it can be timed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

Give = Callable[[Any], bool]  # takes the next samples; false: no more are wanted


class Piper:
    """piper-tts by its Python interface, with its own settings; `threads` above 0 replaces its session by one that
    has that many threads, for which it has no option."""

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads = model, threads

    def imports(self) -> str:
        import onnxruntime
        import piper

        self.rate = 0
        self.load_voice, self.onnxruntime = piper.PiperVoice.load, onnxruntime
        return packages("piper-tts", "onnxruntime")

    def load(self) -> None:
        if self.threads:
            self.voice = reader(self.model)
            self.voice.session = session(self.onnxruntime, self.model, self.threads)
        else:
            self.voice = self.load_voice(self.model)
        self.rate = self.voice.config.sample_rate

    def speak(self, text: str, seed: int, stream: bool, give: Give) -> None:
        for chunk in self.voice.synthesize(text):
            if not give(chunk.audio_float_array):
                return


class Plain:
    """ONNX Runtime alone: one run of the file for each sentence, phoneme ids by piper-tts, the file's own scales."""

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads = model, threads

    def imports(self) -> str:
        import numpy
        import onnxruntime
        import piper  # noqa: F401 - its import counts, since it phonemizes

        self.rate = 0
        self.numpy, self.onnxruntime = numpy, onnxruntime
        return packages("onnxruntime")

    def load(self) -> None:
        self.voice = reader(self.model)
        self.session = session(self.onnxruntime, self.model, self.threads)
        config = self.voice.config
        self.rate = config.sample_rate
        self.scales = self.numpy.array([config.noise_scale, config.length_scale, config.noise_w_scale], "float32")

    def speak(self, text: str, seed: int, stream: bool, give: Give) -> None:
        np = self.numpy
        for phonemes in self.voice.phonemize(text):
            ids = np.array([self.voice.phonemes_to_ids(phonemes)], np.int64)
            feed = {"input": ids, "input_lengths": np.array([ids.shape[1]], np.int64), "scales": self.scales}
            if not give(self.session.run(None, feed)[0].reshape(-1)):
                return


class Sherpa:
    """sherpa-onnx: OfflineTts, which takes phonemes for a Piper voice; its callback brings each sentence.

    The samples are taken from the callback: the list that `generate` returns is slow to read, which is not counted.
    """

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads = model, threads

    def imports(self) -> str:
        import piper  # noqa: F401 - its import counts, since it phonemizes
        import sherpa_onnx

        self.rate = 0
        self.sherpa = sherpa_onnx
        return packages("sherpa-onnx")

    def load(self) -> None:
        sherpa, tokens = self.sherpa, str(Path(self.model).with_suffix(".tokens.txt"))
        self.voice = reader(self.model)
        scales = self.voice.config
        vits = sherpa.OfflineTtsVitsModelConfig(
            model=self.model,
            tokens=tokens,
            noise_scale=scales.noise_scale,
            noise_scale_w=scales.noise_w_scale,
            length_scale=scales.length_scale,
        )
        model = sherpa.OfflineTtsModelConfig(vits=vits, num_threads=self.threads)
        self.tts = sherpa.OfflineTts(sherpa.OfflineTtsConfig(model=model))
        self.rate = self.tts.sample_rate

    def speak(self, text: str, seed: int, stream: bool, give: Give) -> None:
        wanted = self.sherpa.GenerationConfig()
        wanted.silence_scale = 1.0  # pauses as the voice made them
        wanted.phoneme_codepoints = [
            [ord(point) for phoneme in sentence for point in phoneme] for sentence in self.voice.phonemize(text)
        ]
        self.tts.generate(text, wanted, lambda samples, done: int(give(samples)))


class Vivace:
    """Vivace's engine on a bundle. Whole sentences, or chunks as `vivace say --raw` makes them."""

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads = model, threads

    def imports(self) -> str:
        import vivace.engine.engine as engine
        from vivace.core.bundle import open_bundle
        from vivace.core.speech import FIRST_CHUNK, Request
        from vivace.core.stage import RuntimeOptions

        self.rate = 0
        self.module, self.open, self.request, self.options = engine, open_bundle, Request, RuntimeOptions
        self.chunk = FIRST_CHUNK
        return packages("vivace", "onnxruntime", "openvino")

    def load(self) -> None:
        bundle = self.open(self.model)
        self.engine = self.module.Engine(bundle, self.options(threads=self.threads))
        self.rate = bundle.sample_rate

    def speak(self, text: str, seed: int, stream: bool, give: Give) -> None:
        request = self.request("arm", text, seed=seed, chunk_frames=self.chunk if stream else 0)
        for event in self.module.stream(self.engine, request):
            if event.audio is not None and not give(event.audio.samples):
                return


class Pool:
    """Vivace's pool: one process, a worker of `threads` for each core, many texts at a time."""

    def __init__(self, model: str, threads: int) -> None:
        self.model, self.threads = model, threads

    def imports(self) -> str:
        import vivace.engine.pool as pool
        from vivace.core.bundle import open_bundle
        from vivace.core.speech import Request
        from vivace.core.stage import RuntimeOptions

        self.module, self.open, self.request, self.options = pool, open_bundle, Request, RuntimeOptions
        return packages("vivace", "onnxruntime", "openvino")

    def load(self) -> None:
        self.pool = self.module.Pool(self.open(self.model), options=self.options(threads=self.threads))

    def speak_all(self, texts: list[str]) -> float:
        """Seconds of audio."""
        requests = [self.request(f"{k}", text, seed=k) for k, text in enumerate(texts)]
        return sum(audio.seconds for _, audio in self.module.speak_all(self.pool, requests))


KINDS: dict[str, Callable[[str, int], Any]] = {
    "piper": Piper,
    "plain": Plain,
    "sherpa": Sherpa,
    "vivace": Vivace,
    "pool": Pool,
}


def reader(model: str) -> Any:
    """A piper-tts voice without its model: it phonemizes."""
    from piper import PiperVoice
    from piper.config import PiperConfig

    config = json.loads(Path(model + ".json").read_text(encoding="utf-8"))
    return PiperVoice(session=None, config=PiperConfig.from_dict(config))


def session(onnxruntime: Any, model: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


def packages(*names: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def answer(voice: Any, asked: dict[str, Any]) -> dict[str, Any]:
    match asked["do"]:
        case "load":
            begun = time.perf_counter()
            version = voice.imports()
            imported = time.perf_counter()
            voice.load()
            return {
                "import_s": imported - begun,
                "load_s": time.perf_counter() - imported,
                "version": version,
            }
        case "speak":
            return speak(voice, asked)
        case "speak_all":
            return {"audio": voice.speak_all(asked["texts"])}
        case "memory":
            return {"now_mb": resident("VmRSS"), "peak_mb": resident("VmHWM")}
        case unknown:
            raise ValueError(f"{unknown!r} is no command")


def speak(voice: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """`first` is when the first piece came, `first_audio` its length; `gapless` when playing could have begun so as
    never to wait, known of whole speeches only (None after "early")."""
    early, keep = asked.get("early", False), asked.get("out")
    pieces, made, first, first_audio, gapless, chunks = [], 0, 0.0, 0.0, 0.0, 0
    begun = time.perf_counter()

    def give(samples: Any) -> bool:
        nonlocal made, first, first_audio, gapless, chunks
        now = time.perf_counter() - begun
        if not chunks:
            first, first_audio = now, len(samples) / voice.rate
        gapless = max(gapless, now - made / voice.rate)
        made += len(samples)
        chunks += 1
        if keep:
            pieces.append(samples.copy())
        return not early

    voice.speak(asked["text"], asked.get("seed", 0), asked.get("stream", False), give)
    seconds = time.perf_counter() - begun
    if not made:
        raise ValueError(f"no audio for {asked['text'][:60]!r}")
    if keep:
        import numpy as np

        np.save(keep, np.concatenate(pieces).astype(np.float32))
    return {
        "seconds": seconds,
        "audio": made / voice.rate,
        "first": first,
        "first_audio": first_audio,
        "gapless": None if early else gapless,
        "chunks": chunks,
        "rate": voice.rate,
    }


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (most since this program began) in MB of 10^6 bytes."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.M)
    assert found
    return int(found[1]) * 1024 / 1e6


def serve(voice: Any, lines: TextIO, out: TextIO) -> None:
    """Answers each line until "quit" or the end of the lines. A fault is an answer too: {"error": ...}."""
    for line in lines:
        asked = json.loads(line)
        if asked["do"] == "quit":
            return
        try:
            told = answer(voice, asked)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is told to the master, which ends
            told = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(told) + "\n")
        out.flush()


def main() -> None:
    kind, model, threads = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what a library prints must not come between the answers
        serve(KINDS[kind](model, int(threads)), sys.stdin, out)


if __name__ == "__main__":
    main()
