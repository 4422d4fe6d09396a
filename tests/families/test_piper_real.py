"""A real Piper voice: the cut is exact, chunks and batches change nothing, and other players load what is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from families.vits_runner import in_stages, run, with_noise_inputs
from vivace.core.audio import join
from vivace.core.bundle import Bundle, open_bundle
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine, speak, stream
from vivace.families import _vits_graph as vits
from vivace.families import piper

pytestmark = pytest.mark.voice

TEXTS = (
    "Yes.",
    "The quick brown fox jumps over the lazy dog.",
    "When the wind turned to the north, the old fisherman pulled in his nets and rowed home through the rising waves.",
)
STILL = {"noise_scale": 0.0, "noise_w": 0.0}
CLOSE_DB = -50.0


@pytest.fixture(scope="module")
def engine(real_voice: Bundle) -> Any:
    with Engine(real_voice, RuntimeOptions(threads=2), max_batch=3) as opened:
        yield opened


@pytest.fixture(scope="module")
def exported(real_voice: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return piper.export(real_voice, tmp_path_factory.mktemp("exported"))


def error_db(samples: np.ndarray, reference: np.ndarray) -> float:
    """Energy of the difference relative to the reference's."""
    assert samples.shape == reference.shape
    return float(10 * np.log10(np.mean((samples - reference) ** 2) / np.mean(reference**2) + 1e-20))


@pytest.fixture(scope="module")
def whole_and_parts(real_model: Path, real_voice: Bundle) -> tuple[Any, dict[str, Any]]:
    parts = {stage.name: onnx.load(str(real_voice.file(stage.file))) for stage in real_voice.stages}
    return with_noise_inputs(onnx.load(str(real_model))), parts


@pytest.mark.parametrize("text", TEXTS, ids=len)
@pytest.mark.parametrize("scales", [(0.0, 1.0, 0.0), (0.667, 1.0, 0.8)], ids=["still", "noisy"])
def test_the_cut_is_exact(
    real_voice: Bundle,
    engine: Engine,
    whole_and_parts: tuple[Any, dict[str, Any]],
    text: str,
    scales: tuple[float, float, float],
) -> None:
    model, parts = whole_and_parts
    (ids,) = engine._model.encode(Request("a", text))
    feed = {
        "input": ids[None],
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array(scales, np.float32),
    }
    cut = in_stages(parts, feed, seed=2)
    noise = {"noise_0": cut[vits.DURATION_NOISE], "noise_1": cut[vits.PRIOR_NOISE]}
    whole = run(model, feed | noise)["output"]
    assert cut["output"].shape == whole.shape
    assert np.abs(cut["output"] - whole).max() < 1e-5


def test_it_is_what_it_is_known_to_be(real_voice: Bundle) -> None:
    assert open_bundle(real_voice.path) == real_voice
    assert (real_voice.sample_rate, real_voice.voices) == (22050, ())
    assert real_voice.defaults["hop"] == 256
    assert (real_voice.defaults["overlap"], real_voice.defaults["flow_overlap"]) == (12, 32)
    assert 60e6 < real_voice.size < 70e6


@pytest.mark.parametrize("chunk", [1, 24, 100, 128])
def test_streamed_is_whole(engine: Engine, chunk: int) -> None:
    request = Request("a", TEXTS[0] if chunk == 1 else TEXTS[1], seed=3)
    whole = speak(engine, request).samples
    pieces = [e.audio for e in stream(engine, replace(request, chunk_frames=chunk)) if e.audio]
    assert len(pieces) > 1
    assert np.abs(join(pieces).samples - whole).max() < 1e-5


@pytest.mark.parametrize("scales", [STILL, {}], ids=["still", "noisy"])
@pytest.mark.parametrize("window", [64, 384])
def test_windows_are_the_whole(real_voice: Bundle, scales: dict[str, float], window: int) -> None:
    """A sentence of several windows, against flow and decoder in one piece each."""
    request = Request("a", " ".join(TEXTS[2:] * 2).replace(". When", " when"), seed=5, **scales)
    defaults = {key: value for key, value in real_voice.defaults.items() if key != "flow_overlap"}
    with Engine(replace(real_voice, defaults={**defaults, "window": 10**6}), RuntimeOptions(threads=1)) as opened:
        whole = speak(opened, request).samples
    assert len(whole) > 2 * 384 * 256
    with Engine(replace(real_voice, defaults={**real_voice.defaults, "window": window})) as opened:
        for chunk in (0, 32):
            assert np.abs(speak(opened, replace(request, chunk_frames=chunk)).samples - whole).max() < 1e-5


def test_neighbours_change_nothing(engine: Engine) -> None:
    """Sums over a padded batch are taken in another order; durations must not tip over for that."""
    requests = [Request(str(k), text, seed=k) for k, text in enumerate(TEXTS)]
    alone = {r.id: speak(engine, r).samples for r in requests}
    for request in requests:
        engine.add(request)
    together = {e.request_id: e.audio for _ in range(3) if not engine.idle for e in engine.step() if e.audio}
    for name, samples in alone.items():
        assert together[name].samples.shape == samples.shape
        assert np.abs(together[name].samples - samples).max() < 1e-3
        assert error_db(together[name].samples, samples) < -80


def test_piper_tts_speaks_the_exported_voice(engine: Engine, exported: list[Path]) -> None:
    reference = pytest.importorskip("piper")
    loaded = reference.PiperVoice.load(exported[0])
    still = reference.SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    for text in TEXTS:
        samples = np.concatenate([chunk.audio_float_array for chunk in loaded.synthesize(text, still)])
        assert error_db(samples, speak(engine, Request("a", text, **STILL)).samples) < CLOSE_DB


def test_sherpa_onnx_speaks_the_exported_voice(engine: Engine, exported: list[Path]) -> None:
    sherpa = pytest.importorskip("sherpa_onnx")
    phonemize = pytest.importorskip("piper").PiperVoice.load(exported[0]).phonemize
    model, _, tokens = map(str, exported)
    vits_config = sherpa.OfflineTtsVitsModelConfig(model=model, tokens=tokens, noise_scale=0.0, noise_scale_w=0.0)
    config = sherpa.OfflineTtsConfig(model=sherpa.OfflineTtsModelConfig(vits=vits_config, num_threads=2))
    assert config.validate()
    loaded = sherpa.OfflineTts(config)
    assert (loaded.sample_rate, loaded.num_speakers) == (22050, 1)
    for text in TEXTS:
        wanted = sherpa.GenerationConfig()
        wanted.silence_scale = 1.0  # as the voice made them
        wanted.phoneme_codepoints = [[ord(p) for p in sentence] for sentence in phonemize(text)]
        samples = np.array(loaded.generate(text, wanted).samples, np.float32)
        assert error_db(samples, speak(engine, Request("a", text, **STILL)).samples) < CLOSE_DB


def test_the_exported_voice_has_the_original_signature(real_model: Path, exported: list[Path]) -> None:
    def signature(path: Path) -> list[tuple[str, str]]:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [(i.name, i.type) for i in (*session.get_inputs(), *session.get_outputs())]

    assert signature(exported[0]) == signature(real_model)
    assert exported[0].stat().st_size < 1.02 * real_model.stat().st_size
