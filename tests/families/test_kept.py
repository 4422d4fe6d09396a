"""A narrower cache: what it costs in frames, what it saves in bytes, and that it is refused where it costs too much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from families.transformer_maker import READING, make
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.settings import parse
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine
from vivace.families import _kept, transformer_mel
from vivace.families._graph_builder import Builder, Plain, floats
from vivace.passes import kv_cache, weights_int8

TEXTS = ("hello there.", "a b.", "this is a longer text of words.")
SHARE = {"fp16": 1 / 2, "int8": (1 + 4 / 8) / 4}  # of float32, with a scale for the 8 numbers of a head


@pytest.fixture(scope="module", params=["the challenge's", "reading"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("model")
    changes = READING if request.param == "reading" else {}
    return transformer_mel.import_(make(folder, **changes), folder / "bundle")


def cached(bundle: Bundle, out: Path, **given: object) -> Bundle:
    return kv_cache.apply(bundle, out, parse(kv_cache.Settings, given, "kv_cache"), Context(lambda stage: []))


def spoken(bundle: Bundle, batch: int = 1) -> dict[str, np.ndarray]:
    """Every text, `batch` at once."""
    found: dict[str, list[np.ndarray]] = {text: [] for text in TEXTS}
    with Engine(bundle, RuntimeOptions(threads=1), max_batch=batch) as engine:
        for text in TEXTS:
            engine.add(Request(text, text))
        while not engine.idle:
            for event in engine.step():
                assert not event.error
                found[event.request_id] += [event.audio.samples] if event.audio else []
    return {text: np.concatenate(pieces) for text, pieces in found.items()}


def opened(bundle: Bundle) -> tuple[int, int]:
    """The bytes that one row keeps, and the rows that there is memory for, if a row may have many steps."""
    longer = {**bundle.defaults, "kv_mb": 64, "max_steps": 10_000}
    child = bundle.derive(bundle.path.with_name(f"{bundle.path.name} longer"), None, defaults=longer)
    with Engine(child, RuntimeOptions(threads=1)) as engine:
        engine.add(Request("a", "hello"))
        for _ in range(3):
            engine.step()
        return engine._model._cache.bytes, engine._model.most_rows


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_are_close_and_small(model: Bundle, tmp_path: Path, precision: str) -> None:
    exact, narrow = cached(model, tmp_path / "exact"), cached(model, tmp_path / "narrow", precision=precision)
    assert narrow.stage("step").precision == f"fp32, {precision} cache"
    assert narrow.history[-1].settings["precision"] == precision
    whole, found = spoken(exact), spoken(narrow)
    for text in TEXTS:
        assert 0 < np.abs(found[text] - whole[text]).max() < {"fp16": 2e-3, "int8": 0.05}[precision]
    (wide, few), (thin, many) = opened(exact), opened(narrow)
    assert thin == SHARE[precision] * wide
    assert few == 64_000_000 // (10_000 * (4 * 2 * 2 * 32) + 8 * 2 * 32 * 512)  # two layers; and 512 tokens
    assert many == int(64_000_000 / (10_000 * (4 * 2 * 2 * 32) * SHARE[precision] + 8 * 2 * 32 * 512))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_batched_is_single(model: Bundle, tmp_path: Path, precision: str) -> None:
    """But where the last bit of a sum tips a rounding: then by one step of one number."""
    narrow = cached(model, tmp_path / "narrow", precision=precision)
    alone, together = spoken(narrow), spoken(narrow, 3)
    for text in TEXTS:
        assert np.abs(together[text] - alone[text]).max() < {"fp16": 1e-4, "int8": 1e-3}[precision]


def test_what_is_too_coarse_is_refused(model: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"in int8 .* \(at most 0\.0001\): int8 is too coarse for this .* more bits"):
        cached(model, tmp_path / "narrow", precision="int8", tolerance=1e-4)
    with pytest.raises(UsageError, match="choose from fp32, fp16, int8"):
        cached(model, tmp_path / "narrow", precision="int4")
    assert not (tmp_path / "narrow").exists()


def test_keys_whose_peak_hides_the_rest_are_refused(tmp_path: Path) -> None:
    """One number of every head is so large that int8 leaves nothing of the others."""
    path = make(tmp_path)
    weights = load_file(path / "model.safetensors")
    for k in range(2):
        weights[f"decoder.layers.{k}.self_attn.in_proj_bias"][32:64:8] = 2000
    save_file(weights, path / "model.safetensors")
    bundle = transformer_mel.import_(path, tmp_path / "bundle")
    assert cached(bundle, tmp_path / "exact").stage("step").precision == "fp32"
    with pytest.raises(UsageError, match="int8 is too coarse"):
        cached(bundle, tmp_path / "narrow", precision="int8")


def test_a_decoder_that_looks_ahead_is_told_so_in_any_precision(tmp_path: Path) -> None:
    bundle = transformer_mel.import_(make(tmp_path, causal=False), tmp_path / "bundle")
    with pytest.raises(UsageError, match="not causal"):
        cached(bundle, tmp_path / "narrow", precision="int8")


def test_later_passes_keep_the_label_and_the_types(model: Bundle, tmp_path: Path) -> None:
    narrow = cached(model, tmp_path / "narrow", precision="int8")
    given = parse(weights_int8.Settings, {"stages": ["step"]}, "weights_int8")
    both = weights_int8.apply(narrow, tmp_path / "both", given, Context(lambda stage: []))
    assert both.stage("step").precision == "mixed int8, int8 weights, int8 cache"
    kept = both.stage("step").inputs
    assert {kept[name].dtype for name in ("key.0", "value.1")} == {"int8"}
    assert json.loads((both.path / "manifest.json").read_text(encoding="utf-8"))["stages"]
    assert np.isfinite(spoken(both)[TEXTS[0]]).all()


def attention() -> onnx.ModelProto:
    """One step of attention: 2 heads of 4."""
    g = Builder({"at.out_proj.weight": np.eye(8, dtype=np.float32), "at.out_proj.bias": np.zeros(8, np.float32)}, 8, 2)
    for name in ("key", "value"):
        g.add("Identity", name, [f"fresh_{name}"], f"new.{name}")
    made = g.cached("at", "query", ("new.key", "new.value"), ("key", "value"), "bias")
    g.add("Identity", "made", [made], "made")
    key, value = ("batch", 2, 4), ("batch", 2)
    inputs = [floats("query", "batch", 2, 1, 4), floats("bias", "batch", 1, 1, "room")]
    inputs += [floats("fresh_key", *key, 1), floats("fresh_value", *value, 1, 4)]
    inputs += [floats("key", *key, "room"), floats("value", *value, "room", 4)]
    outputs = [floats("made", "batch", 1, 8), floats("new.key", *key, 1), floats("new.value", *value, 1, 4)]
    return g.model("attention", inputs, outputs)


WIDE, NARROW = Plain(attention()), Plain(_kept.narrowed(attention(), "int8"))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(-20, 3), st.booleans())
def test_what_is_kept_in_int8_is_off_by_half_a_step(seed: int, magnitude: float, zero: bool) -> None:
    """And a step that reads what it kept gives what attention gives of the rounded numbers."""
    rng = np.random.default_rng(seed)

    def drawn(*size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    scale = np.float32(0 if zero else 2.0**magnitude)
    sizes, along = {"key": (3, 2, 4, 1), "value": (3, 2, 1, 4)}, {"key": 3, "value": 2}
    query = {"query": drawn(3, 2, 1, 4)}
    nothing = {"bias": np.zeros((3, 1, 1, 0), np.float32)}
    nothing |= {"key": np.zeros((3, 2, 4, 0), np.int8), "value": np.zeros((3, 2, 0, 4), np.int8)}
    nothing |= {f"{name}.scale": np.zeros((3, 2, 1, 0), np.float32) for name in sizes}
    cache: dict[str, list[np.ndarray]] = {name: [] for name in nothing if name != "bias"}
    rounded: dict[str, list[np.ndarray]] = {name: [] for name in sizes}
    for _ in range(5):
        fresh = {name: drawn(*size) * scale for name, size in sizes.items()}
        made = NARROW.run({**query, **nothing, **{f"fresh_{name}": value for name, value in fresh.items()}})
        for name in cache:
            cache[name].append(made[f"new.{name}"])
        for name, value in fresh.items():
            back = made[f"new.{name}"] * made[f"new.{name}.scale"]
            peak = np.abs(value).max(axis=5 - along[name], keepdims=True)
            assert np.all(np.abs(back - value) <= peak / 254 * 1.001 + 1e-12)
            rounded[name].append(back)
    now = {"fresh_key": drawn(3, 2, 4, 1), "fresh_value": drawn(3, 2, 1, 4) * scale}
    now |= {**query, "bias": np.zeros((3, 1, 1, 5), np.float32)}
    whole = {name: np.concatenate(parts, along[name]) for name, parts in rounded.items()}
    found = NARROW.run({**now, **{name: np.concatenate(parts, along.get(name, 3)) for name, parts in cache.items()}})
    scores = np.concatenate([query["query"] @ now["fresh_key"], in_steps(query["query"], 63) @ whole["key"]], 3)
    share = np.exp(scores - scores.max(3, keepdims=True))
    share /= share.sum(3, keepdims=True)
    sizes_of_values = np.concatenate(cache["value.scale"], 3)
    values = whole["value"] / np.swapaxes(sizes_of_values, 2, 3)
    mixed = in_steps(share[..., 1:] * sizes_of_values, 127) @ values + share[..., :1] * now["fresh_value"]
    made = np.swapaxes(mixed, 1, 2).reshape(3, 1, 8)
    one_step = np.abs(share[..., 1:] * sizes_of_values).max()  # 1/127 of the largest share, of a value of 127
    assert np.allclose(found["made"], made, rtol=1e-3, atol=2 * one_step + 1e-12)


def in_steps(numbers: np.ndarray, largest: int) -> np.ndarray:
    """Rounded to whole steps, of which the largest number of a row has so many."""
    step = np.maximum(np.abs(numbers).max(axis=3, keepdims=True), 1e-12) / largest
    return np.round(numbers / step) * step
